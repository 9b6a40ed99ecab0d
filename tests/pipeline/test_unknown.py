"""`Unknown` sticks: what follows when nobody can say whether a provider took a message."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from service.domain.outcome import Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.errors import MaybeSent
from service.providers.adapter import Capabilities
from tests import rows
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WITH_KEY, WITHOUT_KEY, World, bodies, news

NOT_CLEARING = [
    pytest.param(Unknown("http_500"), id="unknown"),
    pytest.param(MaybeSent("no usable reply"), id="maybe sent"),
    pytest.param(Unavailable("down"), id="unavailable"),
    pytest.param(Throttled(1e-9), id="throttled"),
    pytest.param(Refused("no_funds"), id="refused"),
]
PATIENT = pytest.mark.parametrize("traffic", ["transactional", "marketing"])
ONE_PROVIDER = [{"providers": ["primary"], "hlr": "off"}]


async def test_an_otp_of_unknown_fate_is_repeated_once_with_the_same_key_and_body(world: World) -> None:
    world.http.script("primary", MaybeSent("no usable reply"), Accepted("p-2"))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("sent", None)
    assert await world.attempts(message_id) == [("primary", "accepted", True, 2)]
    first, second = world.http.calls
    assert (first.provider, first.key, first.body) == (second.provider, second.key, second.body)


@pytest.mark.parametrize("second", NOT_CLEARING)
async def test_an_otp_still_in_doubt_after_its_repeat_is_resent_through_the_next_provider(
    world: World, second: Outcome | Exception
) -> None:
    world.http.script("primary", Unknown("http_503"), second)
    message_id = await world.send("otp")
    assert world.http.called() == ["primary", "primary", "fallback"]
    assert await world.where(message_id) == ("sent", None)
    assert await world.attempts(message_id) == [("primary", "unknown", True, 2), ("fallback", "accepted", True, 1)]


@pytest.mark.parametrize("capabilities", [WITH_KEY, WITHOUT_KEY], ids=["with key", "without key"])
async def test_what_a_receipt_says_is_sent_while_its_call_hangs_goes_to_no_other_provider(
    make_world: MakeWorld, capabilities: Capabilities
) -> None:
    world = await make_world(capabilities)

    async def sent_but_not_answered() -> Outcome:
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "sent"))
        return Unknown("read_timeout")

    world.http.script("primary", sent_but_not_answered)
    message_id = await world.accept("otp")
    await world.step()
    assert world.http.called() == ["primary"]
    await world.again()
    assert await world.where(message_id) == ("sent", None)
    assert world.http.called() == ["primary"]


async def test_an_otp_that_is_rejected_on_its_repeat_fails(world: World) -> None:
    world.http.script("primary", Unknown("http_500"), Rejected("opted_out"))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("failed", "opted_out")
    assert await world.attempts(message_id) == [("primary", "rejected", False, 2)]
    assert world.http.called() == ["primary", "primary"]


async def test_an_otp_goes_on_at_once_where_the_provider_knows_no_keys(make_world: MakeWorld) -> None:
    world = await make_world(WITHOUT_KEY)
    world.http.script("primary", Unknown("http_500"))
    message_id = await world.send("otp")
    assert world.http.called() == ["primary", "fallback"]
    assert await world.attempts(message_id) == [("primary", "unknown", True, 1), ("fallback", "accepted", True, 1)]


async def test_an_otp_does_not_wait_for_a_busy_provider_to_repeat(make_world: MakeWorld) -> None:
    async def unknown_and_meanwhile_throttled() -> Outcome:
        await world.send("otp")  # the second message learns that the provider wants a pause
        return Unknown("http_500")

    world = await make_world()
    world.http.script("primary", unknown_and_meanwhile_throttled, Throttled(60.0))
    message_id = await world.send("otp")
    assert world.http.called() == ["primary", "primary", "fallback", "fallback"]
    assert await world.attempts(message_id) == [("primary", "unknown", True, 1), ("fallback", "accepted", True, 1)]


async def test_an_otp_in_doubt_everywhere_waits_for_a_receipt(world: World) -> None:
    world.http.always("primary", Unknown("http_500"))
    world.http.always("fallback", Unknown("http_500"))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("sending", "submit_unknown")
    message = await world.message(message_id)
    assert message["worker_id"] is None
    assert message["due_in_s"] == pytest.approx(600 + 72 * 3600, abs=5)
    assert world.http.called() == ["primary", "primary", "fallback", "fallback"]
    await world.again()
    assert len(world.http.calls) == 4, "nobody is called again"


async def test_an_otp_in_doubt_whose_next_provider_is_down_tries_that_one_again(world: World) -> None:
    world.http.script("primary", Unknown("http_500"), Unknown("http_500"))
    world.http.script("fallback", Unavailable("down"))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("sending", "submit_unknown")
    assert (await world.message(message_id))["due_in_s"] < 1
    await world.again()
    assert world.http.called() == ["primary", "primary", "fallback", "fallback"]
    assert await world.where(message_id) == ("sent", None)


async def test_an_otp_is_held_where_its_route_says_so(make_world: MakeWorld) -> None:
    world = await make_world(routes=[{"providers": ["primary", "fallback"], "hlr": "off", "on_unknown": "hold"}])
    world.http.always("primary", Unknown("http_500"))
    message_id = await world.send("otp")
    assert await world.where(message_id) == ("sending", "submit_unknown")
    assert world.http.called() == ["primary", "primary"]


@PATIENT
@pytest.mark.parametrize("second", NOT_CLEARING)
async def test_other_traffic_in_doubt_is_repeated_to_the_same_provider_only(
    world: World, traffic: str, second: Outcome | Exception
) -> None:
    world.http.script("primary", Unknown("http_500"), second, Accepted("p-3"))
    message_id = await world.send(traffic)
    parked = await world.message(message_id)
    assert (parked["status"], parked["reason"], parked["worker_id"]) == ("sending", "submit_unknown", None)
    assert parked["due_in_s"] + 0.1 >= 0.5
    await world.again()
    assert await world.where(message_id) == ("sending", "submit_unknown"), "the second answer does not clear it"
    await world.again()
    assert await world.where(message_id) == ("sent", None)
    assert await world.attempts(message_id) == [("primary", "accepted", True, 3)]
    assert world.http.called() == ["primary"] * 3
    assert len({(call.key, bodies([call])[0]["callback_url"]) for call in world.http.calls}) == 1


@PATIENT
async def test_other_traffic_rejected_on_its_repeat_fails(world: World, traffic: str) -> None:
    world.http.script("primary", Unknown("http_500"), Rejected("content"))
    message_id = await world.send(traffic)
    await world.again()
    assert await world.where(message_id) == ("failed", "content")
    assert world.http.called() == ["primary", "primary"]


async def test_a_repeat_has_the_same_body_however_late_it_is(world: World) -> None:
    world.http.script("primary", Unknown("http_500"))
    message_id = await world.send("marketing")
    await world.database.execute("UPDATE messages SET due_at = now() WHERE id = $1", message_id)
    await world.step()
    first, second = world.http.calls
    assert first.body == second.body


async def test_repeats_come_less_and_less_often(world: World) -> None:
    world.http.always("primary", Unknown("http_500"))
    message_id = await world.send("marketing", validity_s=36_000.0)
    waits_s = []
    for _ in range(4):
        waits_s.append((await world.message(message_id))["due_in_s"])
        await world.again()
    for wait_s, doubled_s in zip(waits_s, (1, 1, 2, 4), strict=True):
        assert doubled_s / 2 - 0.2 < wait_s <= doubled_s


@PATIENT
async def test_other_traffic_is_held_where_the_provider_knows_no_keys(make_world: MakeWorld, traffic: str) -> None:
    world = await make_world(WITHOUT_KEY)
    world.http.script("primary", MaybeSent("no usable reply"))
    message_id = await world.send(traffic)
    assert await world.where(message_id) == ("sending", "submit_unknown")
    await world.again()
    assert world.http.called() == ["primary"], "neither repeated nor doubled"


async def test_marketing_is_resent_where_its_route_says_so(make_world: MakeWorld) -> None:
    world = await make_world(
        WITHOUT_KEY, routes=[{"providers": ["primary", "fallback"], "hlr": "off", "on_unknown": "resend"}]
    )
    world.http.script("primary", Unknown("http_500"))
    message_id = await world.send("marketing")
    assert world.http.called() == ["primary", "fallback"]
    assert await world.where(message_id) == ("sent", None)


async def test_a_repeat_waits_for_a_breaker_that_is_open(make_world: MakeWorld) -> None:
    world = await make_world(routes=ONE_PROVIDER)
    world.http.always("primary", Unknown("http_500"))
    for number in range(5):
        await world.accept("marketing", to=f"+1555555010{number}")
    await world.step()
    calls = len(world.http.calls)
    await world.again()
    assert len(world.http.calls) == calls
    waiting = await world.database.fetch("SELECT extract(epoch FROM due_at - now()) AS s, status, reason FROM messages")
    assert {(row["status"], row["reason"]) for row in waiting} == {("sending", "submit_unknown")}
    assert all(3 < row["s"] <= 5 for row in waiting)


@pytest.mark.parametrize("capable", [True, False])
async def test_a_held_message_fails_once_no_receipt_can_be_expected(make_world: MakeWorld, capable: bool) -> None:
    world = await make_world() if capable else await make_world(WITHOUT_KEY)
    world.http.always("primary", Unknown("http_500"))
    message_id = await world.send("marketing")
    await rows.pass_time(world.database, message_id, 601)
    await world.again()
    assert await world.where(message_id) == ("sending", "submit_unknown"), "a receipt may still come"
    await rows.pass_time(world.database, message_id, 72 * 3600)
    calls = len(world.http.calls)
    await world.step()
    assert await world.where(message_id) == ("failed", "submit_unknown")
    assert len(world.http.calls) == calls
    assert [(w["status"], w["reason"]) for w in await rows.webhooks(world.database, message_id)] == [
        ("failed", "submit_unknown")
    ]
    assert all(not still_open for _, _, still_open, _ in await world.attempts(message_id))


async def test_a_receipt_ends_a_held_message(world: World) -> None:
    world.http.always("primary", Unknown("http_500"))
    message_id = await world.send("marketing")
    [attempt] = await rows.attempts(world.database, message_id)
    await world.receive.apply(news(attempt["id"], "undelivered", 27))
    assert await world.where(message_id) == ("undelivered", "absent_subscriber")
    assert await world.again() == 0


async def test_a_late_delivered_corrects_submit_unknown_with_a_second_webhook(world: World) -> None:
    world.http.always("primary", Unknown("http_500"))
    message_id = await world.send("marketing")
    await rows.pass_time(world.database, message_id, 600 + 72 * 3600 + 1)
    await world.step()
    [attempt] = await rows.attempts(world.database, message_id)
    await world.receive.apply(news(attempt["id"], "delivered", 0))
    assert await world.where(message_id) == ("delivered", None)
    first, second = await rows.webhooks(world.database, message_id)
    assert (first["status"], second["status"]) == ("failed", "delivered")
    assert first["id"] != second["id"]


async def test_a_crash_in_a_call_is_unknown_and_an_otp_goes_on(make_world: MakeWorld) -> None:
    dead, alive = await make_world(), await make_world()
    call = Hanging(dead, Accepted("p-1"))
    message_id = await call.start("otp")
    await call.die()
    assert await alive.runtime.upkeep.take_over(dead.lease.worker_id) == 1
    assert await alive.attempts(message_id) == [("primary", "unknown", True, 1)]
    assert (await alive.message(message_id))["status"] == "sending"
    alive.http.script("primary", Unavailable("down"))
    await alive.step()
    assert alive.http.called() == ["primary", "fallback"]
    assert alive.http.calls[0].key == dead.http.calls[0].key
    assert alive.http.calls[0].body == dead.http.calls[0].body
    assert await alive.where(message_id) == ("sent", None)


async def test_a_crash_in_a_call_never_sends_marketing_to_another_provider(make_world: MakeWorld) -> None:
    dead, alive = await make_world(), await make_world()
    call = Hanging(dead, Accepted("p-1"))
    message_id = await call.start("marketing")
    await call.die()
    await alive.runtime.upkeep.take_over(dead.lease.worker_id)
    await alive.step()
    assert alive.http.called() == ["primary"]
    assert alive.http.calls[0].key == dead.http.calls[0].key
    assert await alive.attempts(message_id) == [("primary", "accepted", True, 2)]


async def test_the_late_answer_of_a_worker_that_was_given_up_still_counts(make_world: MakeWorld) -> None:
    slow, other = await make_world(), await make_world()
    call = Hanging(slow, Accepted("p-1"))
    message_id = await call.start("marketing")
    await call.taken_over_by(other)
    await call.answer()
    assert await other.attempts(message_id) == [("primary", "accepted", True, 1)]
    await other.step()
    assert await other.where(message_id) == ("sent", None)
    assert other.http.calls == []


async def test_a_late_refusal_does_not_clear_a_call_that_another_worker_has_repeated(make_world: MakeWorld) -> None:
    slow, other = await make_world(), await make_world()
    call = Hanging(slow, Unavailable("down"))
    message_id = await call.start("marketing")
    await call.taken_over_by(other)
    other.http.always("primary", Unknown("http_500"))
    await other.step()
    await call.answer()
    assert await other.attempts(message_id) == [("primary", "unknown", True, 2)]
    assert (await other.message(message_id))["status"] == "sending"


async def test_a_late_refusal_wakes_a_message_that_is_held_for_it(make_world: MakeWorld) -> None:
    slow, other = await make_world(WITHOUT_KEY), await make_world(WITHOUT_KEY)
    call = Hanging(slow, Unavailable("down"))
    message_id = await call.start("marketing")
    await call.taken_over_by(other)
    await other.step()
    assert await other.where(message_id) == ("sending", "submit_unknown")
    assert other.http.calls == []
    await call.answer()
    await other.step()
    assert await other.where(message_id) == ("sent", None)
    assert await other.attempts(message_id) == [
        ("primary", "unavailable", False, 1),
        ("fallback", "accepted", True, 1),
    ]


async def test_a_late_rejection_ends_a_message_that_is_held_for_it(make_world: MakeWorld) -> None:
    """It is final for the message: no other provider is asked."""
    slow, other = await make_world(WITHOUT_KEY), await make_world(WITHOUT_KEY)
    call = Hanging(slow, Rejected("invalid_number"))
    message_id = await call.start("marketing")
    await call.taken_over_by(other)
    await other.step()
    assert await other.where(message_id) == ("sending", "submit_unknown")
    await call.answer()
    assert await other.where(message_id) == ("failed", "invalid_number")
    assert await other.step() == 0
    assert other.http.calls == []


async def test_what_was_unknown_says_why_when_a_late_answer_has_cleared_it_up(make_world: MakeWorld) -> None:
    slow, other = await make_world(WITHOUT_KEY), await make_world(WITHOUT_KEY)
    call = Hanging(slow, Accepted("p-1"))
    message_id = await call.start("otp")
    await call.taken_over_by(other)
    await other.step()
    await call.answer()
    told = [(row["provider"], row["outcome"], row["reason"]) for row in await rows.attempts(slow.database, message_id)]
    assert told == [("primary", "accepted", "worker_died"), ("fallback", "accepted", None)]


async def test_a_late_refusal_ends_a_message_of_which_the_other_provider_said_that_it_failed(
    make_world: MakeWorld,
) -> None:
    slow, other = await make_world(WITHOUT_KEY), await make_world(WITHOUT_KEY)
    call = Hanging(slow, Unavailable("down"))
    message_id = await call.start("otp")
    await call.taken_over_by(other)
    await other.step()
    [_, attempt] = await rows.attempts(other.database, message_id)
    await other.receive.apply(news(attempt["id"], "undelivered", 27))
    assert (await other.message(message_id))["status"] == "sent"
    await call.answer()
    assert await other.runtime.upkeep.without_receipt() == [message_id], "and not in three days"


async def test_a_late_refusal_wakes_nobody_while_another_call_is_in_doubt(make_world: MakeWorld) -> None:
    slow, other = await make_world(WITHOUT_KEY), await make_world(WITHOUT_KEY)
    call = Hanging(slow, Unavailable("down"))
    message_id = await call.start("otp")
    await call.taken_over_by(other)
    other.http.always("fallback", Unknown("http_500"))
    await other.step()
    assert await other.where(message_id) == ("sending", "submit_unknown")
    await call.answer()
    assert await other.step() == 0
    assert other.http.called() == ["fallback"]


async def test_the_provider_in_doubt_may_have_left_the_configuration(make_world: MakeWorld) -> None:
    before = await make_world()
    before.http.always("primary", Unknown("http_500"))
    message_id = await before.send("marketing")
    after = await make_world(without="primary", routes=[{"providers": ["fallback"], "hlr": "off"}])
    await after.again()
    assert await after.where(message_id) == ("sending", "submit_unknown")
    assert after.http.calls == []


async def test_a_message_in_doubt_without_a_route_is_held(make_world: MakeWorld) -> None:
    before = await make_world()
    before.http.always("primary", Unknown("http_500"))
    message_id = await before.send("marketing")
    after = await make_world(routes=[{"providers": ["primary"], "countries": ["GB"]}])
    await after.again()
    assert (await after.message(message_id))["status"] == "sending"
    assert after.http.calls == []


class Hanging:
    """A message whose call to the primary is under way until `answer`, in a task that a test may also leave alone."""

    def __init__(self, world: World, outcome: Outcome) -> None:
        self._world = world
        self._outcome = outcome
        self._called, self._answer = asyncio.Event(), asyncio.Event()
        world.http.script("primary", self._hang)

    async def start(self, traffic: str) -> UUID:
        message_id = await self._world.accept(traffic)
        self._task = asyncio.create_task(self._world.step())
        await asyncio.wait_for(self._called.wait(), 5)
        return message_id

    async def _hang(self) -> Outcome:
        self._called.set()
        await self._answer.wait()
        return self._outcome

    async def taken_over_by(self, other: World) -> None:
        """Its worker's lease runs out, and another one goes on."""
        await rows.end_lease(self._world.database, self._world.lease.worker_id)
        await other.runtime.upkeep.take_over(self._world.lease.worker_id)

    async def answer(self) -> None:
        self._answer.set()
        await self._task

    async def die(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await rows.end_lease(self._world.database, self._world.lease.worker_id)
