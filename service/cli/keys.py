"""`keys`: who may call the gateway, and for what."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table

from service.cli.secret_files import checked_webhook_secret, new_api_key
from service.cli.store import with_any_database
from service.domain.keyring import Keyring, new_webhook_secret
from service.errors import ConfigurationError
from service.settings import Environment
from service.storage.clients import ClientStore
from service.storage.database import Database

_LONGEST_NAME: Final = 64
_WIDTH: Final = 120
"""What the table needs. On a narrower terminal its lines wrap, which is better than ids that are cut."""

SCOPES: Final = ("send", "hlr", "read", "admin")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


def _read_scopes(text: str) -> str:
    unknown = set(text.split(",")) - set(SCOPES)
    if unknown:
        raise typer.BadParameter(f"use {', '.join(SCOPES)}, separated by commas")
    return text


@keys.command()
def create(
    *,
    client: Annotated[str, typer.Option(help="Made if there is none of this name.", metavar="NAME")],
    scopes: Annotated[str, typer.Option(help="send, hlr, read, admin", callback=_read_scopes)] = "send,hlr,read",
    webhook_secret: Annotated[
        str | None, typer.Option(help="Signs this client's webhooks. Default: its present one, or a new one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed once and cannot be shown again."""
    name = client.strip()
    if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        raise typer.BadParameter(f"a client's name has 1 to {_LONGEST_NAME} visible characters")
    if webhook_secret is not None:
        checked_webhook_secret("--webhook-secret", webhook_secret)
    wanted = list(dict.fromkeys(scopes.split(",")))
    api_key = new_api_key()
    key_id, secret = asyncio.run(_create(name, api_key, wanted, webhook_secret))
    if as_json:
        made = {"id": str(key_id), "client": name, "key": api_key, "scopes": wanted, "webhook_secret": secret}
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(f"key id          {key_id}")
    typer.echo(f"API key         {api_key}")
    typer.echo(f"webhook secret  {secret}")


async def _create(name: str, api_key: str, scopes: list[str], given: str | None) -> tuple[UUID, str]:
    async with open_clients() as (environment, clients):
        if environment.secret_key is None:
            raise ConfigurationError("Set SMS_GATEWAY_SECRET_KEY to the gateway's: it encrypts webhook secrets.")
        keyring = Keyring(environment.secret_key)
        client_id, sealed = await clients.ensure_client(name, keyring.seal(given or new_webhook_secret()))
        if given is not None:
            sealed = keyring.seal(given)
            await clients.set_webhook_secret(client_id, sealed)
        secret = keyring.open(sealed)
        if secret is None:
            raise ConfigurationError(
                f"The webhook secret of {name!r} was stored under another SMS_GATEWAY_SECRET_KEY. "
                "Set that one, or give a new secret with --webhook-secret."
            )
        return await clients.add_key(client_id, api_key, scopes), secret


@keys.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List every key ever made."""
    rows = [_shown(row) for row in asyncio.run(_list())]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("id", "client", "key", "scopes", "created", "revoked", box=None)
    for row in rows:
        days = (row["created_at"][:10], (row["revoked_at"] or "")[:10])
        table.add_row(row["id"], row["client"], f"{row['hint']}...", ",".join(row["scopes"]), *days)
    Console(width=max(_WIDTH, Console().width)).print(table)


async def _list() -> list[Mapping[str, Any]]:
    async with open_clients() as (_, clients):
        return [dict(key) for key in await clients.keys()]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: row[name] and f"{row[name]:%Y-%m-%dT%H:%M:%SZ}" for name in ("created_at", "revoked_at")}
    return {"id": str(row["id"]), "client": row["client"], "hint": row["hint"], "scopes": list(row["scopes"]), **times}


@keys.command()
def revoke(
    key_id: Annotated[UUID, typer.Argument(help="As `keys list` shows it.", metavar="KEY_ID")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """End a key. Gateways that run take a few seconds to notice."""
    if not asyncio.run(_revoke(key_id)):
        typer.echo("There is no living key of that id: see `sms-gateway keys list`.", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps({"revoked": str(key_id)}) if as_json else "Revoked.")


async def _revoke(key_id: UUID) -> bool:
    async with open_clients() as (_, clients):
        return await clients.revoke_key(key_id)


@asynccontextmanager
async def open_clients() -> AsyncIterator[tuple[Environment, ClientStore]]:
    """The store of clients, on the database of the environment or the embedded one."""
    async with with_any_database(Environment.read(os.environ)) as environment:
        database = await Database.open(str(environment.database_url), connections=1)
        try:
            yield environment, ClientStore(database)
        finally:
            await database.close()
