"""Webhooks: signed, retried, isolated from each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.domain.backoff import WEBHOOK_SCHEDULE_S
from service.domain.ids import new_id, show
from service.errors import StoreOverloaded
from service.http import Transport
from service.pipeline.notify import Notify
from service.storage.outbox import DeliveryResult, DueTarget, Outbox, Room
from service.storage.queue import Move, Settlement
from service.targets import TargetPolicy
from tests import rows
from tests.listener import Listener
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import SECRET, World, news

OLD_SECRET = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk"


class WatchedOutbox(Outbox):
    """Tells when results have been stored."""

    def __init__(self, world: World) -> None:
        super().__init__(world.database)
        self.results: list[DeliveryResult] = []
        self._blocks = 0
        self._changed = asyncio.Condition()

    async def settle(self, result: DeliveryResult) -> None:
        await super().settle(result)
        async with self._changed:
            self.results.append(result)
            self._changed.notify_all()

    async def block(self, *arguments: Any) -> None:
        await super().block(*arguments)
        async with self._changed:
            self._blocks += 1
            self._changed.notify_all()

    async def until(self, results: int, blocks: int = 0) -> None:
        """Wait for so many results, and so many pauses of a target, which come after them."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: len(self.results) >= results and self._blocks >= blocks)


@asynccontextmanager
async def notifying(world: World, **parts: Any) -> AsyncIterator[WatchedOutbox]:
    """The webhook loop runs; at the end what is under way is waited for."""
    outbox = parts.pop("outbox", None) or WatchedOutbox(world)
    notify = Notify(replace(world.runtime, outbox=outbox, **parts), world.lease)
    running = asyncio.create_task(notify.run())
    try:
        yield outbox
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await notify.drain(5)


async def delivered(world: World, url: str | None, **changes: Any) -> UUID:
    """A message that has just been delivered; its webhook is due."""
    message_id = await world.send(callback_url=url, **changes)
    [attempt] = await rows.attempts(world.database, message_id)
    await world.receive.apply(news(attempt["id"], "delivered", 0))
    return message_id


async def webhook(world: World, message_id: UUID) -> dict[str, Any]:
    [found] = await rows.webhooks(world.database, message_id)
    return found


async def due_in_s(world: World, message_id: UUID) -> float:
    row = await world.database.fetchrow(
        "SELECT extract(epoch FROM due_at - now())::float8 AS s FROM webhook_deliveries WHERE message_id = $1",
        message_id,
    )
    assert row is not None
    s: float = row["s"]
    return s


async def all_due(world: World) -> None:
    await world.database.execute("UPDATE webhook_deliveries SET due_at = now() WHERE due_at IS NOT NULL")
    await world.database.execute("UPDATE webhook_targets SET blocked_until = now()")
    world.runtime.hints.webhooks.set()


async def test_a_webhook_says_what_became_of_the_message_and_its_signature_verifies(
    world: World, listener: Listener
) -> None:
    message_id = await delivered(world, f"{listener.url}/hook?a=b", reference="r-1", segments=2)
    async with notifying(world):
        [received] = await listener.wait_for(1)
    verified = Webhook(SECRET).verify(received.body, dict(received.headers))
    assert received.path == "/hook?a=b"
    assert received.headers["content-type"] == "application/json"
    at = verified.pop("delivered_at")
    assert at.endswith("Z")
    assert verified == {
        "type": "message.delivered",
        "message_id": show("msg", message_id),
        "status": "delivered",
        "error_code": 0,
        "reason": None,
        "to": "+15555550100",
        "from": "MyApp",
        "reference": "r-1",
        "batch_id": None,
        "segments": 2,
    }
    found = await webhook(world, message_id)
    assert received.headers["webhook-id"] == show("whd", found["id"])
    assert (found["state"], found["attempts"], found["last_status"], found["last_error"]) == ("delivered", 1, 204, None)


async def test_a_failed_message_has_no_delivery_time_and_may_have_a_batch(world: World, listener: Listener) -> None:
    message_id = await world.send(callback_url=listener.url)
    batch_id = new_id()
    await world.database.execute("UPDATE messages SET batch_id = $1", batch_id)
    [attempt] = await rows.attempts(world.database, message_id)
    await world.receive.apply(news(attempt["id"], "undelivered", 27))
    async with notifying(world):
        [received] = await listener.wait_for(1)
    body = received.json()
    assert (body["type"], body["delivered_at"], body["reason"]) == ("message.undelivered", None, "absent_subscriber")
    assert body["batch_id"] == show("bat", batch_id)


async def test_a_rotated_secret_signs_beside_the_new_one(world: World, listener: Listener) -> None:
    seal = world.runtime.keyring.seal
    await world.database.execute(
        "INSERT INTO webhook_endpoints (id, client_id, url, secret, previous_secret, previous_secret_until)"
        " VALUES ($1, $2, $3, $4, $5, now() + interval '1 hour')",
        new_id(),
        world.client_id,
        listener.url,
        seal(SECRET),
        seal(OLD_SECRET),
    )
    await delivered(world, None)
    async with notifying(world):
        [received] = await listener.wait_for(1)
    for secret in (SECRET, OLD_SECRET):
        Webhook(secret).verify(received.body, dict(received.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_b3RoZXJvdGhlcm90aGVyb3RoZXI=").verify(received.body, dict(received.headers))


@pytest.mark.parametrize("status", [400, 404, 500, 503, 302])
async def test_any_other_answer_is_retried_with_the_same_id_and_a_new_signature(
    world: World, listener: Listener, status: int
) -> None:
    listener.reply_status = status
    listener.reply_headers = {"location": "/elsewhere"}
    message_id = await delivered(world, f"{listener.url}/hook")
    async with notifying(world) as outbox:
        await outbox.until(1)
        found = await webhook(world, message_id)
        assert (found["state"], found["last_status"], found["last_error"]) == ("pending", status, f"http_{status}")
        assert 4 <= await due_in_s(world, message_id) <= 5.6
        listener.reply_status = 200
        await all_due(world)
        first, second = await listener.wait_for(2)
    assert {first.path, second.path} == {"/hook"}, "a redirect is not followed"
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    Webhook(SECRET).verify(second.body, dict(second.headers))
    assert (await webhook(world, message_id))["state"] == "delivered"


async def test_the_waits_follow_the_schedule_and_the_tenth_failure_is_the_last(
    world: World, listener: Listener
) -> None:
    listener.reply_status = 400
    message_id = await delivered(world, listener.url)
    waits_s = []
    async with notifying(world) as outbox:
        for failures in range(1, 11):
            if failures > 1:
                await all_due(world)
            await outbox.until(failures)
            waits_s.append(await due_in_s(world, message_id) if failures < 10 else None)
    for wait_s, scheduled_s in zip(waits_s, WEBHOOK_SCHEDULE_S, strict=False):
        assert wait_s == pytest.approx(scheduled_s, rel=0.11, abs=1)
    found = await webhook(world, message_id)
    assert (found["state"], found["attempts"], found["due_at"]) == ("dead", 10, None)
    assert found["ended_at"] is not None


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("120", 120),
        ("1", 5),
        ("99999999", 86_400),
        ("soon", 5),
        ("9" * 12, 5),
        ("-3", 5),
        ("in two hours", 7200),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 5),
        ("Fri, 31 Dec 9999 23:59:59 -0000", 5),
        ("Fri, 31 Dec 9999 23:59:59 +" + "9" * 20, 5),
    ],
    ids=[
        "more",
        "less",
        "too much",
        "a word",
        "a number too long",
        "negative",
        "a date",
        "a far date",
        "a past date",
        "a date without a zone",
        "a date that is none",
    ],
)
async def test_retry_after_is_honoured_where_it_asks_for_more(
    world: World, listener: Listener, value: str, expected_s: float
) -> None:
    listener.reply_status = 503
    if value == "in two hours":  # from now, and not from when the tests were collected
        value = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    listener.reply_headers = {"retry-after": value}
    message_id = await delivered(world, listener.url)
    async with notifying(world) as outbox:
        await outbox.until(1)
    assert await due_in_s(world, message_id) == pytest.approx(expected_s, rel=0.11, abs=1)


async def test_gone_ends_the_delivery_to_a_callback_url(world: World, listener: Listener) -> None:
    listener.reply_status = 410
    message_id = await delivered(world, listener.url)
    async with notifying(world) as outbox:
        await outbox.until(1)
    found = await webhook(world, message_id)
    assert (found["state"], found["last_error"]) == ("dead", "gone")


async def test_gone_disables_an_endpoint_and_ends_all_that_waits_for_it(world: World, listener: Listener) -> None:
    endpoint_id = new_id()
    await world.database.execute(
        "INSERT INTO webhook_endpoints (id, client_id, url, secret) VALUES ($1, $2, $3, $4)",
        endpoint_id,
        world.client_id,
        listener.url,
        world.runtime.keyring.seal(SECRET),
    )
    first = await delivered(world, None)
    waiting = await delivered(world, None)
    await world.database.execute(
        "UPDATE webhook_deliveries SET due_at = now() + interval '1 hour' WHERE message_id = $1", waiting
    )
    listener.reply_status = 410
    async with notifying(world) as outbox:
        await outbox.until(1)
    assert [(await webhook(world, each))["state"] for each in (first, waiting)] == ["dead", "dead"]
    row = await world.database.fetchrow("SELECT disabled_at, disabled_reason FROM webhook_endpoints")
    assert row is not None
    assert (row["disabled_at"] is not None, row["disabled_reason"]) == (True, "answered 410 Gone")
    third = await delivered(world, None)
    assert await rows.webhooks(world.database, third) == []


async def test_a_webhook_that_a_disabled_endpoint_left_behind_ends_without_a_call(
    world: World, listener: Listener
) -> None:
    await world.database.execute(
        "INSERT INTO webhook_endpoints (id, client_id, url, secret) VALUES ($1, $2, $3, $4)",
        new_id(),
        world.client_id,
        listener.url,
        world.runtime.keyring.seal(SECRET),
    )
    message_id = await delivered(world, None)
    await world.database.execute("UPDATE webhook_endpoints SET disabled_at = now()")
    async with notifying(world) as outbox:
        await outbox.until(1)
    found = await webhook(world, message_id)
    assert (found["state"], found["last_error"]) == ("dead", "endpoint_disabled")
    assert listener.received == []


async def test_an_endpoint_that_hangs_does_not_delay_another(make_world: MakeWorld, listener: Listener) -> None:
    world = await make_world(webhooks={"allow_loopback": True, "concurrency": 6, "per_target": 2})
    async with Listener() as slow:
        slow.delay = 3600.0
        for _ in range(10):
            await delivered(world, slow.url)
        good = [await delivered(world, listener.url) for _ in range(5)]
        async with notifying(world) as outbox:
            await listener.wait_for(5)
            await outbox.until(5)
            assert len(slow.received) <= 2, "its share, and no more"
            assert [(await webhook(world, each))["state"] for each in good] == ["delivered"] * 5
            await slow.stop()


async def test_an_endpoint_that_fails_is_left_alone_and_probed_with_one_webhook(
    world: World, listener: Listener
) -> None:
    listener.reply_status = 500
    first = await delivered(world, listener.url)
    async with notifying(world) as outbox:
        await outbox.until(1)
    for _ in range(5):
        await delivered(world, listener.url)
    assert await rows.claim_webhooks(world.runtime.outbox, world.lease.worker_id) == [], "blocked"
    await world.database.execute("UPDATE webhook_targets SET blocked_until = now()")
    [probe] = await rows.claim_webhooks(world.runtime.outbox, world.lease.worker_id)
    assert probe.failures == 1
    await world.runtime.upkeep.release(world.lease.worker_id, [], [probe.id])
    listener.reply_status = 204
    async with notifying(world) as outbox:
        await outbox.until(5)
    assert await world.database.fetch("SELECT FROM webhook_targets") == [], "it works again"
    assert (await webhook(world, first))["state"] == "pending", "its own time has not come"


async def test_a_webhook_that_is_at_fault_itself_does_not_block_its_target(world: World, listener: Listener) -> None:
    listener.reply_status = 400
    await delivered(world, listener.url)
    async with notifying(world) as outbox:
        await outbox.until(1)
    assert await world.database.fetch("SELECT FROM webhook_targets") == []


async def test_a_webhook_is_sent_again_with_its_id_when_its_worker_died(
    make_world: MakeWorld, listener: Listener
) -> None:
    dead, alive = await make_world(), await make_world()
    message_id = await delivered(dead, listener.url)
    [claimed] = await rows.claim_webhooks(dead.runtime.outbox, dead.lease.worker_id)
    await rows.end_lease(dead.database, dead.lease.worker_id)
    async with notifying(alive):
        await alive.runtime.upkeep.take_over(dead.lease.worker_id)
        alive.runtime.hints.webhooks.set()
        [received] = await listener.wait_for(1)
    assert received.headers["webhook-id"] == show("whd", claimed.id)
    found = await webhook(alive, message_id)
    assert (found["state"], found["attempts"]) == ("delivered", 2)


async def test_loopback_is_refused_unless_it_is_allowed(world: World, listener: Listener) -> None:
    message_id = await delivered(world, listener.url)
    strict = Transport(TargetPolicy())
    async with notifying(world, webhook_http=strict) as outbox:
        await outbox.until(1)
    await strict.aclose()
    found = await webhook(world, message_id)
    assert (found["state"], found["last_status"]) == ("pending", None)
    assert found["last_error"].startswith("TargetRefused")
    assert listener.received == []


async def test_an_endpoint_that_cannot_be_reached_is_retried(world: World, listener: Listener) -> None:
    await listener.stop()
    message_id = await delivered(world, listener.url)
    async with notifying(world) as outbox:
        await outbox.until(1)
    found = await webhook(world, message_id)
    assert found["state"] == "pending"
    assert found["last_error"].startswith("NotSent")


async def test_a_secret_that_cannot_be_read_is_said_and_nothing_is_sent(world: World, listener: Listener) -> None:
    await world.database.execute("UPDATE clients SET webhook_secret = 'sealed with another key'")
    message_id = await delivered(world, listener.url)
    async with notifying(world) as outbox:
        await outbox.until(1)
    found = await webhook(world, message_id)
    assert (found["state"], found["last_error"]) == ("pending", "secret_unreadable")
    assert listener.received == []


async def test_a_late_delivered_sends_a_second_webhook_with_an_id_of_its_own(world: World, listener: Listener) -> None:
    message_id = await world.send(callback_url=listener.url)
    await rows.pass_time(world.database, message_id, 600 + 72 * 3600 + 1)
    [overdue] = await world.runtime.upkeep.without_receipt()
    await world.queue.settle(Settlement(overdue, None, Move.NO_RECEIPT, reason="no_receipt"))
    async with notifying(world):
        await listener.wait_for(1)
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "delivered"))
        first, second = await listener.wait_for(2)
    assert (first.json()["status"], second.json()["status"]) == ("undelivered", "delivered")
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


async def test_a_result_that_cannot_be_stored_leaves_the_webhook_to_recovery(world: World, listener: Listener) -> None:
    class Broken(WatchedOutbox):
        async def settle(self, _: DeliveryResult) -> None:
            raise StoreOverloaded("no connection")

    message_id = await delivered(world, listener.url)
    async with notifying(world, outbox=Broken(world)):
        await listener.wait_for(1)
    found = await webhook(world, message_id)
    assert (found["state"], found["worker_id"]) == ("pending", world.lease.worker_id)
    assert await world.runtime.upkeep.stray_deliveries(world.lease.worker_id, []) == {found["id"]}


async def test_a_webhook_that_breaks_its_handling_is_counted_and_the_loop_goes_on(
    world: World, listener: Listener
) -> None:
    class Buggy(Transport):
        fails = True

        async def send(self, request: httpx.Request, **timeouts: float) -> httpx.Response:
            if self.fails:
                self.fails = False
                raise ValueError("a bug")
            return await super().send(request, **timeouts)

    message_ids = [await delivered(world, listener.url) for _ in range(2)]
    buggy = Buggy(TargetPolicy(allow_loopback=True))
    async with notifying(world, webhook_http=buggy):
        await listener.wait_for(1)
    await buggy.aclose()
    errors = world.runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "notify"})
    assert errors == 1
    found = [await webhook(world, each) for each in message_ids]
    assert {(row["state"], row["last_error"]) for row in found} == {("pending", "internal_error"), ("delivered", None)}
    assert [row["worker_id"] for row in found] == [None, None]


@pytest.mark.parametrize("url", ["http://xn--/hook", "http://xn--a/"])
async def test_a_webhook_that_no_request_can_be_made_of_is_tried_by_the_schedule_and_then_dead(
    world: World, url: str
) -> None:
    message_id = await delivered(world, url)
    async with notifying(world) as outbox:
        await outbox.until(1, blocks=1)
        assert 4 <= await due_in_s(world, message_id) <= 5.6
        for results in range(2, 11):
            await all_due(world)
            await outbox.until(results, blocks=results)
    found = await webhook(world, message_id)
    assert (found["state"], found["attempts"], found["last_error"]) == ("dead", 10, "internal_error")
    assert found["worker_id"] is None


class Held(Transport):
    """Calls nobody before `go`."""

    def __init__(self) -> None:
        super().__init__(TargetPolicy(allow_loopback=True))
        self.called, self.go = asyncio.Event(), asyncio.Event()

    async def send(self, request: httpx.Request, **timeouts: float) -> httpx.Response:
        self.called.set()
        await self.go.wait()
        return await super().send(request, **timeouts)


@pytest.mark.parametrize(
    ("concurrency", "per_target", "woken"), [(1, 2, True), (8, 1, True), (8, 2, False)], ids=["all", "target", "free"]
)
async def test_a_freed_place_wakes_the_claim_only_where_one_may_be_waiting_for_it(
    make_world: MakeWorld, listener: Listener, concurrency: int, per_target: int, woken: bool
) -> None:
    world = await make_world(webhooks={"concurrency": concurrency, "per_target": per_target})
    await delivered(world, listener.url)
    held = Held()
    notify = Notify(replace(world.runtime, webhook_http=held), world.lease)
    running = asyncio.create_task(notify.run())
    await asyncio.wait_for(held.called.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    world.runtime.hints.webhooks.clear()
    held.go.set()
    await notify.drain(5)
    await held.aclose()
    assert len(listener.received) == 1
    assert world.runtime.hints.webhooks.is_set() == woken
    assert notify.under_way == []


async def test_a_claim_that_fails_is_tried_again(world: World, listener: Listener) -> None:
    class Once(WatchedOutbox):
        failed = False

        async def claim(self, *arguments: Any, **named: Any) -> Any:
            if not self.failed:
                self.failed = True
                world.runtime.hints.webhooks.set()
                raise StoreOverloaded("no connection")
            return await super().claim(*arguments, **named)

    await delivered(world, listener.url)
    async with notifying(world, outbox=Once(world)):
        await listener.wait_for(1)


@pytest.mark.parametrize("answer", [204, 500])
async def test_what_a_target_has_acknowledged_holds_no_place_at_it_while_the_result_is_stored(
    make_world: MakeWorld, listener: Listener, answer: int
) -> None:
    """After a failure it does: the target must be known to fail before it is called again."""
    world = await make_world(webhooks={"allow_loopback": True, "per_target": 1})
    listener.reply_status = answer
    for _ in range(2):
        await delivered(world, listener.url)
    go = asyncio.Event()

    class Slow(WatchedOutbox):
        async def due_targets(self, *arguments: Any) -> tuple[list[DueTarget], str]:
            looks.append(storing.is_set())
            if looks.count(True) > 1:
                again.set()  # the look before was followed by its claim
            world.runtime.hints.webhooks.set()
            return await super().due_targets(*arguments)

        async def claim(self, *arguments: Any) -> Any:
            found = await super().claim(*arguments)
            if storing.is_set():
                claimed.extend(found)
            return found

        async def settle(self, result: DeliveryResult) -> None:
            storing.set()
            await go.wait()
            await super().settle(result)

    storing, again, looks, claimed = asyncio.Event(), asyncio.Event(), list[bool](), list[Any]()
    async with notifying(world, outbox=Slow(world)):
        await asyncio.wait_for(again.wait(), 10)
        assert len(claimed) == (answer == 204)
        go.set()


async def test_a_webhook_that_is_claimed_anew_while_its_first_call_hangs_gives_both_places_back(
    make_world: MakeWorld, listener: Listener
) -> None:
    """As after a lease that ran out: the same process goes on under a new id, and takes over from its old one."""
    world = await make_world(webhooks={"allow_loopback": True, "per_target": 2})
    message_id = await delivered(world, listener.url)
    held = Held()
    notify = Notify(replace(world.runtime, webhook_http=held), world.lease)
    running = asyncio.create_task(notify.run())
    await asyncio.wait_for(held.called.wait(), 10)
    held.called.clear()
    await world.database.execute(
        "UPDATE webhook_deliveries SET worker_id = NULL, due_at = now() WHERE message_id = $1", message_id
    )
    world.runtime.hints.webhooks.set()
    await asyncio.wait_for(held.called.wait(), 10)
    held.go.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await notify.drain(5)
    async with asyncio.timeout(10):
        while notify.places_taken:  # noqa: ASYNC110 - the first call's task is nobody's by now
            await asyncio.sleep(0)
    await held.aclose()


async def test_no_more_webhooks_are_called_at_once_than_allowed(make_world: MakeWorld, listener: Listener) -> None:
    world = await make_world(webhooks={"allow_loopback": True, "concurrency": 8, "per_target": 2})
    listener.delay = 0.02
    for _ in range(6):
        await delivered(world, listener.url)
    most = 0

    class Measured(WatchedOutbox):
        async def claim(self, worker_id: UUID, limit: int, rooms: Mapping[str, Room]) -> Any:
            nonlocal most
            found = await super().claim(worker_id, limit, rooms)
            most = max(most, sum(room.calls for room in rooms.values()) + len(found))
            return found

    async with notifying(world, outbox=Measured(world)) as outbox:
        await outbox.until(6)
    assert most == 2
