"""A round: traffic, faults at random instants, a drain on compressed schedules, a reconciliation."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from tests.chaos.clients import Clients, arm_poison, chance
from tests.chaos.config import CONFIG, PROVIDERS_OF_THE_WORLD, RECEIVERS_OF_THE_WORLD_S, config_of, far_away
from tests.chaos.endings import arm_witness
from tests.chaos.faults import FAULTS
from tests.chaos.reconcile import Findings, Weather, gather, reconcile
from tests.chaos.scene import Scene
from tests.chaos.stage import Stage, a_stage
from tests.listener import Listener

RATE: Final = 70.0
"""Messages a second."""
LOAD_S: Final = 8.0
_FAULTS_A_ROUND: Final = 8
_DRAINED_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """What a round did and found. `messages` are those that were answered 200."""

    seed: int
    messages: int
    kills: int
    findings: Findings = field(default_factory=Findings)

    @property
    def clean(self) -> bool:
        return not self.findings.lines()


@dataclass(slots=True)
class Theatre:
    """A stage with the endpoints of its clients, on which rounds follow each other."""

    stage: Stage
    sick: Listener
    gone: Listener

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return self.stage.listener, self.sick, self.gone

    async def move(self, *, away: bool) -> None:
        """Have providers and receivers answer at once, or as late as those of the world do."""
        for provider in self.stage.providers:
            provider.pace = PROVIDERS_OF_THE_WORLD if away else {}
            await provider.fault("none")
        for listener in self.listeners:
            listener.delay = RECEIVERS_OF_THE_WORLD_S if away else 0.0


@asynccontextmanager
async def a_theatre(
    folder: Path,
    cluster: Path,
    *,
    replicas: int = 2,
    config: str = CONFIG,
    launch: tuple[str, ...] = (),
    postgres_settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Theatre]:
    """`replicas` servers and as many workers; `bank` has a registered endpoint. `launch`: see `Command`."""
    async with (
        a_stage(
            folder,
            cluster,
            serves=replicas,
            workers=replicas,
            config=config,
            postgres_settings=postgres_settings,
            started=False,
        ) as stage,
        Listener() as sick,
        Listener() as gone,
    ):
        gone.reply_status = 410
        for command in (*stage.serves, *stage.workers):
            command.launch = launch
        await arm_poison(stage)
        await arm_witness(stage)
        await stage.start()
        status, reply = await stage.post("/v1/webhooks", {"url": f"{sick.url}/registered"}, client="bank")
        assert status == 201, reply
        yield Theatre(stage, sick, gone)


Plot = Callable[[Scene], Coroutine[Any, Any, None]]
"""What goes wrong in a round. It returns when it is over, everything restarted."""


def at_random(names: Sequence[str], seconds: float) -> Plot:
    """These faults, each at a random instant."""

    async def happen(scene: Scene) -> None:
        instants = {name: scene.rng.uniform(0.3, seconds) for name in names}

        async def one(name: str) -> None:
            await asyncio.sleep(instants[name])
            await FAULTS[name](scene)

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(one(name))

    return happen


def dealt(seed: int) -> list[str]:
    """The faults of the round with this seed."""
    return chance(seed).sample(sorted(FAULTS), _FAULTS_A_ROUND)


async def play_dealt(theatre: Theatre, seed: int) -> Report:
    """The round with this seed: its providers and how far away they are, its faults, its instants."""
    await theatre.stage.change(config_of(seed))
    await theatre.move(away=far_away(seed))
    return await play(theatre, seed, at_random(dealt(seed), LOAD_S))


async def play(
    theatre: Theatre,
    seed: int,
    plot: Plot,
    *,
    rate: float = RATE,
    load_s: float | None = LOAD_S,
    drained_within_s: float = _DRAINED_WITHIN_S,
) -> Report:
    """One round. `load_s` None: the clients send until the plot is over."""
    stage = theatre.stage
    scene = Scene(stage, theatre.sick, chance(seed))
    callbacks = [None, f"{stage.listener.url}/hook", f"{theatre.sick.url}/hook", f"{theatre.gone.url}/hook"]
    began_at = await _now(stage)
    async with Clients(stage, seed, rate, callbacks) as clients:
        async with asyncio.TaskGroup() as group:
            load = group.create_task(clients.run(math.inf if load_s is None else load_s))
            await plot(scene)
            if load_s is None:
                load.cancel()
        died = [f"{command.name} ended by itself" for command in stage.commands if command.died]
        await recover(stage)
        weather = Weather(began_at, await _now(stage), clocks_right=not scene.clocks_shifted)
        await clients.finish(20)
    await drain(stage, drained_within_s)
    evidence = await gather(stage, clients, weather, theatre.listeners)
    findings = reconcile(evidence)
    findings.other += scene.complaints + died
    messages = sum(len(ids) for record in clients.records for ids in record.to_ids.values())
    return Report(seed, messages, scene.kills, findings)


async def _now(stage: Stage) -> datetime:
    now: datetime = (await stage.fetch("SELECT now() AS now"))[0]["now"]
    return now


async def recover(stage: Stage) -> None:
    """All faults off, everything up, every clock right."""
    await asyncio.gather(*(command.kill() for command in stage.commands if command.shifted))
    await stage.start()
    await asyncio.gather(*(provider.fault("none") for provider in stage.providers))


async def drain(stage: Stage, within_s: float) -> None:
    """Until nothing is to be done any more. Waits of the schedules are cut short.

    First what is in the queue; then the receipts that the providers still owe; then the time passes for which a
    receipt is waited for, and what is left ends; then the webhooks. What takes too long is left as it is: the hour
    must not pass while a receipt is on its way.
    """
    deadline_s = time.monotonic() + within_s
    if not await _until(deadline_s, stage, lambda: _none(stage, _IN_QUEUE)):
        return
    # A restart sends at once every receipt that is waiting for its next try, or for a repeat that never comes.
    await asyncio.gather(*(provider.restart() for provider in stage.providers))
    if not await _until(deadline_s, stage, lambda: _no_receipt_owed(stage)):
        return
    await _hurry(stage, _AN_HOUR_LATER)
    await _until(deadline_s, stage, lambda: _none(stage, _OPEN))


async def _until(deadline_s: float, stage: Stage, over: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it was over in time."""
    while time.monotonic() < deadline_s:
        await _hurry(stage, _SOON)
        if await over():
            return True
        await asyncio.sleep(_POLL_S)
    return False


_SOON: Final = (
    # What is parked or put back. Not what is held (due after its expiry), for that waits for receipts.
    (
        "UPDATE messages SET due_at = now()"
        " WHERE status IN ('queued', 'sending') AND due_at > now() AND due_at <= expires_at"
    ),
    # Waits are cut short, tries are not forgiven: a webhook that has used up its ten by now was called in vain.
    "UPDATE webhook_deliveries SET due_at = now() WHERE due_at > now()",
    "UPDATE webhook_targets SET blocked_until = now() WHERE blocked_until > now()",
)
_AN_HOUR_LATER: Final = (
    (
        # Only what is held (see above), which is judged by both. What a client asked for is still in its record.
        "UPDATE messages SET expires_at = expires_at - interval '1 hour', due_at = due_at - interval '1 hour'"
        " WHERE status IN ('sent', 'sending') AND due_at > expires_at"
    ),
)
_IN_QUEUE: Final = (
    "messages WHERE status = 'queued' OR status = 'sending' AND (worker_id IS NOT NULL OR due_at <= expires_at)"
)
_OPEN: Final = (
    "(SELECT FROM messages WHERE status IN ('queued', 'sending', 'sent')"
    " UNION ALL SELECT FROM webhook_deliveries WHERE state = 'pending') AS open"
)


async def _hurry(stage: Stage, statements: Sequence[str]) -> None:
    for statement in statements:
        with suppress(asyncpg.DeadlockDetectedError):  # again in a moment
            await stage.execute(statement)


async def _none(stage: Stage, rows: str) -> bool:
    found: bool = (await stage.fetch(f"SELECT NOT EXISTS (SELECT FROM {rows}) AS none"))[0]["none"]  # noqa: S608 - our own words
    return found


async def _no_receipt_owed(stage: Stage) -> bool:
    return all(send.receipt_done for provider in stage.providers for send in provider.ledger() if send.receipt)
