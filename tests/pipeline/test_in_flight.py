"""Places at a provider: for each lane, with a share for OTPs."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field

import pytest

from service.domain.message import Traffic
from service.pipeline.in_flight import InFlight
from service.pipeline.pace import Busy


@dataclass
class Case:
    """A provider with a ceiling of 10 calls, two of them for OTPs only."""

    paces: dict[Traffic, float] = field(default_factory=dict)
    ahead_s: float = 0.0
    freed: list[Traffic] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = InFlight(10, 0.2, self.paces, lambda: time.monotonic() + self.ahead_s, self.freed.append)

    async def fill(self, stack: AsyncExitStack, traffic: Traffic, number: int) -> None:
        for _ in range(number):
            stack.enter_context(self.places.at_gate(traffic))
            await stack.enter_async_context(self.places.place(traffic))


async def test_a_lane_has_room_for_the_calls_and_for_a_few_that_wait() -> None:
    case = Case()
    assert case.places.room(Traffic.OTP) == 10 + 5 + 8
    assert case.places.room(Traffic.MARKETING) == 8 + 4 + 8


async def test_a_slow_pace_leaves_room_for_what_it_lets_out_meanwhile() -> None:
    assert Case(paces={Traffic.MARKETING: 1.5}).places.room(Traffic.MARKETING) == 5


async def test_otps_find_a_place_beside_a_campaign_that_has_taken_all_it_may() -> None:
    case = Case()
    async with AsyncExitStack() as stack:
        await case.fill(stack, Traffic.MARKETING, 8)
        assert case.places.calls == 8
        await case.fill(stack, Traffic.OTP, 2)
        assert case.places.calls == 10


async def test_otps_keep_their_share_while_more_calls_are_under_way_than_the_limit_allows() -> None:
    """A limit that falls takes no call back."""
    case = Case()
    places = InFlight(100, 0.2, {}, lambda: time.monotonic() + case.ahead_s, case.freed.append)
    async with AsyncExitStack() as stack:
        for _ in range(51):
            await stack.enter_async_context(places.place(Traffic.MARKETING))
        for _ in range(100):
            case.ahead_s += 1.0
            places.end(None, bad=True)
        assert places.limiter.limit == 16 < places.calls
        await asyncio.wait_for(stack.enter_async_context(places.place(Traffic.OTP)), 0.5)


async def test_who_waits_longest_gets_the_next_place_and_an_otp_before_all() -> None:
    case = Case()
    got: list[str] = []

    async def wait(name: str, traffic: Traffic) -> None:
        async with case.places.place(traffic):
            got.append(name)

    async with AsyncExitStack() as stack:
        await case.fill(stack, Traffic.OTP, 10)
        waiting = []
        for name, traffic in (("first", Traffic.MARKETING), ("second", Traffic.TRANSACTIONAL), ("otp", Traffic.OTP)):
            waiting.append(asyncio.create_task(wait(name, traffic)))
            await asyncio.sleep(0)
        assert got == []
    await asyncio.gather(*waiting)
    assert got == ["otp", "first", "second"]


async def test_who_gives_up_waiting_takes_no_place_with_him() -> None:
    case = Case()
    async with AsyncExitStack() as stack:
        await case.fill(stack, Traffic.OTP, 10)
        gone = asyncio.create_task(case.places.place(Traffic.OTP).__aenter__())
        await asyncio.sleep(0)
        gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert case.places.calls == 0


async def test_a_place_that_is_given_to_who_is_cancelled_in_that_moment_comes_back() -> None:
    case = Case()
    async with AsyncExitStack() as stack:
        await case.fill(stack, Traffic.OTP, 10)
        gone = asyncio.create_task(case.places.place(Traffic.OTP).__aenter__())
        await asyncio.sleep(0)
    assert case.places.calls == 1, "it has been given"
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert case.places.calls == 0


async def test_beyond_its_room_a_message_is_turned_away_and_its_lane_hears_when_there_is_some_again() -> None:
    case = Case()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(case.places.at_gate(Traffic.MARKETING))
        assert case.places.room(Traffic.MARKETING) == 0
        with pytest.raises(Busy) as busy, case.places.at_gate(Traffic.MARKETING):
            pytest.fail("there was room")
        assert (busy.value.full, busy.value.down) == (True, False)
        with case.places.at_gate(Traffic.OTP):
            assert case.freed == []
    assert case.freed == [Traffic.MARKETING], "once: from then on there is room"


async def test_nobody_waits_where_no_call_has_ended_for_a_second() -> None:
    case = Case()
    async with AsyncExitStack() as stack:
        await case.fill(stack, Traffic.MARKETING, 8)
        with case.places.at_gate(Traffic.MARKETING):
            pass
        case.ahead_s += 1.0
        with pytest.raises(Busy), case.places.at_gate(Traffic.MARKETING):
            pytest.fail("it would wait for nothing")
        with case.places.at_gate(Traffic.OTP):
            pass
