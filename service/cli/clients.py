"""`clients`: what each caller may do."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

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
from service.cli.keys import AsJson
from service.domain.keyring import new_webhook_secret
from service.domain.pacing import Rate
from service.pipeline.limits import Limit
from service.storage.clients import ClientChange, ClientStore

_MAX: Final = 1_000_000
_DEFAULT: Final = "default"

clients = typer.Typer(help="Make and list clients, and set what they may do.", no_args_is_help=True)


def _read_limit(text: str) -> tuple[str, Rate | None]:
    """`send=50:25`: 50 a second on average, 25 at once. `send=default`: as `gateway.yaml` says, again."""
    name, _, rate = text.partition("=")
    if rate == _DEFAULT and name in set(Limit):
        return name, None
    try:
        per_s, _, burst = rate.partition(":")
        limit = Limit(name), Rate(float(per_s), int(burst))
    except ValueError:
        limit = None
    if limit is None or not (
        0 < limit[1].per_s <= _MAX and math.isfinite(limit[1].per_s) and 1 <= limit[1].burst <= _MAX
    ):
        raise typer.BadParameter(
            "write it as send=50:25, bulk=1000:10000 or hlr=10:5 (per second : at once), or send=default"
        )
    return limit[0].value, limit[1]


@clients.command()
def create(
    name: Annotated[str, typer.Argument(help="1 to 64 visible characters.", metavar="NAME")], as_json: AsJson = False
) -> None:
    """Make a client without a key, for callers with tokens. One that exists stays as it is."""
    name = read_client(name)
    asyncio.run(_create(name))
    typer.echo(json.dumps({"client": name}) if as_json else "Made.")


async def _create(name: str) -> None:
    async with open_database() as (environment, database):
        sealed = keyring_of(environment).seal(new_webhook_secret())
        await ClientStore(database).ensure_client(name, sealed, operator())


@clients.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List every client."""
    rows = asyncio.run(_list())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("client", "limits", "senders", "countries", "special rates", "needs key", "created", box=None)
    for row in rows:
        limits = " ".join(f"{name}={rate['per_s']:g}:{rate['burst']}" for name, rate in row["limits"].items())
        lists = ["all" if row[name] is None else ",".join(row[name]) for name in ("senders", "countries")]
        flags = ["yes" if row[name] else "" for name in ("special_rates", "require_idempotency_key")]
        table.add_row(row["name"], limits or "default", *lists, *flags, row["created_at"])
    Console().print(table)


async def _list() -> list[dict[str, Any]]:
    async with open_database() as (_, database):
        store = ClientStore(database)
        rows = await read_pages(lambda after: store.clients(after or "", A_PAGE), "name")
    return [
        dict(row) | {"limits": json.loads(row["limits"]), "created_at": shown_time(row["created_at"])} for row in rows
    ]


@clients.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="As `clients list` shows it.", metavar="NAME")],
    *,
    limit: Annotated[
        list[str] | None, typer.Option(help="send=50:25, bulk=1000:10000, hlr=default; repeatable")
    ] = None,
    require_idempotency_key: Annotated[bool | None, typer.Option(help="Refuse sends without one.")] = None,
    senders: Annotated[str | None, typer.Option(help="MyApp,MyAppOTP: none but these. '*': all.")] = None,
    countries: Annotated[str | None, typer.Option(help="DE,GB: to none but these. '*': all.")] = None,
    special_rates: Annotated[
        bool | None, typer.Option(help="Send to premium-rate, shared-cost and satellite numbers.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change what a client may do. Gateways that run take a few seconds to notice."""
    limits = dict(_read_limit(text) for text in limit or [])
    change = ClientChange(
        require_idempotency_key, special_rates, read_senders(senders), read_countries(countries), limits
    )
    if not asyncio.run(_set(name, change)):
        typer.echo("There is no client of that name: see `sms-gateway clients list`.", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps({"changed": name}) if as_json else "Changed.")


async def _set(name: str, change: ClientChange) -> bool:
    async with open_database() as (_, database):
        return await ClientStore(database).set_client(name, change, operator())
