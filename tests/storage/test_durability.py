"""Which commits wait for the disk: all but those that a crash may take back."""

from __future__ import annotations

from datetime import UTC, datetime

from service.domain.ids import new_id
from service.storage.database import Database
from service.storage.messages import Batch
from service.storage.outbox import DeliveryResult
from service.storage.queue import Move, Settlement
from service.storage.receipts import News
from tests import rows
from tests.gateway import migrated_database
from tests.storage.conftest import Store, store_over

# A deferred trigger runs at the commit, so it sees the setting by which the commit goes.
_WATCH = """
CREATE TABLE commits (at int GENERATED ALWAYS AS IDENTITY, waits text);
CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO commits (waits) VALUES (current_setting('synchronous_commit'));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER noted AFTER INSERT OR UPDATE ON messages
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_commit();
CREATE CONSTRAINT TRIGGER noted AFTER INSERT OR UPDATE ON attempts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_commit();
CREATE CONSTRAINT TRIGGER noted AFTER INSERT OR UPDATE ON webhook_deliveries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_commit();
"""


async def commits(store: Store) -> set[str]:
    """How the commits since the last look went."""
    seen = await store.database.fetch("SELECT waits FROM commits")
    await store.database.execute("DELETE FROM commits")
    assert seen
    return {row["waits"] for row in seen}


async def test_on_a_messages_way_all_but_claims_and_results_of_webhooks_wait_for_the_disk(
    postgres: str, template: str
) -> None:
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn)
        try:
            async with database.writing() as connection:
                await connection.execute(_WATCH)
            store = store_over(database, await rows.a_client(database))
            worker_id = await store.worker()

            message_id = await store.add(callback_url="http://shop.example/hook")
            assert await commits(store) == {"on"}, "an accept"

            bulk = Batch(new_id(), store.client_id, 0, b"{}")
            await store.messages.add_batch(bulk, [rows.a_message(store.client_id, to="+15555550101")], None)
            assert await commits(store) == {"on"}, "a bulk"

            await store.messages.cancel(await store.add(), store.client_id)
            assert await commits(store) == {"on"}, "a cancel"

            await store.claim(worker_id)
            assert await commits(store) == {"off"}, "a claim"

            attempt_id = await store.begin(worker_id, message_id)
            assert await commits(store) == {"on"}, "an attempt"

            await store.queue.settle(Settlement(message_id, worker_id, Move.SENT, attempt_id, "accepted"))
            assert await commits(store) == {"on"}, "a settlement"

            news = News("primary", attempt_id, "m-1", "delivered", None, None, datetime.now(UTC))
            await store.receipts.apply(news)
            assert await commits(store) == {"on"}, "a receipt, with its webhook"

            [webhook] = await rows.claim_webhooks(store.outbox, worker_id)
            assert await commits(store) == {"off"}, "a claim of a webhook"

            await store.outbox.settle(DeliveryResult(webhook.id, worker_id, "delivered", None, 204, None))
            assert await commits(store) == {"off"}, "a webhook's result"
        finally:
            await database.close()
