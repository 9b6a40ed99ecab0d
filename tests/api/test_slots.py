"""Who is worked on, who waits, and who is turned away."""

from __future__ import annotations

import asyncio

import pytest

from service.api.slots import Slots
from service.errors import Problem


class Guest:
    """Takes a place, and a turn until it is told to go."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.working = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._stay())

    async def _stay(self) -> None:
        with self._slots.place():
            async with self._slots.turn():
                self.working.set()
                await self.go.wait()


def a_refusal(problem: object) -> bool:
    assert isinstance(problem, Problem)
    assert (problem.status, problem.code) == (503, "overloaded")
    assert int(problem.headers["Retry-After"]) >= 1
    return True


async def test_one_who_finds_every_place_taken_is_turned_away_at_once() -> None:
    slots = Slots(1, waiting=1, patience_s=60)
    first, second = Guest(slots), Guest(slots)
    await first.working.wait()
    third = Guest(slots)
    [refused] = await asyncio.gather(third.task, return_exceptions=True)
    assert a_refusal(refused)
    first.go.set()
    await second.working.wait()
    second.go.set()
    await asyncio.gather(first.task, second.task)


async def test_a_place_is_free_again_when_its_request_is_over_however_it_ends() -> None:
    slots = Slots(1, waiting=0, patience_s=60)
    for _ in range(3):
        guest = Guest(slots)
        await guest.working.wait()
        guest.task.cancel()
        await asyncio.gather(guest.task, return_exceptions=True)
    last = Guest(slots)
    last.go.set()
    await last.task


async def test_one_who_has_waited_too_long_is_turned_away_and_takes_no_turn() -> None:
    slots = Slots(1, waiting=5, patience_s=0.01)
    first = Guest(slots)
    await first.working.wait()
    late = Guest(slots)
    with pytest.raises(Problem) as refused:
        await late.task
    assert a_refusal(refused.value)
    assert not late.working.is_set()
    first.go.set()
    await first.task
    after = Guest(slots)
    after.go.set()
    await after.task
