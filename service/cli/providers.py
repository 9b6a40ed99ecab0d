"""`providers`: take a provider out of service for a while, and back."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from service.cli.acting import open_database, operator, shown_time
from service.cli.keys import AsJson
from service.config_file import ConfigFile
from service.environment import Environment
from service.storage.pauses import PauseStore

_SEEN_WITHIN_S: Final = 2.5
"""By then every worker knows of a pause, and what had its turn before has written its attempt."""
_LOOK_EVERY_S: Final = 0.5

Name = Annotated[str, typer.Argument(help="As gateway.yaml names it.", metavar="NAME")]

providers = typer.Typer(help="Pause and resume providers.", no_args_is_help=True)


@providers.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List every provider of gateway.yaml, whether it is paused, and how many calls to it are being made."""
    rows = asyncio.run(_list(_known()))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("provider", "under way", "paused since", "by", "reason", box=None)
    for row in rows:
        pause = row["paused"] or {"since": "", "by": "", "reason": ""}
        table.add_row(row["provider"], str(row["under_way"]), pause["since"], pause["by"], pause["reason"])
    Console().print(table)


async def _list(names: list[str]) -> list[dict[str, Any]]:
    async with open_database() as (_, database):
        store = PauseStore(database)
        pauses, calls = await store.pauses(), await store.under_way()
    shown = {
        name: {"since": shown_time(pause.paused_at), "by": pause.paused_by, "reason": pause.reason}
        for name, pause in pauses.items()
    }
    return [{"provider": name, "under_way": calls.get(name, 0), "paused": shown.get(name)} for name in names]


@providers.command()
def pause(
    name: Name,
    *,
    reason: Annotated[str, typer.Option(help="Shown by `GET /v1/routes` and in the audit log.")],
    wait_s: Annotated[
        float | None, typer.Option(help="Wait so long at most until no call to it is under way.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send nothing to a provider any more. Messages go to the next one of their route, or wait.

    Exit code 1: calls are still under way after --wait-s.
    """
    _check(name)
    left = asyncio.run(_pause(name, reason, wait_s))
    if as_json:
        typer.echo(json.dumps({"paused": name, "under_way": left}))
    else:
        typer.echo(f"Paused; {left} calls are still under way." if left else "Paused.")
    if left:
        raise typer.Exit(1)


async def _pause(name: str, reason: str, wait_s: float | None) -> int:
    """How many calls are left; 0 where nobody waited for them."""
    async with open_database() as (_, database):
        store = PauseStore(database)
        await store.pause(name, reason, operator())
        if wait_s is None:
            return 0
        await asyncio.sleep(_SEEN_WITHIN_S)
        for _ in range(round(wait_s / _LOOK_EVERY_S)):
            if name not in await store.under_way():
                return 0
            await asyncio.sleep(_LOOK_EVERY_S)
        return (await store.under_way()).get(name, 0)


@providers.command()
def resume(name: Name, *, as_json: AsJson = False) -> None:
    """Send to a provider again."""
    _check(name)
    if not asyncio.run(_resume(name)):
        typer.echo(f"{name} is not paused.", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps({"resumed": name}) if as_json else "Resumed.")


async def _resume(name: str) -> bool:
    async with open_database() as (_, database):
        return await PauseStore(database).resume(name, operator())


def _known() -> list[str]:
    return list(ConfigFile.load(Environment.read(os.environ).config, os.environ).config.providers)


def _check(name: str) -> None:
    if name not in (known := _known()):
        raise typer.BadParameter(f"gateway.yaml has the providers {', '.join(known)}")
