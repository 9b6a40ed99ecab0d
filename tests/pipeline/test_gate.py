"""The gate before a provider: breaker, calls in flight, pace."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest

from service.domain.ids import new_id
from service.domain.message import Traffic
from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.pipeline.gate import Gate
from service.pipeline.pace import Busy, Pace
from service.storage.pacing import Slot
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import World, provider

CLIENT, OTHER = new_id(), new_id()
ONE_PROVIDER = [{"providers": ["primary"], "hlr": "off"}]


@pytest.mark.parametrize("failure", [Unavailable("down"), Unknown("http_500"), Refused("funds", about=About.ACCOUNT)])
async def test_the_breaker_opens_after_five_failures_in_a_row(make_world: MakeWorld, failure: Outcome) -> None:
    world = await make_world()
    world.http.always("primary", failure)
    for _ in range(5):
        await world.send()
    calls = world.http.called().count("primary")
    assert breaker(world) == 2
    world.http.calls.clear()
    message_id = await world.send()
    assert calls == 5
    assert world.http.called() == ["fallback"]
    assert await world.where(message_id) == ("sent", None)


@pytest.mark.parametrize("answer", [Rejected("bad"), Throttled(0.0001), Refused("sender_not_registered")])
async def test_answers_of_a_healthy_provider_keep_the_breaker_closed(make_world: MakeWorld, answer: Outcome) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    world.http.always("primary", answer)
    for _ in range(6):
        await world.send()
    assert len(world.http.calls) >= 6
    assert breaker(world) == 0


async def test_a_message_that_skips_an_open_breaker_is_a_failover_too(world: World) -> None:
    await break_it(world)
    before = failovers(world)
    message_id = await world.send()
    assert await world.where(message_id) == ("sent", None)
    assert world.http.called()[-1] == "fallback"
    assert failovers(world) - before == 1


async def test_a_message_waits_for_the_only_provider_to_be_probed(make_world: MakeWorld) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    await break_it(world)
    message_id = await world.send("otp")
    message = await world.message(message_id)
    assert (message["status"], message["reason"]) == ("queued", "no_provider_available")
    assert 3 < message["due_in_s"] <= 5


async def test_an_open_breaker_lets_one_probe_through_and_closes_when_it_succeeds(make_world: MakeWorld) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    await break_it(world)
    world.ahead_s += 5.1
    assert breaker(world) == 1
    probe, answer = asyncio.Event(), asyncio.Event()

    async def held() -> Outcome:
        probe.set()
        await answer.wait()
        return Accepted("p-1")

    world.http.always("primary", Accepted("p-2"))
    world.http.script("primary", held)
    first = await world.accept()
    probing = asyncio.create_task(world.step())
    await probe.wait()
    world.http.calls.clear()
    second = await world.send()
    assert world.http.calls == [], "one probe at a time"
    assert (await world.message(second))["due_in_s"] <= 1, "what the probe finds is known soon"
    answer.set()
    await probing
    assert breaker(world) == 0
    await world.again()
    assert [await world.where(each) for each in (first, second)] == [("sent", None)] * 2


async def test_a_failed_probe_keeps_the_breaker_open_for_longer(make_world: MakeWorld) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    await break_it(world)
    world.ahead_s += 5.1
    await world.send()
    world.http.calls.clear()
    message_id = await world.send()
    assert world.http.calls == []
    assert 8 < (await world.message(message_id))["due_in_s"] <= 10


async def test_a_probe_that_was_never_called_leaves_its_place_to_the_next(make_world: MakeWorld) -> None:
    """Its message found its lease lost after it had been let through."""
    world = await make_world(routes=ONE_PROVIDER)
    await break_it(world)
    world.http.always("primary", Accepted("p"))
    world.ahead_s += 5.1
    await world.accept()
    [claimed] = await world.queue.claim(Traffic.TRANSACTIONAL, world.lease.worker_id, {}, 10)
    await world.database.execute("UPDATE messages SET worker_id = NULL, due_at = now(), status = 'queued'")
    await world.deliver.deliver(claimed)
    assert world.http.called().count("primary") == 5
    assert breaker(world) == 1
    await world.step()
    assert world.http.called().count("primary") == 6
    assert breaker(world) == 0


async def test_calls_that_began_before_the_breaker_opened_say_nothing_of_the_time_after(make_world: MakeWorld) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    answer = asyncio.Event()

    async def late() -> Outcome:
        await answer.wait()
        return Unavailable("down")

    world.http.script("primary", *[late] * 5)
    begun = [await world.accept() for _ in range(5)]
    stepping = asyncio.create_task(world.step())
    while len(world.http.calls) < len(begun):  # noqa: ASYNC110 - the transport has no event
        await asyncio.sleep(0.001)
    await break_it(world)
    world.ahead_s += 5.1
    world.http.always("primary", Accepted("p"))
    await world.send()
    assert breaker(world) == 0
    answer.set()
    await stepping
    assert breaker(world) == 0


async def test_calls_in_flight_are_capped_and_otps_have_a_reserve(make_world: MakeWorld) -> None:
    world = await make_world(
        providers={"primary": provider("primary", max_in_flight=4, otp_reserve=0.5)}, routes=ONE_PROVIDER
    )
    gate = gate_of(world)
    held: list[asyncio.Task[None]] = []
    done = asyncio.Event()

    async def hold(traffic: Traffic) -> None:
        async with gate.turn(traffic, CLIENT, "MyApp"):
            entered.set()
            await done.wait()

    for traffic in (Traffic.MARKETING, Traffic.TRANSACTIONAL, Traffic.OTP, Traffic.OTP):
        entered = asyncio.Event()
        held.append(asyncio.create_task(hold(traffic)))
        await asyncio.wait_for(entered.wait(), 5)
    for traffic in (Traffic.MARKETING, Traffic.OTP):
        with pytest.raises(Busy) as busy:
            async with gate.turn(traffic, CLIENT, "MyApp"):
                pytest.fail("a fifth call")
        assert (busy.value.retry_in_s, busy.value.down) == (1.0, False)
    done.set()
    await asyncio.gather(*held)
    async with gate.turn(Traffic.MARKETING, CLIENT, "MyApp"), gate.turn(Traffic.TRANSACTIONAL, CLIENT, "MyApp"):
        pass


async def test_marketing_that_gives_up_waiting_frees_what_it_held(make_world: MakeWorld) -> None:
    world = await make_world(
        providers={"primary": provider("primary", max_in_flight=2, otp_reserve=0)}, routes=ONE_PROVIDER
    )
    gate = gate_of(world)
    async with gate.turn(Traffic.OTP, CLIENT, "MyApp"), gate.turn(Traffic.OTP, CLIENT, "MyApp"):
        with pytest.raises(Busy):
            async with gate.turn(Traffic.MARKETING, CLIENT, "MyApp"):
                pytest.fail("a third call")
    async with gate.turn(Traffic.MARKETING, CLIENT, "MyApp"), gate.turn(Traffic.MARKETING, CLIENT, "MyApp"):
        pass


async def test_nobody_waits_for_a_place_at_a_provider_that_answers_nobody(make_world: MakeWorld) -> None:
    """Those who wait hold places of their lane, which other providers' messages need."""
    world = await make_world(
        providers={"primary": provider("primary", max_in_flight=1, otp_reserve=0)}, routes=ONE_PROVIDER
    )
    gate = Gate(world.runtime.providers["primary"], world.runtime, lambda: time.monotonic() + world.ahead_s)
    async with gate.turn(Traffic.MARKETING, CLIENT, "MyApp"):
        waiting = asyncio.create_task(gate.turn(Traffic.MARKETING, CLIENT, "MyApp").__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done(), "a call may end in a moment"
        waiting.cancel()
        world.ahead_s += 1.0
        with pytest.raises(Busy) as busy:
            await asyncio.wait_for(gate.turn(Traffic.MARKETING, CLIENT, "MyApp").__aenter__(), 0.5)
        assert (busy.value.retry_in_s, busy.value.down) == (1.0, False)
    async with gate.turn(Traffic.MARKETING, CLIENT, "MyApp"):
        pass


async def test_a_paced_provider_is_called_no_faster_than_it_allows(make_world: MakeWorld) -> None:
    world = await make_world(providers={"primary": provider("primary", mps=50, otp_reserve=0)}, routes=ONE_PROVIDER)
    for _ in range(20):
        await world.accept("otp")
    began_s = time.monotonic()
    await world.step()
    assert len(world.http.calls) == 20
    assert time.monotonic() - began_s >= 19 / 50 - 0.03


async def test_messages_beyond_a_second_of_a_providers_pace_are_put_back_one_after_the_other(
    make_world: MakeWorld,
) -> None:
    world = await make_world(providers={"primary": provider("primary", mps=4, otp_reserve=0)}, routes=ONE_PROVIDER)
    for _ in range(12):
        await world.accept("marketing")
    await world.step()
    assert 3 <= len(world.http.calls) <= 6
    found = await world.database.fetch(
        "SELECT extract(epoch FROM due_at - now())::float8 AS s, reason FROM messages WHERE status = 'queued'"
        " ORDER BY due_at"
    )
    assert {row["reason"] for row in found} == {"provider_busy"}
    waits_s = [row["s"] for row in found]
    assert len(waits_s) == 12 - len(world.http.calls)
    assert all(later - earlier > 0.2 for earlier, later in pairwise(waits_s)), waits_s


class Slots:
    """A pacing store that gives what it is told to."""

    def __init__(self, *slots: Slot) -> None:
        self._slots = list(slots)

    async def reserve(self, _: dict[str, float], wanted: int, __: float, ___: float = 0) -> list[Slot]:
        assert wanted == 1
        return [self._slots.pop(0)]


async def test_a_turn_that_is_only_an_estimate_is_asked_for_again() -> None:
    slots = Slots(Slot(0.11, reserved=False), Slot(0.0, reserved=True))
    await Pace(slots, {"mps:primary": 0.01}).wait(CLIENT)  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        await slots.reserve({}, 1, 0)


async def test_a_campaign_lines_up_behind_itself_and_delays_neither_another_client_nor_another_lane(
    make_world: MakeWorld,
) -> None:
    world = await make_world(providers={"primary": provider("primary", mps=2, otp_reserve=0)}, routes=ONE_PROVIDER)
    pacing = Slots(*[Slot(2.0, reserved=False)] * 6)
    gate = Gate(world.runtime.providers["primary"], replace(world.runtime, pacing=pacing))  # type: ignore[arg-type]

    async def told_s(traffic: Traffic, client_id: UUID) -> float:
        with pytest.raises(Busy) as busy:
            async with gate.turn(traffic, client_id, "MyApp"):
                pytest.fail("its turn is too far away")
        return busy.value.retry_in_s

    campaign_s = [await told_s(Traffic.MARKETING, CLIENT) for _ in range(3)]
    others_s = [
        await told_s(Traffic.MARKETING, OTHER),
        await told_s(Traffic.TRANSACTIONAL, CLIENT),
        await told_s(Traffic.OTP, CLIENT),
    ]
    assert campaign_s == pytest.approx([2.0, 2.5, 3.0], abs=0.1)
    assert others_s == pytest.approx([2.0] * 3, abs=0.1)


def gate_of(world: World) -> Gate:
    return Gate(world.runtime.providers["primary"], world.runtime)


def breaker(world: World) -> float | None:
    return world.runtime.metrics.registry.get_sample_value("sms_gateway_breaker_state", {"provider": "primary"})


def failovers(world: World) -> float:
    labels = {"origin": "primary", "target": "fallback"}
    return world.runtime.metrics.registry.get_sample_value("sms_gateway_failovers_total", labels) or 0.0


async def break_it(world: World) -> None:
    """Five failures, of messages that then are out of the way."""
    world.http.always("primary", Unavailable("down"))
    for _ in range(5):
        await world.send()
    await world.database.execute("UPDATE messages SET status = 'failed', due_at = NULL")
    assert breaker(world) == 2


async def test_a_sender_with_a_pace_of_its_own_is_held_to_it_and_holds_up_no_other(make_world: MakeWorld) -> None:
    senders = {"MyApp": {"traffic": "transactional"}, "+447700900999": {"traffic": "transactional", "mps": 0.01}}
    world = await make_world(senders=senders, routes=ONE_PROVIDER)
    slow = [await world.accept(sender="+447700900999") for _ in range(3)]
    quick = [await world.accept() for _ in range(3)]
    await world.step()
    assert len(world.http.calls) == 4
    assert [await world.where(message_id) for message_id in quick] == [("sent", None)] * 3
    waiting = [message for message in slow if await world.where(message) == ("queued", "provider_busy")]
    assert len(waiting) == 2
    due = sorted([(await world.message(message_id))["due_at"] for message_id in waiting])
    assert (due[1] - due[0]).total_seconds() == pytest.approx(100, abs=1)


async def test_a_sender_has_its_pace_at_each_provider_and_draws_on_the_providers_too(make_world: MakeWorld) -> None:
    senders = {"MyApp": {"traffic": "transactional", "mps": 0.01}}
    world = await make_world(senders=senders, providers={"primary": provider("primary", mps=500)})
    for _ in range(2):
        await world.accept(validity_s=60.0)  # ends before the sender's next slot at the primary
    await world.step()
    assert sorted(world.http.called()) == ["fallback", "primary"]
    keys = {row["key"] for row in await world.database.fetch("SELECT key FROM pacing WHERE key LIKE 'mps:%'")}
    assert keys == {
        "mps:primary", "mps:primary:other", "mps:primary:sender:MyApp", "mps:fallback:sender:MyApp",
    }  # fmt: skip
