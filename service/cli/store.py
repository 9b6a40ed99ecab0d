"""Which database a command works on, and whether its schema fits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from service.cli.secret_files import kept, new_secret_key
from service.environment import Environment
from service.errors import ConfigurationError, StoreError
from service.storage.database import Database
from service.storage.embedded import EmbeddedPostgres
from service.storage.schema import newest_version

_ASK_EVERY_S: Final = 1.0


def with_secret_key(environment: Environment) -> Environment:
    """`environment` with the secret key of its data folder, made at first, unless one is given."""
    if environment.secret_key is not None:
        return environment
    return replace(environment, secret_key=kept(environment.data_dir / "secret-key", new_secret_key))


@asynccontextmanager
async def with_database(environment: Environment) -> AsyncIterator[Environment]:
    """`environment` with a database: the given one, else the embedded PostgreSQL while the body runs.

    Raises:
        ConfigurationError: the embedded PostgreSQL cannot run, or a living gateway uses it.
        StoreError: it ended before the body did, which was cancelled for that.
    """
    if environment.database_url is not None:
        yield environment
    else:
        environment = with_secret_key(environment)
        server = EmbeddedPostgres(environment.data_dir)
        async with server as dsn, _ending_with(server):
            yield replace(environment, database_url=dsn)


@asynccontextmanager
async def _ending_with(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """Ends the body when the server ends: its port and password are gone, so nothing could go on by itself.

    Raises:
        StoreError: that happened.
    """
    body = asyncio.current_task()
    assert body is not None  # noqa: S101 - a context manager is entered by a task
    end = asyncio.create_task(server.ended())
    end.add_done_callback(lambda ended: None if ended.cancelled() else body.cancel("the embedded PostgreSQL ended"))
    try:
        yield
    except (asyncio.CancelledError, StoreError) as error:
        if end.done():
            body.uncancel()
            raise end.result() from error
        raise
    finally:
        end.cancel()


@asynccontextmanager
async def with_any_database(environment: Environment) -> AsyncIterator[Environment]:
    """As `with_database`, but where a living gateway runs the embedded PostgreSQL, that one is joined."""
    if environment.database_url is not None:
        await require_newest(environment.database_url)
        yield environment
        return
    running = EmbeddedPostgres(environment.data_dir).running()
    if running is not None:
        yield replace(with_secret_key(environment), database_url=running)
        return
    async with with_database(environment) as complete:
        await bring_up_to_date(str(complete.database_url))
        yield complete


async def bring_up_to_date(dsn: str) -> None:
    """Run the migrations that are pending, if any. The newer schema of a later release is left alone.

    Raises:
        ConfigurationError: PostgreSQL refuses a migration.
        StoreError: the database does not answer.
    """
    if await _outdated(dsn):
        from service.storage.migrate import migrate  # noqa: PLC0415 - 30 MB that `serve` and `worker` need not hold

        await asyncio.to_thread(migrate, dsn)


async def require_newest(dsn: str) -> None:
    """Check that no migration is pending.

    Raises:
        ConfigurationError: one is.
        StoreError: the database does not answer.
    """
    if await _outdated(dsn):
        raise ConfigurationError("The database misses migrations: run `sms-gateway migrate` first.")


async def await_newest(dsn: str, within_s: float) -> None:
    """Wait until another process has run all migrations. A database that does not answer yet is waited for, too.

    Raises:
        ConfigurationError: `within_s` were not enough.
    """
    try:
        async with asyncio.timeout(within_s):
            while True:
                with suppress(StoreError):
                    if not await _outdated(dsn):
                        return
                await asyncio.sleep(_ASK_EVERY_S)
    except TimeoutError as error:
        raise ConfigurationError(
            f"Within {within_s:g} s no `sms-gateway migrate` has brought the database up to date: look at its log."
        ) from error


async def _outdated(dsn: str) -> bool:
    database = await Database.open(dsn, connections=1)
    try:
        version = await database.schema_version()
    finally:
        await database.close()
    return version is None or version < newest_version()
