from __future__ import annotations

import asyncio

import pytest

from service.api.patience import Begun, at_once_or_by

HOURS_S = 10_000.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def steps(go: asyncio.Event, cleaned: asyncio.Event) -> str:
    try:
        await asyncio.sleep(0)
        await go.wait()
    finally:
        cleaned.set()
    return "done"


async def test_what_is_there_already_comes_at_once_however_late_it_is() -> None:
    async def ready() -> int:
        return 1

    assert await at_once_or_by(now_s() - HOURS_S, ready()) == 1


async def test_what_has_to_wait_comes_when_it_is_there() -> None:
    go, cleaned = asyncio.Event(), asyncio.Event()
    waiting = asyncio.create_task(at_once_or_by(now_s() + HOURS_S, steps(go, cleaned)))
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.wait_for(waiting, 5) == "done"


async def test_what_comes_too_late_is_ended() -> None:
    go, cleaned = asyncio.Event(), asyncio.Event()
    with pytest.raises(TimeoutError):
        await at_once_or_by(now_s() + 0.01, steps(go, cleaned))
    assert cleaned.is_set()


async def test_a_deadline_that_has_passed_ends_it_at_its_first_wait() -> None:
    cleaned = asyncio.Event()
    with pytest.raises(TimeoutError):
        await at_once_or_by(now_s() - 1, steps(asyncio.Event(), cleaned))
    assert cleaned.is_set()


async def test_who_waits_may_be_cancelled() -> None:
    go, cleaned = asyncio.Event(), asyncio.Event()
    waiting = asyncio.create_task(at_once_or_by(now_s() + HOURS_S, steps(go, cleaned)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert cleaned.is_set()


async def test_errors_come_through_before_and_after_a_wait() -> None:
    async def fail(waits: int) -> None:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise ValueError("broken")

    for waits in (0, 1, 3):
        with pytest.raises(ValueError, match="broken"):
            await at_once_or_by(now_s() + HOURS_S, fail(waits))


@pytest.mark.parametrize("waits", [0, 1, 2])
async def test_what_goes_on_after_an_error_that_it_waited_for_goes_on(waits: int) -> None:
    """As the key check does, which knows keys though the database fails."""

    async def fail() -> None:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise ConnectionError

    async def knows_better() -> str:
        for _ in range(2):
            failing = asyncio.ensure_future(fail())
            try:
                await failing
            except ConnectionError:
                continue
        return "known"

    assert await at_once_or_by(now_s() + HOURS_S, knows_better()) == "known"
    assert await Begun(knows_better()).rest() == "known"


async def test_a_deadline_of_its_own_ends_its_first_wait() -> None:
    async def patient_for_a_moment() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "known"
        return "never"

    assert await Begun(patient_for_a_moment()).rest() == "known"
