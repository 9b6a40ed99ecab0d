"""Retention: texts by batches, rows by the month."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from service.domain.ids import new_attempt_id, smallest_at
from service.storage.database import Database
from service.storage.messages import Batch
from service.storage.queue import Move, Settlement
from service.storage.receipts import News
from service.storage.retention import Retention
from tests import rows
from tests.gateway import migrated_database
from tests.storage.conftest import Store, store_over

DAY = timedelta(days=1)
OLD = datetime(2024, 5, 17, 12, tzinfo=UTC)
"""A time in a month that is long past."""
TABLES = ("messages", "attempts", "receipts", "batches", "webhook_deliveries")


@pytest.fixture
async def own(postgres: str, template: str) -> AsyncIterator[Store]:
    """Stores over a database of their own: its tables change."""
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=6, statement_cache=100)
        yield store_over(database, await rows.a_client(database))
        await database.close()


def retention(store: Store, *, keep: timedelta = 90 * DAY, **texts: timedelta) -> Retention:
    ages = {"otp": timedelta(0), "transactional": 7 * DAY, "marketing": 7 * DAY} | texts
    return Retention(store.database, texts=ages, rows=keep)


async def ended(store: Store, ago: timedelta, **changes: object) -> UUID:
    """A message that ended that long ago."""
    message_id = await store.add(**changes)
    await store.database.execute(
        "UPDATE messages SET status = 'delivered', due_at = NULL, ended_at = now() - $2::interval WHERE id = $1",
        message_id,
        ago,
    )
    return message_id


async def text(store: Store, message_id: UUID) -> object:
    return (await store.row(message_id))["body"]


async def where(store: Store, table: str, row_id: UUID) -> str | None:
    """The partition that a row lies in."""
    key = "attempt_id" if table == "receipts" else "id"
    found = await store.database.fetchrow(
        f"SELECT tableoid::regclass::text AS it FROM {table} WHERE {key} = $1",  # noqa: S608 - names of our own
        row_id,
    )
    return found["it"] if found else None


async def make(store: Store, month: str) -> None:
    """The partitions of a month, as they were made when it was near."""
    for table in TABLES:
        await store.database.execute("SELECT make_partition($1, $2::text::date)", table, f"{month}-01")


async def months(store: Store) -> list[str]:
    """The months that have partitions, of whatever table."""
    found = await store.database.fetch(
        "SELECT DISTINCT right(relname, 7) AS month FROM pg_class"
        " WHERE relkind = 'r' AND relname ~ '_[0-9]{4}_[0-9]{2}$' ORDER BY 1"
    )
    return [row["month"] for row in found]


def of_that_time(number: int = 1) -> UUID:
    return UUID(int=smallest_at(OLD).int + (number << 32))


async def an_old_message(store: Store, **columns: object) -> UUID:
    """An ended message of a month long past, with its attempt, receipt, batch and webhook, each in its partition."""
    message_id = of_that_time()
    await store.add(id=message_id)
    attempt_id = new_attempt_id(message_id)
    values = {"status": "delivered", "due_at": None, "ended_at": OLD, "created_at": OLD} | columns
    names = ", ".join(f"{name} = ${place}" for place, name in enumerate(values, 2))
    await store.database.execute(f"UPDATE messages SET {names} WHERE id = $1", message_id, *values.values())  # noqa: S608 - names of our own
    await store.database.execute(
        "INSERT INTO attempts (id, message_id, provider, started_at) VALUES ($1, $2, 'p', $3)",
        attempt_id,
        message_id,
        OLD,
    )
    await store.database.execute(
        "INSERT INTO receipts (attempt_id, status, received_at) VALUES ($1, 'delivered', $2)", attempt_id, OLD
    )
    await store.messages.add_batch(Batch(message_id, store.client_id, 0, b"{}"), [], None)
    await store.database.execute("UPDATE batches SET created_at = $1", OLD)
    await a_webhook(store, message_id, message_id, created_at=OLD)
    return message_id


async def a_webhook(store: Store, webhook_id: UUID, message_id: UUID, **columns: object) -> None:
    values: dict[str, Any] = {
        "id": webhook_id,
        "client_id": store.client_id,
        "message_id": message_id,
        "target": "t",
        "status": "delivered",
        "event_at": OLD,
        "state": "delivered",
    } | columns
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await store.database.execute(
        f"INSERT INTO webhook_deliveries ({', '.join(values)}) VALUES ({places})",  # noqa: S608 - names of our own
        *values.values(),
    )


async def counts(store: Store) -> dict[str, int]:
    return {table: len(await store.database.fetch(f"SELECT FROM {table}")) for table in TABLES}


class TestTexts:
    async def test_a_text_goes_when_its_time_is_over_and_not_before(self, store: Store) -> None:
        late, early = (
            await ended(store, 7 * DAY + timedelta(seconds=5)),
            await ended(store, 7 * DAY - timedelta(minutes=1)),
        )
        living = await store.add()
        assert await retention(store).purge_texts(1000) == 1
        assert [await text(store, one) for one in (late, early, living)] == [None, "hello", "hello"]

    async def test_each_traffic_has_a_time_of_its_own(self, store: Store) -> None:
        ids = [await ended(store, 2 * DAY, traffic=traffic) for traffic in ("otp", "transactional", "marketing")]
        await retention(store, marketing=DAY).purge_texts(1000)
        assert [await text(store, one) for one in ids] == [None, "hello", None]

    async def test_a_shorter_time_holds_for_what_was_kept_under_a_longer_one(self, store: Store) -> None:
        await ended(store, 30 * DAY)
        kept = await ended(store, 2 * DAY)
        assert await retention(store).purge_texts(1000) == 1
        assert await retention(store, transactional=DAY).purge_texts(1000) == 1
        assert await text(store, kept) is None

    async def test_what_was_looked_at_once_is_not_looked_at_again(self, store: Store) -> None:
        await retention(store).purge_texts(1000)
        passed_over = await ended(store, 20 * DAY)
        assert await retention(store).due_texts() == []
        assert await retention(store).purge_texts(1000) == 0
        assert await text(store, passed_over) == "hello"

    async def test_it_goes_on_where_it_stopped(self, store: Store) -> None:
        await store.database.execute(
            "INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments,"
            " status, send_at, expires_at, ended_at)"
            " SELECT new_id(), $1, '', '', 'x', 'marketing', '', '', 1, 'failed', now(), now(),"
            " now() - interval '9 days' + n / 10 * interval '1 second' FROM generate_series(1, 1100) AS n",
            store.client_id,
        )
        purge = retention(store)
        assert [one.count for one in await purge.due_texts()] == [1100]
        assert [await purge.purge_texts(500) for _ in range(4)] == [500, 500, 100, 0]
        assert await store.database.fetch("SELECT FROM messages WHERE body IS NOT NULL") == []

    async def test_one_process_does_it_and_the_others_leave_it(self, store: Store) -> None:
        await ended(store, 8 * DAY)
        async with store.database.writing() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", 0x534D5350)
            assert await retention(store).purge_texts(1000) == 0
        assert await retention(store).purge_texts(1000) == 1

    @pytest.mark.parametrize(("traffic", "left"), [("otp", None), ("transactional", "hello")])
    async def test_the_statement_that_ends_an_otp_takes_its_text(
        self, store: Store, traffic: str, left: str | None
    ) -> None:
        cancelled = await store.add(traffic=traffic)
        await store.messages.cancel(cancelled, store.client_id)
        failed, delivered = [await store.add(traffic=traffic) for _ in range(2)]
        worker_id = await store.worker()
        await store.database.execute(
            "UPDATE messages SET status = 'sending', worker_id = $1, due_at = NULL WHERE id <> $2", worker_id, cancelled
        )
        await store.queue.settle(Settlement(failed, worker_id, Move.FAIL, reason="expired"))
        attempt_id = await store.begin(worker_id, delivered)
        sent = Settlement(delivered, worker_id, Move.SENT, attempt_id=attempt_id, outcome="accepted")
        await store.queue.settle(sent)
        assert await text(store, delivered) == "hello", "it may still have to be sent again"
        await store.receipts.apply(News("primary", attempt_id, None, "delivered", 0, None, None))
        ends = [await store.row(one) for one in (cancelled, failed, delivered)]
        assert [(row["status"], row["body"]) for row in ends] == [
            ("cancelled", left), ("failed", left), ("delivered", left),
        ]  # fmt: skip

    async def test_a_late_delivered_corrects_a_message_without_text(self, store: Store) -> None:
        worker_id = await store.worker()
        message_id = await store.claimed(worker_id)
        attempt_id = await store.begin(worker_id, message_id)
        await store.database.execute(
            "UPDATE messages SET status = 'undelivered', reason = 'no_receipt', worker_id = NULL, body = NULL,"
            " ended_at = now()"
        )
        applied = await store.receipts.apply(News("primary", attempt_id, None, "delivered", 0, None, None))
        assert applied.became == "delivered"
        assert await text(store, message_id) is None


class TestPartitions:
    async def test_a_message_and_all_that_belongs_to_it_lie_in_the_partitions_of_its_month(self, own: Store) -> None:
        await make(own, "2024-05")
        message_id = await an_old_message(own)
        [attempt] = await rows.attempts(own.database, message_id)
        for table, row_id in zip(
            TABLES, [message_id, attempt["id"], attempt["id"], message_id, message_id], strict=True
        ):
            assert await where(own, table, row_id) == f"{table}_2024_05"

    async def test_new_rows_find_partitions_of_this_month_and_the_next_is_there_too(self, own: Store) -> None:
        message_id = await own.add()
        this = datetime.now(UTC).replace(day=1)
        following = this + timedelta(days=31)
        assert await where(own, "messages", message_id) == f"messages_{this:%Y_%m}"
        assert await months(own) == [f"{this:%Y_%m}", f"{following:%Y_%m}"]
        assert await retention(own).make_partitions() == 0

    async def test_a_missing_partition_is_made_and_takes_in_what_had_to_go_elsewhere(self, own: Store) -> None:
        this = f"{datetime.now(UTC):%Y_%m}"
        await own.database.execute(f"DROP TABLE messages_{this}")
        message_id = await own.add()
        assert await where(own, "messages", message_id) == "messages_default"
        assert await retention(own).make_partitions() == 1
        assert await where(own, "messages", message_id) == f"messages_{this}"
        assert [one.id for one in await own.claim(await own.worker())] == [message_id]

    async def test_what_is_too_much_to_move_stays_and_the_partition_begins_behind_it(self, own: Store) -> None:
        """So nobody waits for the move, and the default partition grows no more."""
        this = f"{datetime.now(UTC):%Y_%m}"
        await own.database.execute(f"DROP TABLE receipts_{this}")
        await own.database.execute(
            "INSERT INTO receipts (attempt_id, status) SELECT new_id(), '' FROM generate_series(1, 10001)"
        )
        soon = UUID(int=smallest_at(datetime.now(UTC) + timedelta(minutes=2)).int)
        await own.database.execute("INSERT INTO receipts (attempt_id, status) VALUES ($1, '')", soon)
        assert await retention(own).make_partitions() == 1
        lie = await own.database.fetch(
            "SELECT tableoid::regclass::text AS it, count(*) FROM receipts GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in lie] == [(f"receipts_{this}", 1), ("receipts_default", 10001)]
        await own.database.execute("UPDATE receipts SET received_at = now() - interval '91 days'")
        await retention(own).forget_strays()
        assert (await counts(own))["receipts"] == 10002 - 500, "what stayed goes in time"

    async def test_two_replicas_may_make_them_at_the_same_time(self, own: Store) -> None:
        await own.database.execute(
            "DO $$ BEGIN " + "".join(f"DROP TABLE {t}_{datetime.now(UTC):%Y_%m};" for t in TABLES) + " END $$"
        )
        keepers = [retention(own) for _ in range(3)]
        for _ in range(3):
            await asyncio.gather(*(keeper.make_partitions() for keeper in keepers))
        assert await keepers[0].make_partitions() == 0
        assert (await where(own, "messages", await own.add())) == f"messages_{datetime.now(UTC):%Y_%m}"

    async def test_a_clock_that_is_years_off_makes_no_accept_fail(self, own: Store) -> None:
        for at in (datetime(1970, 1, 2, tzinfo=UTC), datetime(2140, 1, 1, tzinfo=UTC)):
            message_id = UUID(int=smallest_at(at).int + 1)
            await own.add(id=message_id)
            assert await where(own, "messages", message_id) == "messages_default"
        worker_id = await own.worker()
        for claimed in await own.claim(worker_id):
            await own.begin(worker_id, claimed.id)
            await own.queue.settle(Settlement(claimed.id, worker_id, Move.FAIL, reason="expired"))
        assert (await counts(own))["attempts"] == 2

    async def test_a_month_goes_with_all_that_belongs_to_it_once_it_is_old_enough(self, own: Store) -> None:
        await make(own, "2024-05")
        await an_old_message(own)
        young = await ended(own, timedelta(0))
        age = datetime.now(UTC) - datetime(2024, 6, 1, tzinfo=UTC)
        assert await retention(own, keep=age + timedelta(minutes=1)).drop_partitions() == []
        keeper = retention(own, keep=age - timedelta(minutes=1))
        assert {(one.table, one.in_use) for one in await keeper.due_partitions()} == {
            (table, False) for table in TABLES
        }
        assert {one.name for one in await keeper.drop_partitions()} == {f"{table}_2024_05" for table in TABLES}
        assert await counts(own) == {
            "messages": 1,
            "attempts": 0,
            "receipts": 0,
            "batches": 0,
            "webhook_deliveries": 0,
        }
        assert await text(own, young) == "hello"
        assert await keeper.due_partitions() == []

    @pytest.mark.parametrize(
        "columns",
        [
            {"status": "queued", "due_at": datetime.now(UTC) + 30 * DAY, "ended_at": None},
            {"status": "sending", "worker_id": UUID(int=1), "ended_at": None},
            {"status": "sending", "due_at": datetime.now(UTC) + DAY, "ended_at": None},
            {"status": "sent", "due_at": datetime.now(UTC) + DAY, "ended_at": None},
        ],
    )
    async def test_a_month_stays_while_a_message_of_it_has_not_ended(
        self, own: Store, columns: dict[str, object]
    ) -> None:
        await make(own, "2024-05")
        await an_old_message(own, **columns)
        keeper = retention(own)
        assert {one.table for one in await keeper.due_partitions() if not one.in_use} == {"webhook_deliveries"}
        assert [one.table for one in await keeper.drop_partitions()] == ["webhook_deliveries"]
        assert (await counts(own))["receipts"] == 1
        await own.database.execute("UPDATE messages SET status = 'failed', due_at = NULL, worker_id = NULL")
        assert len(await keeper.drop_partitions()) == 4

    @pytest.mark.parametrize("columns", [{"due_at": datetime.now(UTC)}, {"worker_id": UUID(int=1)}])
    async def test_a_month_stays_while_a_webhook_of_its_messages_waits(
        self, own: Store, columns: dict[str, object]
    ) -> None:
        await make(own, "2024-05")
        message_id = await an_old_message(own)
        await a_webhook(own, UUID(int=smallest_at(datetime.now(UTC)).int), message_id, state="pending", **columns)
        keeper = retention(own)
        assert [one.table for one in await keeper.drop_partitions()] == ["webhook_deliveries"]
        await own.database.execute("UPDATE webhook_deliveries SET state = 'dead', due_at = NULL, worker_id = NULL")
        assert len(await keeper.drop_partitions()) == 4

    async def test_a_month_s_webhooks_stay_while_one_of_them_waits(self, own: Store) -> None:
        await make(own, "2024-05")
        await an_old_message(own)
        await own.database.execute("UPDATE webhook_deliveries SET state = 'pending', due_at = now()")
        assert await retention(own).drop_partitions() == []

    async def test_a_dump_that_reads_everything_only_delays_it(self, own: Store) -> None:
        await make(own, "2024-05")
        await an_old_message(own)
        keeper = retention(own)
        async with own.database.reading() as dump, dump.transaction():
            await dump.execute("LOCK TABLE messages IN ACCESS SHARE MODE")
            assert [one.table for one in await keeper.drop_partitions()] == ["webhook_deliveries"]
            await own.add()
        assert len(await keeper.drop_partitions()) == 4

    async def test_a_look_that_takes_long_gives_up_while_others_wait_for_it(self, own: Store) -> None:
        """The look before the lock may take its time."""
        await make(own, "2024-05")
        await an_old_message(own)
        await own.database.execute("ALTER TABLE webhook_deliveries RENAME TO kept")
        await own.database.execute(
            "CREATE VIEW webhook_deliveries AS SELECT kept.* FROM kept, pg_sleep(0.3) WHERE pg_sleep IS NOT NULL"
        )
        assert [one.table for one in await retention(own).drop_partitions()] == []
        await own.database.execute("DROP VIEW webhook_deliveries")
        await own.database.execute("ALTER TABLE kept RENAME TO webhook_deliveries")
        assert len(await retention(own).drop_partitions()) == 5

    async def test_statements_that_were_prepared_before_go_on_after_it(self, own: Store) -> None:
        await make(own, "2024-05")
        await an_old_message(own)
        worker_id = await own.worker()
        for round_ in range(8):
            message_id = await own.claimed(worker_id)
            attempt_id = await own.begin(worker_id, message_id)
            settled = Settlement(message_id, worker_id, Move.SENT, attempt_id=attempt_id, outcome="accepted")
            assert await own.queue.settle(settled) == "sent"
            if round_ == 5:
                assert len(await retention(own).drop_partitions()) == 5
            if round_ == 6:
                await make(own, "2024-06")
        assert (await counts(own))["messages"] == 8

    async def test_old_rows_of_a_wrong_clock_go_one_by_one(self, own: Store) -> None:
        await an_old_message(own)
        assert await where(own, "messages", of_that_time()) == "messages_default"
        young = of_that_time(2)
        await own.add(id=young)
        await own.database.execute(
            "UPDATE messages SET ended_at = now(), status = 'failed', due_at = NULL WHERE id = $1", young
        )
        keeper = retention(own)
        await keeper.forget_strays()
        assert await counts(own) == {
            "messages": 1,
            "attempts": 0,
            "receipts": 0,
            "batches": 0,
            "webhook_deliveries": 0,
        }

    @pytest.mark.parametrize(
        "change", ["UPDATE messages SET ended_at = NULL", "UPDATE webhook_deliveries SET state = 'pending'"]
    )
    async def test_rows_of_a_wrong_clock_stay_while_something_waits(self, own: Store, change: str) -> None:
        await an_old_message(own)
        await own.database.execute(change)
        await retention(own).forget_strays()
        kept = await counts(own)
        assert (kept["messages"], kept["attempts"], kept["receipts"]) == (1, 1, 1)
