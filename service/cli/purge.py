"""`purge`: what the workers do by themselves every minute, done now or only shown."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from service.cli.keys import AsJson
from service.cli.store import with_any_database
from service.config_file import ConfigFile
from service.environment import Environment
from service.runtime import retention_of
from service.storage.database import Database
from service.storage.retention import Partition, Retention, Texts

_TEXTS_AT_ONCE: Final = 10_000


def purge(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove texts and rows that are past their time (`retention` of gateway.yaml). Workers do it by themselves."""
    done = asyncio.run(_run(dry_run=dry_run))
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    else:
        _show(done)


async def _run(*, dry_run: bool) -> dict[str, Any]:
    environment = Environment.read(os.environ)
    config = ConfigFile.load(environment.config, os.environ).config
    async with with_any_database(environment) as complete:
        database = await Database.open(str(complete.database_url), connections=2)
        try:
            retention = retention_of(database, config)
            texts, partitions = await retention.due_texts(), await retention.due_partitions()
            purged, dropped = (0, []) if dry_run else await _purge(retention)
        finally:
            await database.close()
    return {
        "dry_run": dry_run,
        "texts": [_texts(one) for one in texts],
        "texts_purged": purged,
        "partitions": [_partition(one) | ({} if dry_run else {"dropped": one.name in dropped}) for one in partitions],
    }


async def _purge(retention: Retention) -> tuple[int, list[str]]:
    """Returns how many texts and which partitions went. Other processes may have been first."""
    purged = 0
    while went := await retention.purge_texts(_TEXTS_AT_ONCE):
        purged += went
    await retention.forget_strays()
    return purged, [partition.name for partition in await retention.drop_partitions()]


def _texts(texts: Texts) -> dict[str, Any]:
    oldest = f"{texts.oldest:%Y-%m-%dT%H:%M:%SZ}" if texts.oldest else None
    return {"traffic": texts.traffic, "texts": texts.count, "oldest_ended_at": oldest}


def _partition(partition: Partition) -> dict[str, Any]:
    return {
        "partition": partition.name,
        "month": f"{partition.month:%Y-%m}",
        "rows": partition.rows,
        "bytes": partition.bytes,
        "in_use": partition.in_use,
    }


def _show(done: dict[str, Any]) -> None:
    if not done["texts"] and not done["partitions"]:
        typer.echo("Nothing is past its time.")
        return
    will = "would go" if done["dry_run"] else "gone"
    if not done["dry_run"]:
        typer.echo(f"{done['texts_purged']} texts gone")
    for one in done["texts"] if done["dry_run"] else ():
        typer.echo(f"{one['texts']} texts of {one['traffic']} would go; the oldest ended at {one['oldest_ended_at']}")
    table = Table("partition", "rows (about)", "MB", "", box=None)
    for one in done["partitions"]:
        if one["in_use"]:
            fate = "stays: something in it has not ended"
        else:
            fate = will if one.get("dropped", True) else "stays: others use it now, try again"
        table.add_row(one["partition"], str(one["rows"]), f"{one['bytes'] / 1e6:.1f}", fate)
    if done["partitions"]:
        Console().print(table)
