"""A loop of the worker that hangs is seen; one that only has nothing to do, or no database, is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.app import create_worker_app
from service.domain.message import Traffic
from service.errors import StoreOverloaded
from service.pipeline.worker import working
from service.pulse import STUCK_S, Pulse
from service.runtime import Runtime
from service.storage.audit import GATEWAY
from service.storage.health import HealthStore
from service.storage.outbox import Delivery, Outbox
from service.storage.pauses import Pause, PauseStore
from service.storage.queue import Claimed, MessageQueue, Walk
from service.storage.upkeep import Upkeep
from tests.gateway import serve
from tests.pipeline.world import WatchedQueue, World

LOOPS = {"otp", "transactional", "marketing", "webhooks", "recover", "tidy", "health", "lease"}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Loops(Pulse):
    """Tells which loops there are, and when each has begun another round."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.clock = clock

    def names(self) -> set[str]:
        return {loop for loop, _, _ in self._loops.values()}

    async def until_all_got_on(self, *but: str) -> None:
        """Once more, after what the clock shows now."""
        async with asyncio.timeout(60):
            while self.names() != LOOPS or self._behind() - set(but):  # noqa: ASYNC110 - a loop tells nobody but its pulse
                await asyncio.sleep(0.01)

    def _behind(self) -> set[str]:
        return {loop for loop, began_s, _ in self._loops.values() if began_s < self.clock.now_s}


@pytest.fixture
def loops() -> Loops:
    return Loops(Clock())


def test_a_loop_hangs_once_its_round_takes_longer_than_any_can(loops: Loops) -> None:
    with loops.of("quick") as beat, loops.of("restful", rests_s=60):
        loops.clock.now_s = STUCK_S
        assert loops.stuck() == []
        beat()
        loops.clock.now_s = STUCK_S + 60
        assert loops.stuck() == []
        loops.clock.now_s += 1
        assert loops.stuck() == ["restful"]
        loops.clock.now_s = 2 * STUCK_S + 1
        assert loops.stuck() == ["quick", "restful"]
    assert loops.stuck() == [], "a loop that has ended may drain for as long as it likes"


def _short_lease(world: World, loops: Loops, **parts: Any) -> Runtime:
    """A worker whose every loop turns within seconds."""
    config = world.runtime.config.model_copy(
        update={"deliver": world.runtime.config.deliver.model_copy(update={"lease_s": 3.0})}
    )
    return replace(world.runtime, settings=replace(world.runtime.settings, config=config), pulse=loops, **parts)


async def _health(http: httpx.AsyncClient) -> tuple[int, str]:
    answer = await http.get("/healthz")
    return answer.status_code, answer.text


async def test_a_worker_one_of_whose_lanes_hangs_is_not_alive(world: World, loops: Loops) -> None:
    class Hanging(WatchedQueue):
        async def claim(
            self, lane: Traffic, worker_id: UUID, floors: dict[UUID, datetime], limit: int, walk: Walk | None = None
        ) -> list[Claimed]:
            if lane is Traffic.OTP:
                await asyncio.Event().wait()
            return await super().claim(lane, worker_id, floors, limit, walk)

    runtime = _short_lease(world, loops, queue=Hanging(world.runtime))
    async with serve(create_worker_app(runtime)) as url, httpx.AsyncClient(base_url=url) as http:
        async with working(runtime):
            await loops.until_all_got_on()
            loops.clock.now_s += STUCK_S
            assert await _health(http) == (200, '{"status":"ok"}')
            loops.clock.now_s += STUCK_S
            await loops.until_all_got_on("otp")
            status, said = await _health(http)
            assert status == 503
            assert '"worker_stuck"' in said
            assert ": otp." in said
        assert await _health(http) == (200, '{"status":"ok"}'), "its loops have ended"


async def test_a_worker_without_a_database_is_alive(world: World, loops: Loops) -> None:
    async def down(*_: Any, **__: Any) -> Any:
        raise StoreOverloaded("no connection")

    class NoQueue(MessageQueue):
        claim = renew = down

    class NoOutbox(Outbox):
        async def claim(self, *_: Any, **__: Any) -> list[Delivery]:
            raise StoreOverloaded("no connection")

    class NoUpkeep(Upkeep):
        dead_workers = lane_depths = forget_keys = without_receipt = down

    class NoHealth(HealthStore):
        take_round = standings = down

    class NoPauses(PauseStore):
        asked = 0

        async def pauses(self) -> dict[str, Pause]:
            self.asked += 1
            if self.asked == 1:  # the worker has begun before the database goes
                return {}
            raise StoreOverloaded("no connection")

    database = world.database
    runtime = _short_lease(
        world,
        loops,
        queue=NoQueue(database, receipt_wait=timedelta(hours=72)),
        outbox=NoOutbox(database),
        upkeep=NoUpkeep(database),
        health=NoHealth(database),
        pauses=NoPauses(database),
    )
    async with working(runtime):
        await _lives_for_hours(loops)


async def test_a_worker_whose_providers_are_all_paused_is_alive(world: World, loops: Loops) -> None:
    for provider in ("primary", "fallback"):
        await world.runtime.pauses.pause(provider, "maintenance", GATEWAY)
    try:
        for traffic in _lanes():
            await world.accept(traffic)
        async with working(_short_lease(world, loops)):
            await _lives_for_hours(loops)
    finally:
        for provider in ("primary", "fallback"):
            await world.runtime.pauses.resume(provider, GATEWAY)


def _lanes() -> Iterable[str]:
    return (lane.value for lane in Traffic)


async def _lives_for_hours(loops: Loops) -> None:
    """Each round that the test waits for is one in which an hour has gone by."""
    for _ in range(3):
        loops.clock.now_s += 3600
        await loops.until_all_got_on()
        assert loops.stuck() == []
