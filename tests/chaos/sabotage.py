"""Promises broken on purpose, each with the faults that bring it to light. Nothing of it is in the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg

from tests.chaos.config import CONFIG, keyless
from tests.chaos.endings import terminate_serve, terminate_worker
from tests.chaos.rounds import Plot, Theatre, a_theatre
from tests.chaos.scene import Scene


async def power_cut(scene: Scene) -> None:
    """PostgreSQL is killed hard in the midst of commits, three times."""
    for _ in range(3):
        await asyncio.sleep(1.5)
        scene.kills += 1
        await scene.stage.postgres.kill()
        await scene.stage.postgres.start()


async def all_servers_killed(scene: Scene) -> None:
    """Every server is killed at once, in the midst of requests, twice."""
    for _ in range(2):
        await asyncio.sleep(2)
        for serve in scene.stage.serves:
            scene.kills += 1
            await serve.kill()
        await asyncio.gather(*(serve.start() for serve in scene.stage.serves))


async def standstill(scene: Scene) -> None:
    """A worker stands still with messages in hand. Others send them; when it goes on, the primary is down."""
    stage = scene.stage
    await stage.primary.fault("none", latency_s=0.4)
    await asyncio.sleep(2)
    stage.workers[0].stop()
    await stage.primary.fault("none")
    await asyncio.sleep(5)
    await stage.primary.fault("down")
    stage.workers[0].go_on()
    await asyncio.sleep(1)
    await stage.primary.fault("none")


async def nobody_there(scene: Scene) -> None:
    """Both providers are down for a moment."""
    await asyncio.sleep(1)
    for fault in ("down", "none"):
        await asyncio.gather(*(provider.fault(fault) for provider in scene.stage.providers))
        await asyncio.sleep(1.5)


async def answers_lost(scene: Scene) -> None:
    """The primary accepts, and cannot say so: until it has done so to a few messages that must not go out twice."""
    await asyncio.sleep(1)
    await scene.stage.primary.fault("garbage")
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            while await _in_doubt(scene) < _A_FEW:  # noqa: ASYNC110 - a table tells nobody
                await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    await scene.stage.primary.fault("none")
    await asyncio.sleep(0.5)


async def _in_doubt(scene: Scene) -> int:
    """How many are; 0 while another plot has PostgreSQL down."""
    try:
        return len(await scene.stage.fetch(_IN_DOUBT))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return 0


async def told_to_end(scene: Scene) -> None:
    """A server and a worker get SIGTERM under load."""
    await asyncio.sleep(1)
    await asyncio.gather(terminate_serve(scene), terminate_worker(scene))


_IN_DOUBT: Final = """
SELECT FROM attempts AS a JOIN messages AS m ON m.id = a.message_id
WHERE a.outcome = 'unknown' AND m.traffic <> 'otp'
"""
_A_FEW: Final = 3


@dataclass(frozen=True, slots=True)
class Sabotage:
    """`launch`: options of the launcher; `settings`: of PostgreSQL; `order`: SQL once all is up.

    `config`: see `a_stage`.
    """

    plot: Plot
    launch: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    order: str = ""
    replicas: int = 1
    config: str = CONFIG


SABOTAGES: Final = {
    # The gateway checks the setting when it starts, so it is changed behind its back: its next connections have it.
    "async-commit": Sabotage(
        power_cut,
        settings={"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "checkpoint_timeout": "1h"},
        order="ALTER ROLE postgres SET synchronous_commit = off;"
        " SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sms-gateway'",
    ),
    "ack-before-commit": Sabotage(all_servers_killed, launch=("--sabotage", "ack-before-commit")),
    "no-lease": Sabotage(standstill, launch=("--sabotage", "no-lease"), replicas=2),
    "no-drain": Sabotage(told_to_end, launch=("--sabotage", "no-drain"), replicas=2),
    "early-fail": Sabotage(nobody_there, launch=("--sabotage", "early-fail")),
    "resend": Sabotage(answers_lost, launch=("--sabotage", "resend"), config=keyless(CONFIG, "primary", "fallback")),
}


@asynccontextmanager
async def provoked(name: str, folder: Path, cluster: Path) -> AsyncIterator[tuple[Theatre, Plot]]:
    """A theatre with the sabotage in it, and the plot that shows it."""
    sabotage = SABOTAGES[name]
    async with a_theatre(
        folder,
        cluster,
        launch=sabotage.launch,
        replicas=sabotage.replicas,
        postgres_settings=sabotage.settings,
        config=sabotage.config,
    ) as theatre:
        if sabotage.order:
            await theatre.stage.execute(sabotage.order)
        yield theatre, sabotage.plot
