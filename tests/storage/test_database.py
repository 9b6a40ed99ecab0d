"""What PostgreSQL's failures mean to a caller."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from service.errors import CommitUnknown, ConfigurationError, StoreError, StoreOverloaded, Unstorable
from service.metrics import NO_SQLSTATE
from service.storage.database import Database, store_error
from service.storage.embedded import EmbeddedPostgres
from service.storage.migrate import migrate
from service.storage.pacing import PacingStore
from tests import rows
from tests.gateway import migrated_database
from tests.postgres import database_name
from tests.storage.conftest import store_over

INSERT = "INSERT INTO workers (id, expires_at) VALUES (gen_random_uuid(), now())"
KILL_ME = "SELECT pg_terminate_backend(pg_backend_pid())"


@pytest.fixture
async def own(postgres: str, template: str) -> AsyncIterator[Database]:
    """A database that a test may do what it likes with."""
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=2)
        yield database
        await database.close()


async def test_a_connection_that_breaks_in_a_write_leaves_its_fate_unknown(own: Database) -> None:
    with pytest.raises(CommitUnknown):
        await own.execute(KILL_ME)
    await own.execute(INSERT)


async def test_a_connection_that_breaks_in_a_transaction_leaves_its_fate_unknown(own: Database) -> None:
    async def half_done() -> None:
        async with own.writing() as connection, connection.transaction():
            await connection.execute(INSERT)
            await connection.execute(KILL_ME)

    with pytest.raises(CommitUnknown):
        await half_done()
    assert await own.fetch("SELECT FROM workers") == []


async def test_a_connection_that_breaks_in_a_read_stores_nothing(own: Database) -> None:
    with pytest.raises(StoreOverloaded):
        await own.fetch(KILL_ME)
    assert await own.fetchrow("SELECT 1 AS one") is not None


async def test_every_caller_of_a_batch_hears_that_its_fate_is_unknown(own: Database) -> None:
    store = store_over(own, await rows.a_client(own))
    await own.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
    )
    await own.execute("CREATE TRIGGER die BEFORE INSERT ON messages EXECUTE FUNCTION die()")
    answers = await asyncio.gather(*(store.add() for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [CommitUnknown] * 3


@pytest.mark.parametrize(
    ("statement", "meaning"),
    [
        ("SELECT 1 / 0", Unstorable),
        ("INSERT INTO clients (id, name, webhook_secret) VALUES (gen_random_uuid(), NULL, '')", Unstorable),
        ("SET statement_timeout = 1; SELECT pg_sleep(5)", StoreOverloaded),
        ("SET transaction_read_only = on; " + INSERT, StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", StoreOverloaded),
        ("SELECT FROM nothing", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '0A000'; END $$", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '25P03'; END $$", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '57P05'; END $$", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE 'P0001'; END $$", StoreOverloaded),
        ("DO $$ BEGIN RAISE SQLSTATE '08006'; END $$", CommitUnknown),
        ("DO $$ BEGIN RAISE SQLSTATE '57P01'; END $$", CommitUnknown),
        ("DO $$ BEGIN RAISE SQLSTATE '57P02'; END $$", CommitUnknown),
        ("DO $$ BEGIN RAISE SQLSTATE '58030'; END $$", CommitUnknown),
        ("DO $$ BEGIN RAISE SQLSTATE 'XX000'; END $$", CommitUnknown),
    ],
)
async def test_a_state_of_postgresql_has_one_meaning(own: Database, statement: str, meaning: type[StoreError]) -> None:
    with pytest.raises(meaning) as raised:
        await own.execute(statement)
    assert isinstance(raised.value.__cause__, asyncpg.PostgresError)


async def test_what_is_not_of_postgresql_is_shown_as_it_is(own: Database) -> None:
    assert store_error(ValueError("x")) is None
    with pytest.raises(ValueError, match="a bug"):
        async with own.writing():
            raise ValueError("a bug")


async def test_our_own_errors_pass_as_they_are(own: Database) -> None:
    with pytest.raises(Unstorable, match="mine"):
        async with own.writing():
            raise Unstorable("mine")


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), asyncio.IncompleteReadError(b"", 1)])
def test_a_broken_connection_leaves_the_fate_unknown(error: Exception) -> None:
    assert isinstance(store_error(error), CommitUnknown)


async def test_without_a_connection_nothing_is_stored(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=2)
        admin = await asyncpg.connect(postgres)
        name = database_name(dsn)
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        failures = [await failure(database) for _ in range(4)]
        assert StoreOverloaded in failures
        assert set(failures) <= {StoreOverloaded, CommitUnknown}
        assert failures[-1] is StoreOverloaded
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        await admin.close()
        await database.execute(INSERT)
        await database.close()


async def failure(database: Database) -> type[BaseException]:
    with pytest.raises(StoreError) as raised:
        await database.execute(INSERT)
    return raised.type


async def test_after_closing_nothing_is_stored(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=1)
        await database.close()
        with pytest.raises(StoreOverloaded):
            await database.execute(INSERT)


async def test_a_server_that_cannot_be_reached_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(StoreOverloaded, match="cannot be reached"):
        await Database.open(f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable")


async def test_a_role_whose_commits_are_not_durable_is_refused(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn:
        admin = await asyncpg.connect(postgres)
        name = database_name(dsn)
        await admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET synchronous_commit = off")
        with pytest.raises(ConfigurationError, match="synchronous_commit"):
            await Database.open(dsn)
        await admin.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET synchronous_commit = local")
        await admin.close()
        await (await Database.open(dsn)).close()


async def test_a_url_that_is_none_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigurationError, match="SMS_GATEWAY_DATABASE_URL"):
        await Database.open("http://somewhere")


async def test_what_asyncpg_says_of_a_connection_that_ended_between_two_steps_is_of_the_store() -> None:
    assert isinstance(store_error(asyncpg.InternalClientError("another operation is in progress")), CommitUnknown)


async def test_connections_that_turned_read_only_are_replaced(postgres: str, template: str) -> None:
    """As after a failover: the old connections lead to what is a standby now, new ones to the primary."""
    async with migrated_database(postgres, template) as dsn, administered(postgres, dsn) as (admin, name):
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        database = await Database.open(dsn, connections=4)
        await asyncio.gather(*(database.execute("SELECT pg_sleep(0.05)") for _ in range(4)))
        assert set(await asyncio.gather(*(failure(database) for _ in range(4)))) == {StoreOverloaded}
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await until_it_stores(database)
        assert all(await asyncio.gather(*(stores(database) for _ in range(4))))
        await database.close()


async def test_a_server_without_a_free_connection_has_stored_nothing(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn, administered(postgres, dsn) as (admin, name):
        # Only so can a database of a server that others use too be full, and only for those who are no superusers.
        password = secrets.token_hex(8)
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' CONNECTION LIMIT 1")
        target = urlsplit(dsn)
        own = target._replace(netloc=f"{name}:{password}@{target.hostname}:{target.port}")
        try:
            first = await Database.open(urlunsplit(own), connections=1)
            second = await asyncpg.create_pool(urlunsplit(own), min_size=0, max_size=1)
            with pytest.raises(StoreOverloaded, match="TooManyConnectionsError"):
                await Database(second).fetch("SELECT 1")
            await first.close()
            assert await Database(second).fetch("SELECT 1")
            await second.close()
        finally:
            await admin.execute(f"DROP ROLE {name}")


async def test_a_read_of_a_server_that_hangs_ends_in_time(own: Database) -> None:
    with pytest.raises(StoreOverloaded, match="in time"):
        async with own.reading(within_s=0.05) as connection:
            await connection.execute("SELECT pg_sleep(60)")
    assert await own.fetch("SELECT 1")


async def test_a_statement_that_is_given_up_ends_at_the_server(own: Database) -> None:
    with pytest.raises(StoreOverloaded):
        async with own.reading(within_s=0.05) as connection:
            await connection.execute("SELECT pg_sleep(61)")
    running = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE '%pg_sleep(61)' AND state = 'active'"
    async with asyncio.timeout(30):
        while [row["n"] for row in await own.fetch(running)] != [0]:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.01)


async def test_a_server_that_was_told_so_ends_statements_by_itself(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=1, statement_cache=10, statements_end_s=0.05)
        try:
            with pytest.raises(StoreOverloaded, match="57014"):
                await database.execute("SELECT pg_sleep(60)")
        finally:
            await database.close()


async def test_connections_are_kept_for_accepts_whatever_else_is_asked(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn, AsyncExitStack() as stack:
        database = await Database.open(dsn, connections=4, for_accepts=2)
        stack.push_async_callback(database.close)
        for _ in range(2):
            await stack.enter_async_context(database.writing())
        others = [asyncio.create_task(database.fetch("SELECT 1")) for _ in range(10)]
        await asyncio.wait(others, timeout=0.1)
        for _ in range(2):
            connection = await stack.enter_async_context(database.accepting())
            assert await connection.fetchval("SELECT 1") == 1
        assert not any(task.done() for task in others)
        for task in others:
            task.cancel()
        await asyncio.wait(others)


@pytest.fixture
async def counting(postgres: str, template: str) -> AsyncIterator[tuple[Database, list[str]]]:
    """A database of a test's own, and the failures that it told of."""
    failures: list[str] = []
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=1, on_error=failures.append)
        yield database, failures
        await database.close()


Counting = tuple[Database, list[str]]


@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("SELECT 1 / 0", "22"),
        ("SET transaction_read_only = on; " + INSERT, "25"),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", "53"),
        ("DO $$ BEGIN RAISE SQLSTATE 'XX000'; END $$", "XX"),
    ],
)
async def test_a_failure_is_told_by_its_class(counting: Counting, statement: str, sqlstate: str) -> None:
    database, failures = counting
    with pytest.raises(StoreError):
        await database.execute(statement)
    assert failures == [sqlstate]


async def test_a_server_that_does_not_answer_is_told_once_and_without_a_class(counting: Counting) -> None:
    database, failures = counting
    with pytest.raises(StoreOverloaded):
        async with database.reading(within_s=0.05) as connection:
            await connection.execute("SELECT pg_sleep(60)")
    assert failures == [NO_SQLSTATE]


async def test_a_connection_that_cannot_be_had_is_told(counting: Counting) -> None:
    database, failures = counting
    await database.close()
    with pytest.raises(StoreOverloaded):
        await database.execute(INSERT)
    assert failures == [NO_SQLSTATE]


async def test_what_is_not_of_postgresql_is_not_told(counting: Counting) -> None:
    database, failures = counting
    with pytest.raises(Unstorable):
        async with database.writing():
            raise Unstorable("mine")
    with pytest.raises(ValueError, match="a bug"):
        async with database.writing():
            raise ValueError("a bug")
    assert failures == []


async def until_it_stores(database: Database) -> None:
    async with asyncio.timeout(60):
        while True:
            if await stores(database):
                return
            await asyncio.sleep(0.05)


async def stores(database: Database) -> bool:
    try:
        await database.execute(INSERT)
    except StoreError:
        return False
    return True


@asynccontextmanager
async def administered(postgres: str, dsn: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """The superuser's connection, and the name of the database of `dsn`."""
    admin = await asyncpg.connect(postgres)
    try:
        yield admin, database_name(dsn)
    finally:
        await admin.close()


async def test_a_pooler_that_refuses_our_plan_settings_is_a_matter_of_configuration() -> None:
    """As PgBouncer does; tests/journeys/test_pgbouncer.py runs a real one."""
    message = b"SFATAL\0C08P01\0Munsupported startup parameter: plan_cache_mode\0\0"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"E" + (len(message) + 4).to_bytes(4, "big") + message)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as pooler:
        dsn = f"postgresql://u@127.0.0.1:{pooler.sockets[0].getsockname()[1]}/d?sslmode=disable"
        with pytest.raises(ConfigurationError, match="SMS_GATEWAY_STATEMENT_CACHE=0"):
            await Database.open(dsn, connections=1, statement_cache=100)
        with pytest.raises(StoreOverloaded, match="cannot be reached"):
            await Database.open(dsn, connections=1)


async def test_connections_to_a_real_standby_are_left_even_where_an_unlogged_table_comes_first(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as dsn:
        await asyncio.to_thread(migrate, dsn)
    (tmp_path / "pg" / "standby.signal").touch()
    async with EmbeddedPostgres(tmp_path) as dsn:
        database = await Database.open(dsn, connections=1)
        for touch in (
            PacingStore(database).reserve({"x": 1.0}, 1, 1.0),
            database.check_writable(),
            database.execute(INSERT),
        ):
            before = await backend(database)
            with pytest.raises(StoreOverloaded):
                await touch
            assert await backend(database) != before
        admin = await asyncpg.connect(dsn)
        await admin.execute("SELECT pg_promote()")
        await admin.close()
        await database.check_writable()
        await database.execute(INSERT)
        await database.close()


async def backend(database: Database) -> int:
    row = await database.fetchrow("SELECT pg_backend_pid()")
    assert row is not None
    return int(row[0])
