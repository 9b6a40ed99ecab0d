"""Who has a place, who is worked on, who waits, and who is turned away."""

from __future__ import annotations

import asyncio

import pytest

from service.api.slots import Places, Turns
from service.errors import Problem


class Guest:
    """Takes a turn until it is told to go."""

    def __init__(self, turns: Turns, holder: str = "shop") -> None:
        self._turns = turns
        self._holder = holder
        self.working = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self._stay())

    async def _stay(self) -> None:
        async with self._turns.turn(self._holder):
            self.working.set()
            await self.go.wait()


async def leave(*guests: Guest) -> None:
    for guest in guests:
        guest.go.set()
    await asyncio.gather(*(guest.task for guest in guests))


async def settled() -> None:
    """Whatever can run without anybody's doing has run."""
    for _ in range(10):
        await asyncio.sleep(0)


def refusal(places: Places, holder: str) -> tuple[int, str]:
    with pytest.raises(Problem) as refused:
        places.take(holder)
    assert int(refused.value.headers["Retry-After"]) >= 1
    return refused.value.status, refused.value.code


def fill(places: Places, holder: str) -> int:
    """How many places it gets."""
    for held in range(1_000):
        try:
            places.take(holder)
        except Problem:
            return held
    raise AssertionError


def test_one_who_comes_alone_gets_half_of_the_places_and_hears_that_it_is_itself_who_asks_too_much() -> None:
    places = Places(10)
    assert fill(places, "greedy") == 5
    assert refusal(places, "greedy") == (429, "too_many_at_once")


def test_whoever_has_none_finds_a_place_beside_those_who_have_taken_all_that_they_may() -> None:
    places = Places(12)
    taken = {holder: fill(places, holder) for holder in ("first", "second")}
    assert taken == {"first": 6, "second": 3}
    places.take("third")
    for _ in range(3):  # as places come back, each gets its third
        places.give_back("first")
    assert fill(places, "second") == fill(places, "first") == 1
    assert refusal(places, "first") == refusal(places, "second") == (429, "too_many_at_once")


def test_one_who_has_no_place_and_finds_none_hears_that_it_is_not_its_own_doing() -> None:
    places = Places(1)
    places.take("first")
    assert refusal(places, "second") == (503, "overloaded")
    places.give_back("first")
    places.take("second")


def test_a_place_is_free_again_however_its_request_ends() -> None:
    places = Places(2)
    for _ in range(3):
        with pytest.raises(KeyError), places.of("shop"):
            raise KeyError
    with places.of("shop"):
        assert refusal(places, "shop") == (429, "too_many_at_once")


async def test_one_holder_has_so_many_turns_and_the_others_go_past_its_queue() -> None:
    turns = Turns(3, each=2, patience_s=60)
    greedy = [Guest(turns, "greedy") for _ in range(5)]
    await settled()
    assert [guest.working.is_set() for guest in greedy] == [True, True, False, False, False]
    other = Guest(turns, "other")
    await settled()
    assert other.working.is_set()
    await leave(*greedy, other)


async def test_those_who_wait_come_in_rounds_over_the_holders() -> None:
    turns = Turns(1, each=1, patience_s=60)
    first = Guest(turns, "greedy")
    await settled()
    greedy = [Guest(turns, "greedy") for _ in range(3)]
    await settled()
    others = [Guest(turns, "a"), Guest(turns, "b")]
    await settled()
    order = []
    for leaving in (first, greedy[0], others[0], others[1], greedy[1]):
        await leave(leaving)
        await settled()
        order += [guest for guest in (*greedy, *others) if guest.working.is_set() and guest not in order]
    assert order == [greedy[0], others[0], others[1], greedy[1], greedy[2]]
    await leave(greedy[2])


@pytest.mark.parametrize(("holder", "heard"), [("first", (429, "too_many_at_once")), ("other", (503, "overloaded"))])
async def test_one_who_has_waited_too_long_is_turned_away_and_takes_no_turn(
    holder: str, heard: tuple[int, str]
) -> None:
    turns = Turns(1, each=1, patience_s=0.01)
    first = Guest(turns, "first")
    await first.working.wait()
    late = Guest(turns, holder)
    with pytest.raises(Problem) as refused:
        await late.task
    assert (refused.value.status, refused.value.code) == heard
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert not late.working.is_set()
    await leave(first)
    after = Guest(turns, holder)
    await leave(after)


async def test_one_who_goes_away_while_it_waits_leaves_nothing_behind_and_keeps_nobody_waiting() -> None:
    turns = Turns(1, each=1, patience_s=60)
    first, gone, called = Guest(turns), Guest(turns), Guest(turns)
    await settled()
    gone.task.cancel()
    await asyncio.gather(gone.task, return_exceptions=True)
    first.go.set()
    await first.task  # which has called the third, that has not run since
    called.task.cancel()
    await asyncio.gather(called.task, return_exceptions=True)
    last = Guest(turns)
    await leave(last)


async def test_after_its_work_a_turn_rests_in_proportion_to_it() -> None:
    turns = Turns(1, each=1, patience_s=0.01, rest=1e9)
    async with turns.turn("reader"):
        await asyncio.sleep(0.001)
    with pytest.raises(Problem):
        async with turns.turn("another"):
            pytest.fail("it rests")


async def test_a_turn_does_not_rest_for_long_though_its_work_took_long() -> None:
    """It may have been the database that did."""
    turns = Turns(1, each=1, patience_s=30, rest=1e9)
    async with turns.turn("reader"):
        await asyncio.sleep(0.001)
    async with turns.turn("another"):
        pass
