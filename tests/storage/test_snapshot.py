"""Keys and clients in memory: what changes is found, and little else is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.domain.keyring import key_hash
from service.errors import StoreOverloaded
from service.storage.callers import Callers
from service.storage.clients import ClientChange, ClientStore, KeyTerms
from service.storage.database import Database
from service.storage.snapshot import Snapshot
from service.storage.sql import queries
from tests import rows
from tests.gateway import migrated_database, migrated_template
from tests.postgres import postgres_for_tests
from tests.storage.conftest import Store

KEYS = (
    "INSERT INTO api_keys (id, client_id, key_hash, hint, scopes)"
    " SELECT new_id(), $1, sha256(n::text::bytea), '', '{send}' FROM generate_series($2::int, $3::int) AS n"
)


class Watched(Database):
    """Counts what it is asked, and can be broken."""

    def begin(self) -> None:
        self.answers: list[int] = []
        self.breaks_after = 1_000_000

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        if len(self.answers) >= self.breaks_after:
            raise StoreOverloaded("down")
        found = await super().fetch(query, *arguments)
        self.answers.append(len(found))
        return found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def watched(store: Store, dsn: str) -> AsyncIterator[Watched]:  # noqa: ARG001 - `store` empties the tables
    database = await Watched.open(dsn, connections=2)
    assert isinstance(database, Watched)
    database.begin()
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(watched: Watched, clock: Clock) -> Snapshot[bytes, str]:
    return Snapshot(watched, queries("clients")["living_keys"], lambda record: record["client"], clock=clock)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def test_a_change_that_began_before_a_reading_and_is_committed_after_it_is_found_by_the_next(
    store: Store,
) -> None:
    clients, callers = ClientStore(store.database), Callers(store.database)
    await clients.add_key(store.client_id, "sk_late", KeyTerms(["send"]))
    other = await clients.add_key(store.client_id, "sk_other", KeyTerms(["send"]))
    await callers.fill()
    async with store.database.writing() as connection, connection.transaction():
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1", key_hash("sk_late"))
        await clients.revoke_key(other)
        await callers.follow()
        assert await callers.of_key(key_hash("sk_late")) is not None
        assert await callers.of_key(key_hash("sk_other")) is None
        await clients.add_key(store.client_id, "sk_third", KeyTerms(["send"]))
        await callers.follow()
    await callers.follow()
    assert await callers.of_key(key_hash("sk_late")) is None


async def test_only_changes_are_read_and_the_use_of_a_key_is_none(
    store: Store, watched: Watched, keys: Snapshot[bytes, str]
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 40)
    await keys.fill()
    await Callers(store.database).note_use([key_hash(str(number)) for number in range(1, 41)])
    assert len(await store.database.fetch("SELECT FROM api_keys WHERE last_used_at IS NOT NULL")) == 40
    watched.answers.clear()
    await keys.follow()
    await store.database.execute("UPDATE api_keys SET scopes = '{read}' WHERE key_hash = $1", key_hash("7"))
    await keys.follow()
    await keys.follow()
    assert watched.answers == [1, 1, 1], "one row with the snapshot only; the changed one; the snapshot again"
    assert len(keys) == 40


async def test_a_change_of_a_client_is_one_of_all_its_keys(store: Store) -> None:
    clients, callers = ClientStore(store.database), Callers(store.database)
    for number in range(3):
        await clients.add_key(store.client_id, f"sk_{number}", KeyTerms(["send"], countries=["DE", "GB"]))
    await callers.fill()
    await clients.set_client("shop", ClientChange(countries=["GB", "US"], special_rates=True))
    await callers.follow()
    for number in range(3):
        principal = await callers.of_key(key_hash(f"sk_{number}"))
        assert principal is not None
        assert (principal.countries, principal.special_rates) == (frozenset({"GB"}), True)
    client = await callers.client("shop")
    assert client is not None
    assert (client.countries, client.scopes) == (frozenset({"GB", "US"}), frozenset())
    assert await callers.client("nobody") is None


async def test_many_rows_and_many_changes_are_read_in_pages(
    store: Store, watched: Watched, keys: Snapshot[bytes, str]
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 600)
    await keys.fill()
    assert len(keys) == 600
    await store.database.execute(KEYS, store.client_id, 601, 1300)
    await store.database.execute("UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1", key_hash("1"))
    await keys.follow()
    assert len(keys) == 1299
    assert max(watched.answers) <= 250


async def test_wrong_keys_are_looked_up_together(watched: Watched, keys: Snapshot[bytes, str]) -> None:
    await keys.fill()
    watched.answers.clear()
    found = await asyncio.gather(*(keys.find(key_hash(f"wrong-{number}")) for number in range(200)))
    assert found == [None] * 200
    assert len(watched.answers) <= 2


async def test_a_key_is_found_before_all_have_been_read_and_what_changes_of_it_after_that(
    store: Store, watched: Watched, keys: Snapshot[bytes, str]
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 1)
    watched.breaks_after = 2
    assert await keys.find(key_hash("1")) == "shop"
    watched.breaks_after = 3
    await store.database.execute("UPDATE api_keys SET revoked_at = now()")
    await keys.follow()  # the full pass beside it fails
    assert len(keys) == 0


async def test_what_was_deleted_by_hand_goes_at_the_next_full_pass(
    store: Store, keys: Snapshot[bytes, str], clock: Clock
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 3)
    await keys.fill()
    await store.database.execute("DELETE FROM api_keys WHERE key_hash = $1", key_hash("2"))
    await keys.follow()
    assert len(keys) == 3
    clock.now_s += 301
    await keys.follow()

    async def gone() -> bool:
        return await keys.find(key_hash("2")) is None

    await until(gone)
    assert len(keys) == 2


async def test_a_full_pass_that_fails_halfway_changes_nothing_and_is_begun_again(
    store: Store, watched: Watched, keys: Snapshot[bytes, str], clock: Clock
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 300)
    await keys.fill()
    await store.database.execute("DELETE FROM api_keys WHERE key_hash = $1", key_hash("2"))
    clock.now_s += 301
    watched.breaks_after = len(watched.answers) + 3  # changes, the snapshot, one of two pages
    with pytest.raises(StoreOverloaded):
        await until(lambda: _followed(keys))
    assert len(keys) == 300
    watched.breaks_after = 1_000_000

    async def gone() -> bool:
        await keys.follow()
        return len(keys) == 299

    await until(gone)


async def _followed(keys: Snapshot[bytes, str]) -> bool:
    await keys.follow()
    return False


async def test_rows_that_a_dump_brought_from_a_busier_server_are_known_and_not_read_again_and_again(
    store: Store, watched: Watched, keys: Snapshot[bytes, str]
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 5)
    await store.database.execute("ALTER TABLE api_keys DISABLE TRIGGER USER")
    await store.database.execute("UPDATE api_keys SET changed_xid = '4000000000000'")
    await store.database.execute("ALTER TABLE api_keys ENABLE TRIGGER USER")
    await keys.fill()
    assert len(keys) == 5
    watched.answers.clear()
    await keys.follow()
    await store.database.execute("UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1", key_hash("3"))
    await keys.follow()
    assert watched.answers == [1, 1]
    assert len(keys) == 4


class Moved(Database):
    """A server in whose place another one comes."""

    def __init__(self, now: Database) -> None:
        self.now = now

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self.now.fetch(query, *arguments)


async def test_after_a_restored_backup_has_taken_transactions_back_everything_is_read_again(
    store: Store, tmp_path: Path
) -> None:
    await store.database.execute(KEYS, store.client_id, 1, 2)
    # More than a server has behind it that was just begun.
    await store.database.execute(
        "DO $$ BEGIN FOR n IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    )
    moved = Moved(store.database)
    keys: Snapshot[bytes, str] = Snapshot(moved, queries("clients")["living_keys"], lambda record: record["client"])
    await keys.fill()
    async with (
        postgres_for_tests(tmp_path / "restored") as admin,
        migrated_database(admin, await migrated_template(admin)) as dsn,
    ):
        restored = await Database.open(dsn, connections=1)
        await restored.execute(KEYS, await rows.a_client(restored), 1, 1)
        moved.now = restored
        await keys.follow()

        async def as_restored() -> bool:
            return len(keys) == 1

        await until(as_restored)
        await restored.execute("UPDATE api_keys SET revoked_at = now()")
        await keys.follow()
        assert len(keys) == 0
        await restored.close()
