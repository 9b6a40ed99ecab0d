"""`audit`: what operators did."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.cli.acting import open_database, shown_time
from service.cli.keys import WIDTH, AsJson
from service.storage.audit import AuditLog

audit = typer.Typer(help="See what operators did.", no_args_is_help=True)


@audit.callback()
def _group() -> None:
    """With a single command typer would make no group of it."""


@audit.command("list")
def list_(
    *,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=100_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the newest acts first."""
    rows = asyncio.run(_list(limit))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("at", "who", "what", "object", "details", "request", box=None)
    for row in rows:
        details = ", ".join(f"{name}={value}" for name, value in row["details"].items())
        table.add_row(row["at"], row["actor"], row["action"], row["object"], details, row["request_id"] or "")
    Console(width=max(WIDTH, Console().width)).print(table)


async def _list(limit: int) -> list[dict[str, Any]]:
    async with open_database() as (_, database):
        entries = await AuditLog(database).entries(limit=limit)
    return [
        dict(entry) | {"id": str(entry["id"]), "at": shown_time(entry["at"]), "details": json.loads(entry["details"])}
        for entry in entries
    ]
