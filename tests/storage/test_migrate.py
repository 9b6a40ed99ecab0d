from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from service.domain.ids import new_attempt_id, new_id, smallest_at
from service.errors import ConfigurationError
from service.storage.database import Database
from service.storage.messages import MessageStore
from service.storage.migrate import migrate
from service.storage.schema import newest_version
from tests import rows
from tests.postgres import create_database, drop_database

LOCK = 0x534D5347  # what migrations/env.py locks


@pytest.fixture
async def empty_dsn(postgres: str) -> AsyncIterator[str]:
    """A database without a schema."""
    dsn = await create_database(postgres)
    yield dsn
    await drop_database(postgres, dsn)


async def test_a_migrated_database_has_the_newest_schema(empty_dsn: str) -> None:
    database = await Database.open(empty_dsn, connections=1)
    assert await database.schema_version() is None
    assert await asyncio.to_thread(migrate, empty_dsn) == newest_version() == await database.schema_version()
    await database.close()


async def test_replicas_may_migrate_at_the_same_time_because_one_waits_for_the_other(empty_dsn: str) -> None:
    program = "import sys; from service.storage.migrate import migrate; print(migrate(sys.stdin.read()))"
    held = await asyncpg.connect(empty_dsn)
    transaction = held.transaction()
    await transaction.start()
    await held.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    replicas = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    answers = asyncio.gather(*(replica.communicate(empty_dsn.encode()) for replica in replicas))
    async with asyncio.timeout(60):
        while await held.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") < 2:
            await held.execute("SELECT pg_sleep(0.02)")
    await transaction.rollback()
    assert [out.decode().strip() for out, _ in await answers] == [newest_version()] * 2
    assert [replica.returncode for replica in replicas] == [0, 0]
    await held.close()


@pytest.mark.parametrize(
    ("version", "advice"), [("0001", "remove the data folder"), ("v9999", "newer release: use that release")]
)
async def test_a_schema_that_is_not_known_is_left_alone_with_advice(empty_dsn: str, version: str, advice: str) -> None:
    database = await Database.open(empty_dsn, connections=1)
    await database.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
    await database.execute("INSERT INTO alembic_version VALUES ($1)", version)
    with pytest.raises(ConfigurationError, match=advice):
        await asyncio.to_thread(migrate, empty_dsn)
    assert await database.schema_version() == version
    await database.close()


@pytest.mark.parametrize(
    "at", [datetime(2026, 11, 23, 9, 30, 0, 123_999, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]
)
async def test_the_database_reckons_the_bounds_of_ids_as_we_do(empty_dsn: str, at: datetime) -> None:
    await asyncio.to_thread(migrate, empty_dsn)
    database = await Database.open(empty_dsn, connections=1)
    message_id = new_id()
    row = await database.fetchrow(
        "SELECT smallest_at($1) AS smallest, first_attempt($2) AS first, last_attempt($2) AS last,"
        " smallest_at('0001-01-01') AS earliest, smallest_at('infinity') AS latest",
        at,
        message_id,
    )
    assert row is not None
    assert row["smallest"] == smallest_at(at)
    assert row["first"] <= new_attempt_id(message_id) <= row["last"]
    assert row["last"].int - row["first"].int == 2**32 - 1
    assert (row["earliest"].int, row["latest"].int >> 80) == (0, 2**48 - 1)
    await database.close()


async def test_what_a_later_version_added_is_in_every_partition_and_moves_into_one_that_is_made(empty_dsn: str) -> None:
    await asyncio.to_thread(migrate, empty_dsn)
    database = await Database.open(empty_dsn, connections=1)
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    far = UUID(int=smallest_at(datetime(2098, 5, 1, tzinfo=UTC)).int + 1)
    message = rows.a_message(await rows.a_client(database), id=far, traceparent=traceparent)
    await MessageStore(database, keep_keys=timedelta(hours=1)).add(message, None)
    found = "SELECT tableoid::regclass::text AS partition, traceparent FROM messages"
    assert [tuple(row) for row in await database.fetch(found)] == [("messages_default", traceparent)]
    await database.execute("SELECT make_partition('messages', '2098-05-01')")
    assert [tuple(row) for row in await database.fetch(found)] == [("messages_2098_05", traceparent)]
    lacking = await database.fetch(
        "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'messages'::regclass AND NOT EXISTS"
        " (SELECT FROM pg_attribute WHERE attrelid = inhrelid AND attname = 'traceparent')"
    )
    assert lacking == []
    await database.close()


async def test_a_migration_gives_up_on_a_table_that_is_in_use_and_says_what_to_do(empty_dsn: str) -> None:
    """Whoever waits for a lock is waited for by all who come after."""
    await asyncio.to_thread(migrate, empty_dsn, to="v0001")
    database = await Database.open(empty_dsn, connections=2)
    async with database.writing() as dump, dump.transaction():
        await dump.fetch("SELECT FROM messages")
        with pytest.raises(ConfigurationError, match="gave up and changed nothing"):
            await asyncio.to_thread(migrate, empty_dsn, patience="20ms")
    assert await database.schema_version() == "v0001"
    assert await asyncio.to_thread(migrate, empty_dsn) == newest_version()
    await database.close()


async def test_a_second_run_changes_nothing(empty_dsn: str) -> None:
    await asyncio.to_thread(migrate, empty_dsn)
    database = await Database.open(empty_dsn, connections=1)
    await database.execute("INSERT INTO clients (id, name, webhook_secret) VALUES (gen_random_uuid(), 'shop', '')")
    tables = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid"
    before = await database.fetch(tables)
    assert await asyncio.to_thread(migrate, empty_dsn) == newest_version()
    assert await database.fetch(tables) == before
    assert len(await database.fetch("SELECT FROM clients")) == 1
    await database.close()


async def test_ids_made_by_the_database_are_uuid_version_7_and_sort_by_time(empty_dsn: str) -> None:
    await asyncio.to_thread(migrate, empty_dsn)
    database = await Database.open(empty_dsn, connections=1)
    row = await database.fetchrow("SELECT new_id() AS id, extract(epoch FROM clock_timestamp())::float8 AS now")
    assert row is not None
    assert (row["id"].version, row["id"].variant) == (7, "specified in RFC 4122")
    assert (row["id"].int >> 80) / 1000 == pytest.approx(row["now"], abs=1)
    await database.close()


def test_a_process_that_does_not_migrate_holds_no_memory_for_it() -> None:
    program = "import sys; import service.cli.modes, service.app; print({'alembic', 'sqlalchemy'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
