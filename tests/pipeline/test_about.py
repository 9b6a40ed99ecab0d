"""A provider that says no to one sender or one pair of numbers is open to all others: real adapter, real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from service.domain.message import Traffic
from service.domain.outcome import About, Outcome, Refused, Throttled
from service.http import Transport
from service.pipeline.deliver import Deliver
from service.pipeline.gate import Gate
from service.pipeline.pace import Busy
from service.pipeline.screen import Screen
from service.pipeline.submit import Submit
from service.providers.twilio import Twilio
from service.runtime import ProviderAccount
from service.storage.pacing import Slot
from service.targets import TargetPolicy
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WITHOUT_KEY, World, delivering, provider
from tests.providers.cases.twilio import ACCOUNT

ONE_PROVIDER = [{"providers": ["primary"], "hlr": "off"}]
TO, OTHER = "+15555550100", "+15555550101"
Sent = tuple[str, str]
"""Sender and recipient."""


class Messages:
    """Twilio's `Messages.json`: 400 with the code that `says` has for a sender and recipient, else 201."""

    def __init__(self, says: Callable[[Sent], int | None]) -> None:
        self.sent: list[Sent] = []
        self._says = says

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        form = parse_qs((await request.read()).decode())
        sent = form["From"][0], form["To"][0]
        self.sent.append(sent)
        if code := self._says(sent):
            return web.json_response({"code": code, "status": 400}, status=400, headers={"Retry-After": "60"})
        return web.json_response({"sid": f"SM{len(self.sent):032}", "status": "queued"}, status=201)


MakeTwilio = Callable[..., Any]


@pytest.fixture
async def make_twilio(make_world: MakeWorld) -> AsyncIterator[MakeTwilio]:
    """Makes a world whose only provider is Twilio's adapter before a server on loopback."""
    runners: list[web.ServerRunner] = []
    transports: list[Transport] = []

    async def make(says: Callable[[Sent], int | None], **sections: Any) -> tuple[World, Messages]:
        messages = Messages(says)
        runner = web.ServerRunner(web.Server(messages.answer, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        world = await make_world(WITHOUT_KEY, routes=ONE_PROVIDER, **sections)
        adapter = Twilio(replace(ACCOUNT, base_url=f"http://127.0.0.1:{runner.addresses[0][1]}"))
        transports.append(Transport(TargetPolicy.trusting()))
        account = ProviderAccount("primary", world.runtime.providers["primary"].settings, adapter)
        world.runtime = replace(
            world.runtime, providers={"primary": account}, provider_http={"primary": transports[-1]}
        )
        world.submit = Submit(world.runtime)
        world.deliver = Deliver(world.runtime, world.lease, Screen(world.runtime, world.lookup), world.submit)
        return world, messages

    yield make
    for transport in transports:
        await transport.aclose()
    for runner in runners:
        await runner.cleanup()


def full_queue(sent: Sent) -> int | None:
    return 21611 if sent[0] == "Promo" else None


def loop_between_two(sent: Sent) -> int | None:
    return 14107 if sent == ("MyApp", TO) else None


async def test_a_sender_whose_queue_is_full_holds_up_no_otp_of_another_sender(make_twilio: MakeTwilio) -> None:
    world, messages = await make_twilio(full_queue)
    promo = await world.send("marketing", sender="Promo")
    assert await world.where(promo) == ("queued", "provider_busy")
    otp = await world.send("otp", sender="MyApp")
    assert await world.where(otp) == ("sent", None)
    assert messages.sent == [("Promo", TO), ("MyApp", TO)]


async def test_the_senders_own_messages_wait_without_a_call_or_an_attempt(make_twilio: MakeTwilio) -> None:
    world, messages = await make_twilio(full_queue)
    await world.send("marketing", sender="Promo")
    second = await world.send("marketing", sender="Promo", to=OTHER)
    assert await world.where(second) == ("queued", "provider_busy")
    assert await world.attempts(second) == []
    assert 50 < (await world.message(second))["due_in_s"] <= 75
    assert messages.sent == [("Promo", TO)]


async def test_two_numbers_that_may_not_speak_hold_up_no_others(make_twilio: MakeTwilio) -> None:
    world, messages = await make_twilio(loop_between_two)
    looped = await world.send("transactional")
    assert await world.where(looped) == ("queued", "provider_busy")
    others = [await world.send("otp", to=OTHER), await world.send("otp", sender="Promo", to=TO)]
    assert [await world.where(each) for each in others] == [("sent", None)] * 2
    again = await world.send("transactional")
    assert await world.where(again) == ("queued", "provider_busy")
    assert messages.sent == [("MyApp", TO), ("MyApp", OTHER), ("Promo", TO)]


async def test_a_thousand_messages_of_a_paused_sender_are_put_back_and_an_otp_of_another_goes_out(
    make_twilio: MakeTwilio,
) -> None:
    world, messages = await make_twilio(full_queue, deliver={"lanes": {"otp": 10}})
    held = await asyncio.gather(*(world.accept("otp", sender="Promo") for _ in range(1000)))
    otp = await world.accept("otp", sender="MyApp")
    async with delivering(world):
        await world.queue.until_settled({*held, otp})
    assert await world.where(otp) == ("sent", None)
    assert messages.sent.count(("Promo", TO)) <= 10, "those that were under way when the first was throttled"
    tried = await world.database.fetch("SELECT FROM attempts WHERE message_id <> $1", otp)
    assert len(tried) == messages.sent.count(("Promo", TO))


async def test_a_paused_message_takes_no_turn_of_the_pace(make_world: MakeWorld) -> None:
    reserved: list[object] = []

    class Slots:
        async def reserve(self, *asked: object) -> list[Slot]:
            reserved.append(asked)
            return [Slot(0.0, reserved=True)]

    world = await make_world(providers={"primary": provider("primary", mps=1)}, routes=ONE_PROVIDER)
    runtime = replace(world.runtime, pacing=Slots())  # type: ignore[arg-type]
    gate = Gate(world.runtime.providers["primary"], runtime)
    gate.pause(About.SENDER, "MyApp", TO, 60.0)
    with pytest.raises(Busy):
        async with gate.turn(Traffic.OTP, world.client_id, "MyApp", TO):
            pytest.fail("it is paused")
    assert reserved == []


async def test_a_pause_that_begins_while_a_message_waits_for_its_place_stops_it(make_world: MakeWorld) -> None:
    world = await make_world(
        providers={"primary": provider("primary", max_in_flight=1, otp_reserve=0)}, routes=ONE_PROVIDER
    )
    gate = Gate(world.runtime.providers["primary"], world.runtime)
    async with gate.turn(Traffic.OTP, world.client_id, "MyApp", TO):
        waiting = asyncio.create_task(gate.turn(Traffic.OTP, world.client_id, "MyApp", OTHER).__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.pause(About.SENDER, "MyApp", TO, 60.0)
    with pytest.raises(Busy):
        await waiting


@pytest.mark.parametrize("about", [About.SENDER, About.BRAND, About.RECIPIENT, About.PAIR])
async def test_an_otp_that_cannot_wait_for_its_senders_pause_goes_to_the_next_provider(
    world: World, about: About
) -> None:
    world.http.always("primary", Throttled(60.0, about))
    messages = [await world.send("otp") for _ in range(2)]
    assert world.http.called() == ["primary", "fallback", "fallback"]
    assert [await world.where(each) for each in messages] == [("sent", None)] * 2


async def test_a_throttled_account_holds_everything(world: World) -> None:
    world.http.script("primary", Throttled(60.0, About.ACCOUNT))
    await world.send("otp")
    await world.send("otp", sender="Other", to=OTHER)
    assert world.http.called() == ["primary", "fallback", "fallback"]


async def test_a_pause_ends_when_a_message_gets_through_after_it(world: World) -> None:
    world.http.script("primary", Throttled(60.0, About.SENDER))
    first = await world.send("marketing")
    world.ahead_s += 61.0
    await world.again()
    second, third = await world.send("marketing"), await world.send("marketing")
    assert [await world.where(each) for each in (first, second, third)] == [("sent", None)] * 3
    assert world.http.called() == ["primary"] * 4


@pytest.mark.parametrize(
    "answer", [Throttled(0.001, About.SENDER), Throttled(0.001, About.PAIR), Refused("sender", about=About.SENDER)]
)
async def test_what_is_about_a_sender_opens_no_breaker(make_world: MakeWorld, answer: Outcome) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    world.http.always("primary", answer)
    for _ in range(6):
        await world.send()
        world.ahead_s += 10.0
    assert len(world.http.calls) >= 6
    gauge = world.runtime.metrics.registry.get_sample_value("sms_gateway_breaker_state", {"provider": "primary"})
    assert gauge == 0


async def test_a_campaign_does_not_hammer_a_provider_that_refuses_its_sender(world: World) -> None:
    world.http.script("primary", Refused("sender_not_registered", about=About.SENDER))
    for _ in range(3):
        await world.send("marketing", sender="Promo")
    assert world.http.called() == ["primary", "fallback", "fallback", "fallback"]
    world.http.calls.clear()
    await world.send("otp", sender="MyApp")
    await world.send("marketing", sender="Promo", to="+447700900100", country="GB")
    assert world.http.called() == ["primary", "primary"], "another sender, and another country"
    world.ahead_s += 61.0
    await world.send("marketing", sender="Promo")
    assert world.http.called()[-1] == "primary", "a minute later it is asked again"


@pytest.mark.parametrize("about", [each for each in About if each is not About.SENDER])
async def test_only_a_refusal_of_the_sender_sends_its_next_message_elsewhere(world: World, about: About) -> None:
    world.http.script("primary", Refused("no", about=about))
    await world.send("marketing")
    await world.send("marketing")
    assert world.http.called() == ["primary", "fallback", "primary"]


async def test_a_provider_that_refuses_the_sender_is_still_asked_where_nobody_else_takes_it(world: World) -> None:
    world.http.script("primary", Refused("sender_not_registered", about=About.SENDER))
    world.http.always("fallback", Refused("funds", about=About.ACCOUNT))
    await world.send("marketing")
    second = await world.send("marketing")
    assert world.http.called() == ["primary", "fallback", "fallback", "primary"]
    assert await world.where(second) == ("sent", None)


async def test_the_log_says_what_was_refused_and_shows_no_number(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.http.script("primary", Refused("sender_not_registered", "21606", About.SENDER), Throttled(5, About.PAIR))
    await world.send("marketing")
    await world.send("marketing", sender="Other")
    [refused] = [record for record in caplog.records if record.message == "provider refused"]
    assert (refused.about, refused.code) == ("sender", "21606")  # type: ignore[attr-defined]
    [throttled] = [record for record in caplog.records if record.message.startswith("a provider throttles")]
    assert (throttled.about, throttled.wait_s) == ("pair", 5)  # type: ignore[attr-defined]
    assert "5555550100" not in str([vars(record) for record in caplog.records])
