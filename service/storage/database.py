"""The connection pool, and what its failures mean to a caller."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
from asyncpg import exceptions as pg
from asyncpg.pool import PoolConnectionProxy

from service.errors import CommitUnknown, ConfigurationError, GatewayError, StoreError, StoreOverloaded, Unstorable
from service.metrics import NO_SQLSTATE

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

OLDEST_VERSION = 160000
ACQUIRE_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 10.0
_ALWAYS_FOR_OTHERS = 2
_RELEASE_TIMEOUT_S = 1.0
_RENEW_EVERY_S = 1.0

DATA_ERRORS = ("22", "23")
# InternalClientError is what asyncpg says of a connection that the server ended between two of its steps.
_BROKEN = (OSError, pg.InterfaceError, pg.InternalClientError, asyncio.IncompleteReadError, TimeoutError)
UNREACHABLE = (*_BROKEN, pg.PostgresError)
"""Whatever asyncpg raises where PostgreSQL does not do as it should."""
# The statement may have been committed. Whatever else the server says, it was rolled back.
_MAYBE_STORED = ("08", "57P01", "57P02", "58", "XX")
# What stores says 25006; of unlogged tables a standby says 0A000, even to a read.
_READ_ONLY = ("25006", "0A000")


def store_error(error: BaseException) -> StoreError | None:
    """What `error`, raised by a statement, says of the store; None where PostgreSQL has nothing to do with it."""
    if isinstance(error, pg.PostgresError):
        state = error.sqlstate or ""
        if state.startswith(DATA_ERRORS):
            return Unstorable(f"PostgreSQL: SQLSTATE {state}")
        if state.startswith(_MAYBE_STORED):
            return CommitUnknown(f"PostgreSQL: SQLSTATE {state}")
        return StoreOverloaded(f"PostgreSQL: SQLSTATE {state}")
    if isinstance(error, _BROKEN):
        return CommitUnknown(f"connection to PostgreSQL: {type(error).__name__}")
    return None


# A plan that is kept outlives what it was made for: of a table that was empty (a new month is), it reads the whole one
# until the server next counts its rows. Our statements find all they need by indexes, however few rows there are.
# Measured at 300,000 queued messages, with plans made before: claim 118 -> 1.9 ms, settle 44 -> 0.5 ms. Without JIT,
# because PostgreSQL takes a plan that has no other way for an expensive one.
_PLANS_TO_KEEP = {
    "plan_cache_mode": "force_generic_plan",  # or else some are planned for each call, which takes longer than the call
    **dict.fromkeys(
        ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_material", "jit"), "off"
    ),
}
# So PgBouncer refuses them: for it they would have to be those of every connection that it lends.
_NO_SUCH_PARAMETER = "unsupported startup parameter"


def _not_counted(_: str) -> None:
    """For who does not want to know of failures."""


async def _nothing_to_reset(_: asyncpg.Connection) -> None:
    """No statement of ours changes its session, so the round trip that would reset it is saved."""


class Database:
    """A pool of connections to one PostgreSQL. Open it with `open`, close it with `close`.

    `on_error` hears of each failure: the class of its SQLSTATE (PostgreSQL's manual, appendix A), or `NO_SQLSTATE`.
    """

    def __init__(
        self, pool: asyncpg.Pool, on_error: Callable[[str], None] = _not_counted, for_accepts: int = 0
    ) -> None:
        self._pool = pool
        self._on_error = on_error
        most = pool.get_max_size()
        self._others = asyncio.Semaphore(max(most - for_accepts, min(most, _ALWAYS_FOR_OTHERS)))
        self._renewed_at_s = -math.inf

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        connections: int = 20,
        statement_cache: int = 0,
        for_accepts: int = 0,
        statements_end_s: float | None = None,
        on_error: Callable[[str], None] = _not_counted,
    ) -> Database:
        """Connect and check that commits here are durable.

        `statement_cache` prepared statements are kept by each connection. Only 0 works behind PgBouncer, where the next
        transaction may be on another connection of the server. `for_accepts` connections are kept for `accepting`.
        A statement that is given up is cancelled at the server; with `statements_end_s` the server ends it by itself
        after that time, should the request to cancel get lost. Behind PgBouncer it cannot be told so.

        Raises:
            ConfigurationError: the server is too old, its commits would not survive a crash, or it is a PgBouncer and
                `statement_cache` is not 0.
            StoreOverloaded: it cannot be reached.
        """
        end = {} if statements_end_s is None else {"statement_timeout": f"{statements_end_s * 1000:.0f}"}
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=min(2, connections),
                max_size=connections,
                command_timeout=STATEMENT_TIMEOUT_S,
                statement_cache_size=statement_cache,
                reset=_nothing_to_reset,
                server_settings={"application_name": "sms-gateway", "timezone": "UTC"}
                | (_PLANS_TO_KEEP | end if statement_cache else {}),
            )
        except pg.ClientConfigurationError as error:
            raise ConfigurationError("SMS_GATEWAY_DATABASE_URL is not like postgresql://user@host/name.") from error
        except UNREACHABLE as error:
            if statement_cache and _NO_SUCH_PARAMETER in str(error):
                raise ConfigurationError("Behind PgBouncer, set SMS_GATEWAY_STATEMENT_CACHE=0.") from error
            raise StoreOverloaded(f"PostgreSQL cannot be reached: {type(error).__name__}") from error
        database = cls(pool, on_error, for_accepts)
        try:
            await database._check_durability()
        except BaseException:
            await pool.close()
            raise
        return database

    async def _check_durability(self) -> None:
        async with self.reading() as connection:
            row = await connection.fetchrow(
                "SELECT current_setting('server_version_num')::int AS version,"
                " current_setting('synchronous_commit') AS commits, current_setting('fsync') AS fsync"
            )
        assert row is not None  # noqa: S101 - a SELECT without FROM has a row
        if row["version"] < OLDEST_VERSION:
            raise ConfigurationError("PostgreSQL 16 or newer is needed.")
        if row["commits"] == "off" or row["fsync"] == "off":
            raise ConfigurationError(
                "PostgreSQL would lose accepted messages in a crash: set fsync = on for the server and"
                " synchronous_commit = on for the gateway's role (ALTER ROLE ... SET synchronous_commit = on)."
            )

    async def close(self) -> None:
        """Close the pool, waiting a little for statements that still run."""
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Connection]:
        """A connection for statements that store something.

        Raises:
            StoreOverloaded: nothing was stored.
            CommitUnknown: the connection broke; what was sent may have been stored.
            Unstorable: PostgreSQL refused the data.
        """
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S if self._others.locked() else None):
                await self._others.acquire()
        except TimeoutError as error:
            self._count(error)
            raise StoreOverloaded("no connection to PostgreSQL is free") from error
        try:
            async with self.accepting() as connection:
                yield connection
        finally:
            self._others.release()

    @asynccontextmanager
    async def accepting(self) -> AsyncIterator[Connection]:
        """The same for batches of accepted messages, on those that are kept for them. Raises as `writing` does."""
        try:
            connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        except UNREACHABLE as error:
            self._count(error)
            raise StoreOverloaded(f"no connection to PostgreSQL: {type(error).__name__}") from error
        try:
            yield connection
        except Exception as error:
            meaning = None if isinstance(error, GatewayError) else store_error(error)
            if meaning is None:
                raise
            self._count(error)
            await self._leave_if_read_only(connection, error)
            raise meaning from error
        finally:
            await self._release(connection)

    def _count(self, error: Exception) -> None:
        state: str = getattr(error, "sqlstate", None) or NO_SQLSTATE
        self._on_error(state if state == NO_SQLSTATE else state[:2])

    async def _leave_if_read_only(self, connection: Connection, error: Exception) -> None:
        """Drop a connection that leads to what became a standby, and now and then the others: new ones may not."""
        if getattr(error, "sqlstate", None) not in _READ_ONLY:
            return
        connection.terminate()
        now_s = time.monotonic()
        if now_s >= self._renewed_at_s + _RENEW_EVERY_S:
            self._renewed_at_s = now_s
            await self._pool.expire_connections()

    async def _release(self, connection: Connection) -> None:
        with suppress(*UNREACHABLE):  # what breaks while it is being reset the pool itself ends and replaces
            await self._pool.release(connection, timeout=_RELEASE_TIMEOUT_S)

    @asynccontextmanager
    async def reading(self, within_s: float = READ_TIMEOUT_S) -> AsyncIterator[Connection]:
        """A connection for statements that store nothing, to be done `within_s`, the wait for it included.

        Raises:
            StoreOverloaded: PostgreSQL did not answer.
        """
        try:
            async with asyncio.timeout(within_s), self.writing() as connection:
                yield connection
        except CommitUnknown as error:
            raise StoreOverloaded(str(error)) from error
        except TimeoutError as error:
            self._count(error)
            raise StoreOverloaded("PostgreSQL did not answer in time") from error

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of one reading statement."""
        async with self.reading() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: Any) -> asyncpg.Record | None:
        """The first row of one reading statement."""
        async with self.reading() as connection:
            return await connection.fetchrow(query, *arguments)

    async def execute(self, query: str, *arguments: Any) -> str:
        """Run one writing statement and return its tag."""
        async with self.writing() as connection:
            return await connection.execute(query, *arguments)

    async def check_writable(self) -> None:
        """Check that the server stores: a standby does not.

        Raises:
            StoreOverloaded: it does not, or does not answer. Connections to it are replaced, as after a failed write:
                else a replica that is not ready, and so gets no writes, would never find the primary.
        """
        async with self.reading() as connection:
            if await connection.fetchval("SELECT current_setting('transaction_read_only')::boolean"):
                raise pg.ReadOnlySQLTransactionError("the server is read-only")

    async def schema_version(self) -> str | None:
        """The version that the schema has been migrated to; None where it never was."""
        async with self.reading() as connection:
            if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
                return None
            version: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
            return version
