"""`keys`: who may call the gateway, and for what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column, Table

from service.cli.acting import (
    A_PAGE,
    keyring_of,
    open_database,
    operator,
    read_client,
    read_countries,
    read_pages,
    read_senders,
    shown_time,
)
from service.cli.secret_files import checked_webhook_secret
from service.domain.keyring import new_api_key, new_webhook_secret
from service.domain.scope import Scope
from service.errors import ConfigurationError
from service.storage.clients import ClientStore, KeyTerms, Rotation

WIDTH: Final = 132
"""What the table needs. On a narrower terminal its lines wrap, which is better than ids that are cut."""

SCOPES: Final = tuple(map(str, Scope))

KeyId = Annotated[UUID, typer.Argument(help="As `keys list` shows it.", metavar="KEY_ID")]
Days = Annotated[float | None, typer.Option("--days", help="How long it lasts.", min=0.001, max=36_500)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

keys = typer.Typer(help="Make, list, rotate and revoke API keys.", no_args_is_help=True)


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
    senders: Annotated[str | None, typer.Option(help="MyApp,MyAppOTP: none but these.")] = None,
    countries: Annotated[str | None, typer.Option(help="DE,GB: to none but these.")] = None,
    days: Days = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed once and cannot be shown again."""
    name = read_client(client)
    if webhook_secret is not None:
        checked_webhook_secret("--webhook-secret", webhook_secret)
    wanted = list(dict.fromkeys(scopes.split(",")))
    terms = KeyTerms(wanted, _only(read_senders(senders)), _only(read_countries(countries)), _lasts(days))
    api_key = new_api_key()
    key_id, secret = asyncio.run(_create(name, api_key, terms, webhook_secret))
    if as_json:
        made = {"id": str(key_id), "client": name, "key": api_key, "scopes": terms.scopes, "webhook_secret": secret}
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(f"key id          {key_id}")
    typer.echo(f"API key         {api_key}")
    typer.echo(f"webhook secret  {secret}")


def _only(values: list[str] | None) -> list[str] | None:
    return values or None  # all of them is what a key may do without a list


def _lasts(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


async def _create(name: str, api_key: str, terms: KeyTerms, given: str | None) -> tuple[UUID, str]:
    by = operator()
    async with open_database() as (environment, database):
        clients, keyring = ClientStore(database), keyring_of(environment)
        client_id, sealed = await clients.ensure_client(name, keyring.seal(given or new_webhook_secret()), by)
        if given is not None:
            sealed = keyring.seal(given)
            await clients.set_webhook_secret(client_id, sealed, by)
        secret = keyring.open(sealed)
        if secret is None:
            raise ConfigurationError(
                f"The webhook secret of {name!r} was stored under another SMS_GATEWAY_SECRET_KEY. "
                "Set that one, or give a new secret with --webhook-secret."
            )
        return await clients.add_key(client_id, api_key, terms, by), secret


@keys.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List every key ever made."""
    rows = [_shown(row) for row in asyncio.run(_list())]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    uncut = [Column(name, no_wrap=True) for name in ("id", "client", "key")]
    table = Table(*uncut, "may", "created", "last used", "expires", "revoked", box=None)
    for row in rows:
        days = ((row[f"{event}_at"] or "")[:10] for event in ("created", "last_used", "expires", "revoked"))
        table.add_row(row["id"], row["client"], f"{row['hint']}...", _may(row), *days)
    Console(width=max(WIDTH, Console().width)).print(table)


def _may(row: Mapping[str, Any]) -> str:
    lists = [("", row["scopes"]), (" from ", row["senders"]), (" to ", row["countries"])]
    return "".join(word + ",".join(values) for word, values in lists if values is not None)


async def _list() -> list[dict[str, Any]]:
    async with open_database() as (_, database):
        store = ClientStore(database)
        return await read_pages(lambda after: store.keys(after or UUID(int=0), A_PAGE), "id")


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: shown_time(row[name]) for name in ("created_at", "expires_at", "last_used_at", "revoked_at")}
    return dict(row) | {"id": str(row["id"])} | times


@keys.command()
def rotate(
    key_id: KeyId,
    *,
    overlap_s: Annotated[int, typer.Option(help="Seconds for which the old key works too.", min=0)] = 86_400,
    days: Days = None,
    as_json: AsJson = False,
) -> None:
    """Make a key with the same scopes, senders and countries, and end the old one after the overlap.

    It lasts as long as the old one was made for, unless --days is given. It is printed once and cannot be shown again.
    """
    api_key = new_api_key()
    made = asyncio.run(_rotate(key_id, api_key, timedelta(seconds=overlap_s), _lasts(days)))
    if made is None:
        raise _no_such_key()
    ends_at = shown_time(made.old_expires_at)
    if as_json:
        new = {"id": str(made.key_id), "client": made.client, "key": api_key, "scopes": made.scopes}
        typer.echo(json.dumps(new | {"expires_at": shown_time(made.expires_at), "old_expires_at": ends_at}, indent=2))
        return
    typer.echo(f"key id          {made.key_id}")
    typer.echo(f"API key         {api_key}")
    typer.echo(f"old key ends    {ends_at}")


async def _rotate(key_id: UUID, api_key: str, overlap: timedelta, lasts: timedelta | None) -> Rotation | None:
    async with open_database() as (_, database):
        return await ClientStore(database).rotate_key(key_id, api_key, overlap=overlap, lasts=lasts, by=operator())


def _no_such_key() -> typer.Exit:
    typer.echo("There is no living key of that id: see `sms-gateway keys list`.", err=True)
    return typer.Exit(1)


@keys.command()
def revoke(
    key_id: KeyId,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """End a key. Gateways that run take a few seconds to notice."""
    if not asyncio.run(_revoke(key_id)):
        raise _no_such_key()
    typer.echo(json.dumps({"revoked": str(key_id)}) if as_json else "Revoked.")


async def _revoke(key_id: UUID) -> bool:
    async with open_database() as (_, database):
        return await ClientStore(database).revoke_key(key_id, operator())
