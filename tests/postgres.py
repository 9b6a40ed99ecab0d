"""One real PostgreSQL for the test session, and a fresh database for whoever needs one."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from service.storage.embedded import EmbeddedPostgres


def postgres_for_tests(data_dir: Path) -> EmbeddedPostgres:
    """The server of the product, as it is: the gateway refuses one that does not wait for the disk."""
    return EmbeddedPostgres(data_dir)


async def create_database(admin_dsn: str, template: str | None = None) -> str:
    """Creates a database with a random name, as a copy of `template` if given, and returns its DSN.

    Nobody may be connected to the template meanwhile.
    """
    name = f"test_{secrets.token_hex(8)}"
    # Copying files halves the time, since this server does not sync them.
    await _execute(admin_dsn, f"CREATE DATABASE {name} TEMPLATE {template or 'template1'} STRATEGY FILE_COPY")
    return urlunsplit(urlsplit(admin_dsn)._replace(path=f"/{name}"))


async def drop_database(admin_dsn: str, dsn: str) -> None:
    """Drops the database of `dsn`, and ends whatever is still connected to it."""
    await _execute(admin_dsn, f"DROP DATABASE {database_name(dsn)} WITH (FORCE)")


def database_name(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


async def _execute(admin_dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(admin_dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
