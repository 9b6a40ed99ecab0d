"""Screening: suppression and HLR, before money is spent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.domain.hlr import HlrResult, HlrStatus
from service.domain.outcome import Unknown
from service.errors import NotSent, StoreOverloaded
from service.pipeline.lookup import Lookup
from service.storage.numbers import NumberStore
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import World, lookup_metric

NUMBER = "+15555550100"


class Forgetful(NumberStore):
    async def keep_hlr(self, _: HlrResult, __: timedelta) -> None:
        raise StoreOverloaded("no connection")


def route(policy: str, fail: str = "open") -> dict[str, Any]:
    return {
        "routes": [{"providers": ["primary"], "hlr": policy, "hlr_fail": fail}],
        "hlr": {"provider": "primary", "budget_s": 0.05},
    }


async def known(world: World, status: HlrStatus, error_code: int | None = None) -> None:
    result = HlrResult(NUMBER, status, datetime.now(UTC), "test", error_code=error_code)
    await world.runtime.numbers.keep_hlr(result, timedelta(hours=1))


async def test_a_suppressed_number_fails_without_an_attempt(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.runtime.suppressions.add(None, [NUMBER], reason="opted_out", source="test")
    message_id = await world.send()
    assert await world.where(message_id) == ("failed", "suppressed")
    assert await world.attempts(message_id) == []
    assert world.http.calls == []


async def test_a_message_in_doubt_is_repeated_even_if_its_number_is_suppressed_meanwhile(world: World) -> None:
    world.http.script("primary", Unknown("http_500"))
    message_id = await world.send("marketing")
    await world.runtime.suppressions.add(None, [NUMBER], reason="opted_out", source="test")
    await world.again()
    assert await world.where(message_id) == ("sent", None), "failing it would hide that it may be out"


@pytest.mark.parametrize("policy", ["cached", "required"])
async def test_a_number_known_to_be_invalid_fails_without_an_attempt(make_world: MakeWorld, policy: str) -> None:
    world = await make_world(**route(policy))
    await known(world, HlrStatus.INVALID, error_code=1)
    message_id = await world.send()
    message = await world.message(message_id)
    assert (message["status"], message["reason"], message["error_code"]) == ("failed", "number_unreachable", 1)
    assert await world.attempts(message_id) == []
    assert (world.http.calls, world.http.lookups) == ([], [])


@pytest.mark.parametrize("status", [HlrStatus.ABSENT, HlrStatus.ACTIVE])
@pytest.mark.parametrize("policy", ["cached", "required"])
async def test_a_phone_that_is_off_is_sent_to(make_world: MakeWorld, policy: str, status: HlrStatus) -> None:
    world = await make_world(**route(policy))
    await known(world, status)
    message_id = await world.send()
    assert await world.where(message_id) == ("sent", None)
    assert lookup_metric(world, "cache", status) == 1


async def test_a_route_without_hlr_sends_to_a_number_known_to_be_invalid(make_world: MakeWorld) -> None:
    world = await make_world(**route("off"))
    await known(world, HlrStatus.INVALID)
    message_id = await world.send()
    assert await world.where(message_id) == ("sent", None)


async def test_a_cached_route_asks_nobody(make_world: MakeWorld) -> None:
    world = await make_world(**route("cached"))
    message_id = await world.send()
    assert await world.where(message_id) == ("sent", None)
    assert world.http.lookups == []


async def test_a_required_look_up_stops_an_invalid_number_and_is_kept(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    world.http.hlr = HlrStatus.INVALID
    message_id = await world.send()
    assert await world.where(message_id) == ("failed", "number_unreachable")
    await world.send()
    assert world.http.lookups == [NUMBER]
    assert world.http.calls == []


async def test_a_required_look_up_lets_an_active_number_through(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    world.http.hlr = HlrStatus.ACTIVE
    message_id = await world.send()
    assert await world.where(message_id) == ("sent", None)
    assert world.http.lookups == [NUMBER]


async def hang() -> HlrStatus:
    await asyncio.Event().wait()
    return HlrStatus.ACTIVE


@pytest.mark.parametrize("trouble", [hang, NotSent("no connection"), HlrStatus.UNKNOWN])
async def test_without_an_answer_in_time_an_open_route_sends_and_a_closed_one_waits(
    make_world: MakeWorld, trouble: Any
) -> None:
    for fail, expected in (("open", ("sent", None)), ("closed", ("queued", "hlr_unavailable"))):
        world = await make_world(**route("required", fail))
        world.http.hlr = trouble
        message_id = await world.send()
        assert await world.where(message_id) == expected
        await world.database.execute("DELETE FROM messages")


async def test_a_closed_route_tries_again_a_second_later(make_world: MakeWorld) -> None:
    world = await make_world(**route("required", "closed"))
    world.http.hlr = NotSent("no connection")
    message_id = await world.send()
    assert 0.5 < (await world.message(message_id))["due_in_s"] <= 1
    world.http.hlr = HlrStatus.ACTIVE
    await world.again()
    assert await world.where(message_id) == ("sent", None)


async def test_callers_who_ask_for_one_number_at_once_share_one_look_up(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    answer = asyncio.Event()

    async def later() -> HlrStatus:
        await answer.wait()
        return HlrStatus.ABSENT

    world.http.hlr = later
    asking = [asyncio.create_task(world.lookup.live(NUMBER, 5)) for _ in range(5)]
    other = asyncio.create_task(world.lookup.live("+15555550101", 5))
    answer.set()
    results = await asyncio.gather(*asking)
    assert [result and result.status for result in results] == [HlrStatus.ABSENT] * 5
    await other
    assert sorted(world.http.lookups) == [NUMBER, "+15555550101"]


async def test_a_look_up_that_outlasts_its_budget_serves_the_next_caller(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    answer = asyncio.Event()

    async def later() -> HlrStatus:
        await answer.wait()
        return HlrStatus.ACTIVE

    world.http.hlr = later
    assert await world.lookup.live(NUMBER, 0.001) is None
    answer.set()
    result = await world.lookup.live(NUMBER, 5)
    assert result is not None
    assert result.status is HlrStatus.ACTIVE
    assert world.http.lookups == [NUMBER]


async def test_a_result_is_kept_as_long_as_its_kind_allows(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    for status, lifetime_s in ((HlrStatus.ACTIVE, 86_400), (HlrStatus.ABSENT, 3_600), (HlrStatus.INVALID, 3_600)):
        world.http.hlr = status
        await world.lookup.live(NUMBER, 5)
        row = await world.database.fetchrow(
            "SELECT extract(epoch FROM expires_at - now())::float8 AS s FROM hlr_results"
        )
        assert row is not None
        assert row["s"] == pytest.approx(lifetime_s, abs=5)


async def test_no_answer_is_not_kept(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    world.http.hlr = HlrStatus.UNKNOWN
    await world.lookup.live(NUMBER, 5)
    assert await world.lookup.cached(NUMBER) is None


async def test_a_cached_result_is_found_unless_it_is_too_old(make_world: MakeWorld) -> None:
    world = await make_world(**route("cached"))
    await known(world, HlrStatus.ACTIVE)
    assert (await world.lookup.cached(NUMBER)) is not None
    assert (await world.lookup.cached(NUMBER, max_age_s=60)) is not None
    await world.database.execute("UPDATE hlr_results SET checked_at = now() - interval '61 seconds'")
    assert (await world.lookup.cached(NUMBER, max_age_s=60)) is None
    assert lookup_metric(world, "cache", HlrStatus.ACTIVE) == 2


async def test_a_result_that_cannot_be_cached_is_still_given(make_world: MakeWorld) -> None:
    world = await make_world(**route("required"))
    world.http.hlr = HlrStatus.ACTIVE
    lookup = Lookup(replace(world.runtime, numbers=Forgetful(world.database)))
    result = await lookup.live(NUMBER, 5)
    assert result is not None
    assert result.status is HlrStatus.ACTIVE
