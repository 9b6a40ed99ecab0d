"""The outcome table of DESIGN.md, row by row, where one call tells what to do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from uuid import UUID

import pytest

from service.domain.message import Traffic
from service.domain.outcome import Accepted, Outcome, Refused, Rejected, Throttled, Unavailable
from service.errors import CommitUnknown, LeaseLost, MaybeSent, NotSent, StoreOverloaded, TargetRefused
from service.pipeline.deliver import routes_of
from service.pipeline.submit import Submit, Work
from service.providers.adapter import Capabilities
from service.runtime import Runtime
from service.storage.queue import Begin, Begun, Move, Settlement
from tests import rows
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WITH_KEY, WITHOUT_KEY, WatchedQueue, World, bodies, config, news, provider

TRAFFICS = pytest.mark.parametrize("traffic", ["otp", "transactional", "marketing"])


@TRAFFICS
async def test_an_accepted_message_is_sent_and_waits_for_its_receipt(world: World, traffic: str) -> None:
    world.http.script("primary", Accepted("p-1"))
    message_id = await world.send(traffic)
    message = await world.message(message_id)
    assert (message["status"], message["reason"], message["worker_id"]) == ("sent", None, None)
    assert message["sent_at"] is not None
    assert message["due_in_s"] == pytest.approx(600 + 72 * 3600, abs=5)
    [attempt] = await rows.attempts(world.database, message_id)
    assert (attempt["outcome"], attempt["open"], attempt["provider_message_id"]) == ("accepted", True, "p-1")
    assert world.http.called() == ["primary"]


async def test_a_call_carries_the_key_the_rest_of_the_validity_and_a_callback_url_of_its_attempt(world: World) -> None:
    message_id = await world.accept("otp", validity_s=300.0)
    await rows.pass_time(world.database, message_id, 100)
    await world.step()
    [call] = world.http.calls
    [attempt] = await rows.attempts(world.database, message_id)
    [body] = bodies([call])
    assert call.key == f"{message_id.hex}:primary"
    assert body["to"] == "+15555550100"
    assert 190 <= body["validity_s"] <= 200
    prefix, token = body["callback_url"].rsplit("/", 1)
    assert prefix == "https://sms.example/v1/receipts/primary"
    assert world.runtime.keyring.read_token("primary", token) == attempt["id"]


@TRAFFICS
async def test_a_rejected_message_fails_and_no_other_provider_is_asked(world: World, traffic: str) -> None:
    world.http.script("primary", Rejected("invalid_recipient", code="E7", error_code=1))
    message_id = await world.send(traffic)
    message = await world.message(message_id)
    assert (message["status"], message["reason"], message["error_code"]) == ("failed", "invalid_recipient", 1)
    assert await world.attempts(message_id) == [("primary", "rejected", False, 1)]
    assert world.http.called() == ["primary"]
    assert len(await rows.webhooks(world.database, message_id)) == 1


@TRAFFICS
async def test_a_provider_that_refuses_is_passed_over_for_good(world: World, traffic: str) -> None:
    world.http.script("primary", Refused("no_funds", code="402"))
    world.http.script("fallback", Unavailable("maintenance"), Accepted("f-1"))
    message_id = await world.send(traffic)
    assert await world.where(message_id) == ("queued", "no_provider_available")
    await world.again()
    assert await world.where(message_id) == ("sent", None)
    assert world.http.called() == ["primary", "fallback", "fallback"]
    assert (await rows.attempts(world.database, message_id))[0]["code"] == "402"


@TRAFFICS
async def test_a_message_that_every_provider_refuses_fails(world: World, traffic: str) -> None:
    world.http.always("primary", Refused("unregistered_sender"))
    world.http.always("fallback", Refused("no_funds"))
    message_id = await world.send(traffic)
    assert await world.where(message_id) == ("failed", "refused_by_providers")
    assert world.http.called() == ["primary", "fallback"]


@TRAFFICS
@pytest.mark.parametrize(
    "answer",
    [
        Unavailable("maintenance"),
        NotSent("no connection: ConnectionRefusedError"),
        TargetRefused("only http and https are called"),
    ],
)
async def test_a_message_that_an_unavailable_provider_surely_did_not_take_goes_to_the_next(
    world: World, traffic: str, answer: Outcome | Exception
) -> None:
    world.http.script("primary", answer)
    message_id = await world.send(traffic)
    assert await world.where(message_id) == ("sent", None)
    assert await world.attempts(message_id) == [
        ("primary", "unavailable", False, 1),
        ("fallback", "accepted", True, 1),
    ]
    failovers = world.runtime.metrics.registry.get_sample_value(
        "sms_gateway_failovers_total", {"origin": "primary", "target": "fallback"}
    )
    assert failovers == 1


@TRAFFICS
async def test_a_message_is_put_back_for_a_moment_when_no_provider_is_available(world: World, traffic: str) -> None:
    world.http.script("primary", Unavailable("down"))
    world.http.script("fallback", NotSent("down"))
    message_id = await world.send(traffic)
    message = await world.message(message_id)
    assert (message["status"], message["reason"]) == ("queued", "no_provider_available")
    assert 0 < message["due_in_s"] <= 0.5
    await world.again()
    assert await world.where(message_id) == ("sent", None)


@pytest.mark.parametrize("traffic", ["transactional", "marketing"])
async def test_a_throttled_message_waits_as_told_and_goes_to_no_other_provider(world: World, traffic: str) -> None:
    world.http.script("primary", Throttled(7.0))
    message_id = await world.send(traffic)
    message = await world.message(message_id)
    assert (message["status"], message["reason"]) == ("queued", "provider_busy")
    assert 6 < message["due_in_s"] <= 7
    assert world.http.called() == ["primary"]


async def test_a_throttled_message_that_cannot_wait_that_long_goes_to_the_next_provider(world: World) -> None:
    world.http.script("primary", Throttled(70.0))
    message_id = await world.send("marketing", validity_s=60.0)
    assert await world.where(message_id) == ("sent", None)
    assert world.http.called() == ["primary", "fallback"]


async def test_a_throttled_otp_does_not_wait_longer_than_two_seconds(world: World) -> None:
    world.http.script("primary", Throttled(3.0))
    message_id = await world.send("otp")
    assert world.http.called() == ["primary", "fallback"]
    world.http.calls.clear()
    waiting_id = await world.send("otp")
    assert world.http.called() == ["fallback"], "the pause holds for every message"
    assert [await world.where(each) for each in (message_id, waiting_id)] == [("sent", None)] * 2


@pytest.mark.parametrize(("validity_s", "called"), [(7200.0, ["primary"]), (1000.0, ["primary", "fallback"])])
async def test_a_long_throttle_is_waited_for_in_parts_and_only_where_the_message_lives_to_its_end(
    world: World, validity_s: float, called: list[str]
) -> None:
    world.http.script("primary", Throttled(3600.0))
    message_id = await world.send("marketing", validity_s=validity_s)
    assert world.http.called() == called
    if called == ["primary"]:
        assert await world.where(message_id) == ("queued", "provider_busy")
        assert 290 < (await world.message(message_id))["due_in_s"] <= 300


async def test_an_otps_patience_counts_from_when_it_was_due_first(world: World) -> None:
    world.http.always("primary", Throttled(1.0))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("queued", "provider_busy")
    await rows.pass_time(world.database, message_id, 2.0)
    world.ahead_s += 2.0
    await world.step()
    assert world.http.called() == ["primary", "primary", "fallback"]
    assert await world.where(message_id) == ("sent", None)


async def test_a_throttled_otp_waits_when_told_to_come_back_at_once(world: World) -> None:
    world.http.script("primary", Throttled(1.0))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("queued", "provider_busy")
    assert world.http.called() == ["primary"]


async def test_throttled_without_a_time_waits_a_little(world: World) -> None:
    world.http.script("primary", Throttled(None))
    message_id = await world.send()
    assert 0 < (await world.message(message_id))["due_in_s"] <= 1


async def test_an_otp_is_looked_at_soon_again_when_one_provider_throttles_and_the_next_is_down(world: World) -> None:
    world.http.script("primary", Throttled(60.0))
    world.http.script("fallback", Unavailable("down"))
    message_id = await world.send("otp")
    assert (await world.message(message_id))["due_in_s"] <= 1


async def test_a_stale_otp_is_never_sent(world: World) -> None:
    message_id = await world.accept("otp", validity_s=300.0)
    await rows.pass_time(world.database, message_id, 301)
    await world.step()
    assert await world.where(message_id) == ("failed", "expired")
    assert world.http.calls == []
    assert await world.attempts(message_id) == []


async def test_a_message_that_expires_in_the_hands_of_its_worker_is_not_sent(world: World) -> None:
    message_id = await world.accept("otp")
    work = await claim(world)
    await rows.pass_time(world.database, message_id, 601)
    with pytest.raises(LeaseLost):
        await Submit(world.runtime)(work)
    assert world.http.calls == []
    assert await world.attempts(message_id) == []


@pytest.mark.parametrize("left_s", [-1.0, 0.9])
async def test_a_worker_whose_lease_is_over_calls_nobody(world: World, left_s: float) -> None:
    message_id = await world.accept()
    work = await claim(world)
    await world.database.execute("UPDATE workers SET expires_at = now() + make_interval(secs => $1)", left_s)
    with pytest.raises(LeaseLost):
        await Submit(world.runtime)(work)
    assert world.http.calls == []
    assert await world.attempts(message_id) == [], "a call that was not made leaves no attempt in doubt"


async def test_a_message_that_a_receipt_has_ended_meanwhile_is_not_sent(world: World) -> None:
    await world.accept()
    work = await claim(world)
    await world.database.execute("UPDATE messages SET status = 'delivered', worker_id = NULL")
    await world.deliver.deliver(work.message)
    assert world.http.calls == []


async def test_a_call_ends_before_the_lease_does(make_world: MakeWorld) -> None:
    world = await make_world(deliver={"lease_s": 6.0})
    await world.send()
    [call] = world.http.calls
    assert 3 < call.timeout_s <= 5
    patient = await make_world(deliver={"lease_s": 600.0})
    await patient.send()
    assert [call.timeout_s for call in patient.http.calls] == [10]


class Delayed(WatchedQueue):
    """Grants calls of `call_s`, and tells how long the grant took."""

    def __init__(self, runtime: Runtime, call_s: float) -> None:
        super().__init__(runtime)
        self.took_s = 0.0
        self._call_s = call_s

    async def begin(self, item: Begin) -> Begun | None:
        began_s = time.monotonic()
        begun = await super().begin(item)
        self.took_s = time.monotonic() - began_s
        return None if begun is None else replace(begun, call_s=self._call_s)


async def test_the_time_that_the_attempt_took_to_be_stored_is_taken_off_the_call(world: World) -> None:
    await world.accept()
    work = await claim(world)
    queue = Delayed(world.runtime, call_s=5.0)
    await Submit(replace(world.runtime, queue=queue))(work)
    [call] = world.http.calls
    assert 0 < call.timeout_s <= 5 - queue.took_s


async def test_a_worker_that_hears_too_late_that_it_may_call_does_not(world: World) -> None:
    await world.accept()
    work = await claim(world)
    with pytest.raises(LeaseLost):
        await Submit(replace(world.runtime, queue=Delayed(world.runtime, call_s=1e-6)))(work)
    assert world.http.calls == []
    assert await world.attempts(work.message.id) == [("primary", "unavailable", False, 1)]


class Silent(WatchedQueue):
    """Stores attempts without saying so, as a connection does that breaks at the wrong moment."""

    async def begin(self, item: Begin) -> Begun | None:
        await super().begin(item)
        raise CommitUnknown("the connection broke")


@pytest.mark.parametrize("capabilities", [WITH_KEY, WITHOUT_KEY])
async def test_an_attempt_that_may_be_stored_but_was_not_called_leaves_no_doubt(
    make_world: MakeWorld, capabilities: Capabilities
) -> None:
    world = await make_world(capabilities)
    message_id = await world.accept("marketing")
    work = await claim(world)
    with pytest.raises(CommitUnknown):
        await Submit(replace(world.runtime, queue=Silent(world.runtime)))(work)
    assert await world.attempts(message_id) == [("primary", "unavailable", False, 1)]
    await world.runtime.upkeep.release(world.lease.worker_id, [message_id], [])
    await world.step()
    assert await world.where(message_id) == ("sent", None)
    assert len(world.http.calls) == 1


async def test_a_store_error_before_there_was_an_attempt_is_told_at_once(make_world: MakeWorld) -> None:
    """Nothing is in doubt, so nothing is to be settled, and the message's place in its lane is free."""

    class Away(WatchedQueue):
        async def begin(self, _: Begin) -> Begun | None:
            raise StoreOverloaded("no connection")

    world = await make_world()
    await world.accept()
    work = await claim(world)
    queue = Away(world.runtime)
    with pytest.raises(StoreOverloaded):
        await Submit(replace(world.runtime, queue=queue))(work)
    assert queue.settled == []


async def test_the_attempt_is_on_disk_before_the_call(world: World) -> None:
    seen = []

    async def look() -> Outcome:
        seen.extend(await rows.attempts(world.database, message_id))
        return Accepted("p-1")

    message_id = await world.accept()
    world.http.script("primary", look)
    await world.step()
    assert [(attempt["provider"], attempt["outcome"], attempt["open"]) for attempt in seen] == [("primary", None, True)]


async def test_a_receipt_that_is_quicker_than_the_answer_stands_and_the_providers_id_is_kept(world: World) -> None:
    async def receipt_first() -> Outcome:
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "delivered"))
        return Accepted("p-9")

    message_id = await world.accept()
    world.http.script("primary", receipt_first)
    await world.step()
    assert await world.where(message_id) == ("delivered", None)
    [attempt] = await rows.attempts(world.database, message_id)
    assert (attempt["outcome"], attempt["open"], attempt["provider_message_id"]) == ("accepted", False, "p-9")
    assert len(await rows.webhooks(world.database, message_id)) == 1


async def test_a_sent_receipt_beats_a_lost_answer(world: World) -> None:
    async def receipt_then_nothing() -> Outcome:
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "sent"))
        raise MaybeSent("no usable reply: TimeoutError")

    message_id = await world.accept("marketing")
    world.http.script("primary", receipt_then_nothing)
    await world.step()
    await world.again()
    assert await world.where(message_id) == ("sent", None)
    assert world.http.called() == ["primary"]


async def test_a_rejection_does_not_undo_what_a_receipt_proved(world: World) -> None:
    async def receipt_then_rejected() -> Outcome:
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "sent"))
        return Rejected("duplicate")

    message_id = await world.accept("marketing")
    world.http.script("primary", receipt_then_rejected)
    await world.step()
    assert (await world.message(message_id))["status"] == "sending", "it waits for the receipt that must follow"
    [attempt] = await rows.attempts(world.database, message_id)
    await world.receive.apply(news(attempt["id"], "delivered"))
    assert await world.where(message_id) == ("delivered", None)


async def test_a_message_without_a_route_fails(make_world: MakeWorld) -> None:
    world = await make_world(routes=[{"providers": ["primary"], "countries": ["GB"], "hlr": "off"}])
    message_id = await world.send()
    assert await world.where(message_id) == ("failed", "no_route")
    assert world.http.calls == []


async def test_the_first_route_that_matches_is_taken(make_world: MakeWorld) -> None:
    world = await make_world(
        routes=[
            {"providers": ["primary"], "traffic": "otp", "hlr": "off"},
            {"providers": ["fallback"], "hlr": "off"},
        ]
    )
    await world.send("otp")
    await world.send("marketing")
    assert world.http.called() == ["primary", "fallback"]


async def test_an_adapter_that_raises_has_its_message_put_back_for_a_while_and_the_same_call_repeated(
    world: World,
) -> None:
    world.http.script("primary", ValueError("a bug"))
    message_id = await world.send()
    message = await world.message(message_id)
    assert (message["status"], message["reason"], message["worker_id"]) == ("sending", "internal_error", None)
    assert 25 < message["due_in_s"] <= 30
    assert await world.attempts(message_id) == [("primary", None, True, 1)]
    errors = world.runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "deliver"})
    assert errors == 1
    await world.again()
    assert await world.where(message_id) == ("sent", None)
    assert await world.attempts(message_id) == [("primary", "accepted", True, 2)]


async def test_many_messages_at_once_are_each_sent_once(world: World) -> None:
    message_ids = [await world.accept("otp") for _ in range(30)]
    await asyncio.gather(world.step(), world.step())
    assert sorted(call.key for call in world.http.calls) == sorted(f"{each.hex}:primary" for each in message_ids)


async def test_a_settlement_of_a_message_that_is_not_the_workers_changes_nothing(world: World) -> None:
    message_id = await world.accept()
    work = await claim(world)
    stranger = Settlement(message_id, UUID(int=1), Move.FAIL, reason="no_route")
    assert await world.runtime.queue.settle(stranger) is None
    assert (await world.message(message_id))["status"] == "sending"
    assert await world.runtime.queue.settle(work.settle(Move.FAIL, "no_route")) == "failed"


def test_a_route_says_nothing_of_on_unknown_unless_it_is_told_to() -> None:
    routes = routes_of(
        config(
            providers={"third": provider("third")},
            routes=[
                {"providers": ["primary"], "countries": ["US"], "on_unknown": "hold", "hlr_fail": "closed"},
                {"providers": ["third"]},
            ],
        )
    )
    assert [(route.on_unknown, route.hlr_fails_open) for route in routes] == [("hold", False), (None, True)]
    assert routes[0].countries == frozenset({"US"})


async def claim(world: World) -> Work:
    """The one message that is due, in the worker's hands."""
    found = [
        message for lane in Traffic for message in await world.runtime.queue.claim(lane, world.lease.worker_id, {}, 10)
    ]
    [message] = found
    return Work(message, routes_of(world.runtime.config)[0], asyncio.get_running_loop().time())


@pytest.mark.parametrize(("per_message", "key"), [(True, None), (False, "p-1")])
async def test_only_receipts_that_name_nothing_else_are_found_by_the_providers_id(
    make_world: MakeWorld, per_message: bool, key: str | None
) -> None:
    world = await make_world(Capabilities(callback_per_message=per_message))
    world.http.script("primary", Accepted("p-1"))
    [attempt] = await rows.attempts(world.database, await world.send())
    assert (attempt["provider_message_id"], attempt["receipt_key"]) == ("p-1", key)
