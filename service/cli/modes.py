"""The commands that run the gateway: serve, worker, all; and migrate, which prepares its database."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Final

import typer

from service import logs
from service.app import create_app, create_worker_app
from service.cli.process import answering, listening, run
from service.cli.reload import Reloads, at_sighup, generations
from service.cli.store import await_newest, bring_up_to_date, require_newest, with_database
from service.config_file import ConfigFile
from service.environment import Environment
from service.errors import ConfigurationError, StoreError
from service.pipeline.hints import hearing, ringing
from service.pipeline.loop_watch import watching
from service.runtime import Runtime, open_runtime
from service.settings import GatewayConfig, Settings

log = logging.getLogger(__name__)

_REQUESTS_DRAIN_S: Final = 5.0
"""Requests are short, but for a look-up. Calls to providers and webhooks, which the worker waits for, are not."""


def serve() -> None:
    """Answer the HTTP API. Messages are delivered by `worker`."""
    run(_on_given_database(api=True, work=False))


def worker() -> None:
    """Deliver messages and webhooks. Answers only /healthz, /readyz and /metrics."""
    run(_on_given_database(api=False, work=True))


def all_() -> None:
    """Run `serve` and `worker` in one process, on an embedded PostgreSQL unless SMS_GATEWAY_DATABASE_URL is set."""
    run(_everything())


def migrate(
    wait: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Change nothing: wait so long for another `migrate` to do it."),
    ] = None,
) -> None:
    """Bring the database of SMS_GATEWAY_DATABASE_URL to the newest schema."""
    dsn = _database_url(Environment.read(os.environ))
    if wait is None:
        asyncio.run(bring_up_to_date(dsn))
    else:
        typer.echo(f"Waiting {wait:g} s at most for another `sms-gateway migrate`.")
        asyncio.run(await_newest(dsn, wait))
    typer.echo("The database has the newest schema.")


@asynccontextmanager
async def gateway(
    settings: Settings, listener: socket.socket, *, api: bool, work: bool, reloads: Reloads | None = None
) -> AsyncIterator[Runtime]:
    """The gateway, up while the body runs. At the end the door closes first, and what was taken in is finished.

    Both together have `drain_s`: requests have their share of it, and the worker the rest. With `reloads` it follows
    `gateway.yaml`.
    """
    environment = settings.environment
    requests_s = min(_REQUESTS_DRAIN_S, environment.drain_s / 2) if work else environment.drain_s
    environment = replace(environment, drain_s=environment.drain_s - requests_s)
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(replace(settings, environment=environment), answers=api))
        runtime.metrics.runs_as("all" if api and work else "serve" if api else "worker")
        await _make_partitions(runtime)
        await stack.enter_async_context(hearing(runtime) if work else ringing(runtime))
        app = create_app(runtime) if api else create_worker_app(runtime)
        await stack.enter_async_context(generations(runtime, work=work, turn=app.turn_to, reloads=reloads))
        await stack.enter_async_context(answering(app, listener, requests_s))
        await stack.enter_async_context(watching(runtime.metrics))
        log.info("up", extra={"url": environment.base_url, "api": api, "worker": work})
        yield runtime


async def _make_partitions(runtime: Runtime) -> None:
    """Workers do it every minute, but `serve` is not to fill the default partitions where none has run for a month."""
    try:
        await runtime.retention.make_partitions()
    except StoreError as error:
        log.warning("no partitions were made", extra={"error": str(error)})


@asynccontextmanager
async def _on_given_database(*, api: bool, work: bool) -> AsyncIterator[None]:
    environment = Environment.read(os.environ)
    dsn = _database_url(environment)
    configure_logs(environment.log_level)
    with at_sighup(partial(_read_config, environment)) as reloads:
        settings = Settings(environment, reloads.read())
        with listening(environment.host, environment.port) as listener:
            await require_newest(dsn)
            async with gateway(settings, listener, api=api, work=work, reloads=reloads):
                yield


@asynccontextmanager
async def _everything() -> AsyncIterator[None]:
    environment = Environment.read(os.environ)
    configure_logs(environment.log_level)
    with at_sighup(partial(_read_config, environment)) as reloads:
        config = reloads.read()
        with listening(environment.host, environment.port) as listener:
            async with with_database(environment) as complete:
                await bring_up_to_date(_database_url(complete))
                async with gateway(Settings(complete, config), listener, api=True, work=True, reloads=reloads):
                    yield


def _read_config(environment: Environment) -> GatewayConfig:
    return ConfigFile.load(environment.config, os.environ).config


def configure_logs(level: str) -> None:
    """Start logging.

    Raises:
        ConfigurationError: there is no such level.
    """
    if level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError("SMS_GATEWAY_LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL.")
    logs.configure(level)


def _database_url(environment: Environment) -> str:
    if environment.database_url is None:
        raise ConfigurationError(
            "Set SMS_GATEWAY_DATABASE_URL (or SMS_GATEWAY_DATABASE_URL_FILE) to a PostgreSQL 16 or newer, "
            "e.g. postgresql://gateway:password@db.example/gateway. To try the gateway without one: `sms-gateway dev`."
        )
    return environment.database_url
