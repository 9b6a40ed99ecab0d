"""A gateway to test against: a migrated database, an open runtime, a key, the application on a real port."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import uvicorn
from starlette.types import ASGIApp

from service.api.connection import Connection
from service.config_file import ConfigFile
from service.environment import Environment
from service.runtime import Runtime, open_runtime
from service.settings import Settings
from service.storage.clients import KeyTerms
from service.storage.migrate import migrate
from tests.postgres import create_database, database_name, drop_database

SECRET_KEY = "test-secret-key-of-32-characters-or-more"


async def migrated_template(admin_dsn: str) -> str:
    """The name of a database with the newest schema, to copy others from: that is faster than migrating each."""
    dsn = await create_database(admin_dsn)
    await asyncio.to_thread(migrate, dsn)
    return database_name(dsn)


@asynccontextmanager
async def migrated_database(admin_dsn: str, template: str) -> AsyncIterator[str]:
    """The DSN of a fresh database, dropped at the end."""
    dsn = await create_database(admin_dsn, template)
    try:
        yield dsn
    finally:
        await drop_database(admin_dsn, dsn)


@asynccontextmanager
async def open_gateway(config_yaml: str, dsn: str, environment: Environment | None = None) -> AsyncIterator[Runtime]:
    """A runtime on the database of `dsn`."""
    environment = replace(environment or Environment(), database_url=dsn, secret_key=SECRET_KEY)
    async with open_runtime(Settings(environment, ConfigFile.parse(config_yaml, {}).config)) as runtime:
        yield runtime


async def make_key(runtime: Runtime, *scopes: str, client: str = "shop") -> str:
    """A new key with these scopes for the client of that name, made where there is none."""
    client_id, _ = await runtime.clients.ensure_client(client, runtime.keyring.seal("whsec_" + "c2VjcmV0" * 4))
    api_key = f"sk_{secrets.token_urlsafe(32)}"
    await runtime.clients.add_key(client_id, api_key, KeyTerms(list(scopes)))
    return api_key


@asynccontextmanager
async def serve(app: ASGIApp, port: int = 0, connection: type[Connection] = Connection) -> AsyncIterator[str]:
    """The base URL of the application, served on loopback."""
    # asyncio leaves Nagle's algorithm on for sockets that do not name TCP: 40 ms a request.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    config = uvicorn.Config(
        app,
        http=connection,
        log_config=None,
        lifespan="on",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    # The socket listens already, so a client that is faster than the server waits in its queue.
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listening.close()


@asynccontextmanager
async def unreachable(admin_dsn: str, dsn: str) -> AsyncIterator[None]:
    """While the body runs nobody can connect to the database of `dsn`, and who was connected is not any more."""
    name = database_name(dsn)
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
        yield
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await admin.close()
