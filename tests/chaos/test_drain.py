"""SIGTERM under load, as Kubernetes sends it: what was begun is finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.conftest import InTime
from tests.chaos.stage import Stage, a_stage


@pytest.fixture
async def stage(cluster: Path, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(tmp_path, cluster) as stage:
        yield stage


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - what other processes do sets no event
            await asyncio.sleep(0.02)


async def test_a_server_that_is_told_to_end_answers_what_it_has_begun(stage: Stage, in_time: InTime) -> None:
    async with in_time(stage.folder):

        async def waiting(number: int) -> bool:
            at_the_lock = "SELECT count(*) AS number FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return bool((await stage.fetch(at_the_lock))[0]["number"] == number)

        await stage.workers[0].kill()  # it would wait for the lock too
        async with stage.connection() as lock:
            held = lock.transaction()
            await held.start()
            await lock.execute("LOCK TABLE messages IN EXCLUSIVE MODE")
            # Two group commits can be on their way, so these two are known to have reached the server.
            sends = []
            for number in (1, 2):
                sends.append(asyncio.create_task(stage.send(f"+1555555010{number}")))
                await until(partial(waiting, number))
            ending = asyncio.create_task(stage.serves[0].terminate())
            await until(lambda: refused(stage))
            await held.rollback()
            replies = await asyncio.gather(*sends)

        assert await ending == 0
        known = {f"msg_{row['id'].hex}" for row in await stage.fetch("SELECT id FROM messages")}
        assert known == {reply["message_id"] for reply in replies}


async def refused(stage: Stage) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", stage.port_of(stage.serves[0]))
    except OSError:
        return True
    writer.close()
    return False


async def test_a_worker_that_is_told_to_end_abandons_no_attempt(stage: Stage, in_time: InTime) -> None:
    async with in_time(stage.folder):

        async def all_called() -> bool:
            on_their_way = "SELECT count(*) >= 20 AS enough FROM attempts WHERE outcome IS NULL"
            return bool((await stage.fetch(on_their_way))[0]["enough"])

        await stage.primary.fault("none", latency_s=1.2)
        await asyncio.gather(*(stage.send(f"+155555501{n:02}") for n in range(30)))
        await until(all_called)

        assert await stage.workers[0].terminate() == 0
        assert await stage.fetch("SELECT FROM attempts WHERE outcome IS NULL OR reason IS NOT NULL") == []
        assert await stage.fetch("SELECT FROM messages WHERE worker_id IS NOT NULL") == []
