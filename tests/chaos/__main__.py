"""`scripts/chaos`: rounds of faults, a table of what they cost. Exit code 0 only when that is nothing."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.chaos.failover import FAILOVER_CONFIG, failover
from tests.chaos.rounds import Plot, Report, Theatre, a_theatre, play, play_dealt
from tests.chaos.sabotage import SABOTAGES, provoked
from tests.chaos.stage import make_cluster

_ROW: Final = "{:>10} {:>9} {:>6} {:>5} {:>8} {:>7} {:>10} {:>7}"


async def rounds(folder: Path, number: int, seed: int, sabotage: str | None) -> int:
    """The exit code."""
    reports: list[Report] = []
    say(_ROW.format("seed", "messages", "kills", "lost", "doubled", "missed", "undrained", "other"))
    async with _theatre(folder, sabotage) as (theatre, plot):
        for seed_of_round in range(seed, seed + number):
            report = await (play(theatre, seed_of_round, plot) if plot else play_dealt(theatre, seed_of_round))
            reports.append(report)
            found = report.findings
            counts = [len(kind) for kind in (found.lost, found.doubled, found.missed, found.undrained, found.other)]
            say(_ROW.format(report.seed, report.messages, report.kills, *counts))
            for line in found.lines():
                say(f"    {line}")
    _sum(reports)
    return 0 if all(report.clean for report in reports) else 1


@asynccontextmanager
async def _theatre(folder: Path, sabotage: str | None) -> AsyncIterator[tuple[Theatre, Plot | None]]:
    """The stage, and the plot of every round unless it is dealt anew for each."""
    cluster = await make_cluster(folder / "cluster")
    stage = folder / "stage"
    stage.mkdir()
    if sabotage is not None:
        async with provoked(sabotage, stage, cluster) as (theatre, plot):
            yield theatre, plot
    else:
        async with a_theatre(stage, cluster) as theatre:
            yield theatre, None


def _sum(reports: list[Report]) -> None:
    found = [report.findings for report in reports]
    total = [
        sum(len(kind) for kind in kinds)
        for kinds in zip(*((f.lost, f.doubled, f.missed, f.undrained, f.other) for f in found), strict=True)
    ]
    messages, kills = sum(report.messages for report in reports), sum(report.kills for report in reports)
    say()
    say(_ROW.format("rounds", "messages", "kills", "lost", "doubled", "missed", "undrained", "other"))
    say(_ROW.format(len(reports), messages, kills, *total))


async def one_failover(folder: Path, seed: int) -> int:
    """The primary dies under 200 messages a second and comes back. The exit code."""
    cluster = await make_cluster(folder / "cluster")
    (folder / "stage").mkdir()
    async with a_theatre(folder / "stage", cluster, config=FAILOVER_CONFIG) as theatre:
        result = await failover(theatre, seed, rate=200, watch_s=45)
    for line in (*result.lines(), *result.report.findings.lines()):
        say(line)
    return 0 if result.report.clean and not result.broken() else 1


def say(line: str = "") -> None:
    print(line, flush=True)  # noqa: T201 - a command's output


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Break everything, then count.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, help="of the first round; those after it count on")
    parser.add_argument("--sabotage", choices=sorted(SABOTAGES), help="break a promise on purpose: it must be found")
    parser.add_argument("--failover", action="store_true", help="only kill the primary; who sends, second by second")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed  # noqa: S311 - no secret
    # So that nothing of a stage is left when somebody ends this.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        if options.failover:
            sys.exit(asyncio.run(one_failover(Path(folder), seed)))
        sys.exit(asyncio.run(rounds(Path(folder), options.rounds, seed, options.sabotage)))


if __name__ == "__main__":
    main()
