"""`clients`: what each caller may do."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from service.cli.keys import open_clients
from service.domain.pacing import Rate
from service.pipeline.limits import Limit

_MAX: Final = 1_000_000

clients = typer.Typer(help="List clients and set their limits.", no_args_is_help=True)


def _read_limit(text: str) -> tuple[str, Rate]:
    """`send=50:25`: 50 a second on average, 25 at once."""
    try:
        name, _, rate = text.partition("=")
        per_s, _, burst = rate.partition(":")
        limit = Limit(name), Rate(float(per_s), int(burst))
    except ValueError:
        limit = None
    if limit is None or not (
        0 < limit[1].per_s <= _MAX and math.isfinite(limit[1].per_s) and 1 <= limit[1].burst <= _MAX
    ):
        raise typer.BadParameter("write it as send=50:25, bulk=1000:10000 or hlr=10:5 (per second : at once)")
    return limit[0].value, limit[1]


@clients.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False) -> None:
    """List every client."""
    rows = asyncio.run(_list())
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("client", "limits", "must send Idempotency-Key", "created", box=None)
    for row in rows:
        limits = " ".join(f"{name}={rate['per_s']:g}:{rate['burst']}" for name, rate in row["limits"].items())
        table.add_row(
            row["name"], limits or "default", "yes" if row["require_idempotency_key"] else "", row["created_at"]
        )
    Console().print(table)


async def _list() -> list[dict[str, Any]]:
    async with open_clients() as (_, store):
        return [
            {
                "name": row["name"],
                "limits": json.loads(row["limits"]),
                "require_idempotency_key": row["require_idempotency_key"],
                "created_at": f"{row['created_at']:%Y-%m-%dT%H:%M:%SZ}",
            }
            for row in await store.clients()
        ]


@clients.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="As `clients list` shows it.", metavar="NAME")],
    limit: Annotated[list[str] | None, typer.Option(help="send=50:25, bulk=1000:10000, hlr=10:5; repeatable")] = None,
    require_idempotency_key: Annotated[bool | None, typer.Option(help="Refuse sends without one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Change what a client may do. Gateways that run take a few seconds to notice."""
    limits = dict(_read_limit(text) for text in limit or [])
    if not asyncio.run(_set(name, require_idempotency_key, limits)):
        typer.echo("There is no client of that name: see `sms-gateway clients list`.", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps({"changed": name}) if as_json else "Changed.")


async def _set(name: str, require_idempotency_key: bool | None, limits: dict[str, Rate]) -> bool:
    async with open_clients() as (_, store):
        return await store.set_client(name, require_idempotency_key=require_idempotency_key, limits=limits)
