"""Which database a command works on, and whether its schema fits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, OperationalError

from service.cli.secret_files import kept, new_secret_key
from service.errors import ConfigurationError
from service.settings import Environment
from service.storage import migrate
from service.storage.embedded import EmbeddedPostgres


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
    """
    if environment.database_url is not None:
        yield environment
        return
    async with EmbeddedPostgres(environment.data_dir) as dsn:
        yield with_secret_key(replace(environment, database_url=dsn))


@asynccontextmanager
async def with_any_database(environment: Environment) -> AsyncIterator[Environment]:
    """As `with_database`, but where a living gateway runs the embedded PostgreSQL, that one is joined."""
    if environment.database_url is not None:
        await require_newest(environment.database_url)
        yield environment
        return
    running = EmbeddedPostgres(environment.data_dir).running()
    if running is not None:
        yield with_secret_key(replace(environment, database_url=running))
        return
    async with EmbeddedPostgres(environment.data_dir) as dsn:
        await bring_up_to_date(dsn)
        yield with_secret_key(replace(environment, database_url=dsn))


async def bring_up_to_date(dsn: str) -> None:
    """Run the migrations that are pending, if any.

    Raises:
        ConfigurationError: the database cannot be used.
    """
    if await _pending(dsn):
        try:
            await asyncio.to_thread(migrate.migrate, dsn)
        except (CommandError, OperationalError) as error:
            raise _unusable(error) from error


async def require_newest(dsn: str) -> None:
    """Check that no migration is pending.

    Raises:
        ConfigurationError: one is, or the database cannot be used.
    """
    if await _pending(dsn):
        raise ConfigurationError("The database misses migrations: run `sms-gateway migrate` first.")


async def _pending(dsn: str) -> bool:
    try:
        return await asyncio.to_thread(migrate.pending, dsn)
    except (ArgumentError, OperationalError) as error:
        raise _unusable(error) from error


def _unusable(error: Exception) -> ConfigurationError:
    said = str(error.orig if isinstance(error, OperationalError) else error).strip().partition("\n")[0]
    return ConfigurationError(f"The database of SMS_GATEWAY_DATABASE_URL cannot be used: {said}")
