"""Recovery: what was left behind, by others or by oneself."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from service.domain.message import Traffic
from service.errors import StoreOverloaded
from service.pipeline.deliver import Deliver
from service.pipeline.notify import Notify
from service.pipeline.recover import Recover
from service.pipeline.screen import Screen
from service.pipeline.submit import Submit
from service.providers.adapter import Capabilities
from service.runtime import Runtime
from service.storage.outbox import Delivery, Outbox
from service.storage.queue import Begin, Begun, Claimed, MessageQueue, Settlement
from service.storage.upkeep import Upkeep
from tests import rows
from tests.listener import Listener
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WatchedQueue, World, delivering, news


def recovering(world: World, **parts: Any) -> Recover:
    runtime = replace(world.runtime, **parts)
    notify = Notify(runtime, world.lease)
    return Recover(runtime, world.lease, world.deliver, world.receive, notify)


def deliver_with(runtime: Runtime, world: World) -> Deliver:
    return Deliver(runtime, world.lease, Screen(runtime, world.lookup), Submit(runtime))


async def test_a_store_error_in_delivery_leaves_the_message_to_recovery(world: World) -> None:
    class Broken(MessageQueue):
        async def begin(self, _: Begin) -> Begun | None:
            raise StoreOverloaded("no connection")

    queue = Broken(world.database, receipt_wait=timedelta(hours=72))
    message_id = await world.accept()
    deliver = deliver_with(replace(world.runtime, queue=queue), world)
    [claimed] = await queue.claim(Traffic.TRANSACTIONAL, world.lease.worker_id, {}, 1)
    await deliver.deliver(claimed)
    recover = recovering(world)
    await recover.round()
    assert (await world.message(message_id))["worker_id"] == world.lease.worker_id, "it may be a claim just made"
    await recover.round()
    assert await world.where(message_id) == ("queued", None)
    assert world.http.calls == []


async def test_a_message_that_met_a_bug_and_could_not_be_put_back_is_left_to_recovery(world: World) -> None:
    class Broken(MessageQueue):
        async def settle(self, _: Settlement) -> str | None:
            raise StoreOverloaded("no connection")

    message_id = await world.accept()
    world.http.script("primary", ValueError("a bug"))
    deliver = deliver_with(
        replace(world.runtime, queue=Broken(world.database, receipt_wait=timedelta(hours=72))), world
    )
    [claimed] = await world.queue.claim(Traffic.TRANSACTIONAL, world.lease.worker_id, {}, 1)
    await deliver.deliver(claimed)
    assert await world.runtime.upkeep.stray_messages(world.lease.worker_id, deliver.under_way) == {message_id}


async def test_a_round_takes_over_from_the_dead(make_world: MakeWorld) -> None:
    dead, alive = await make_world(), await make_world()
    message_id = await dead.accept()
    await dead.runtime.queue.claim(Traffic.TRANSACTIONAL, dead.lease.worker_id, {}, 1)
    recover = recovering(alive)
    await recover.round()
    assert (await alive.message(message_id))["worker_id"] == dead.lease.worker_id, "it is alive"
    await rows.end_lease(dead.database, dead.lease.worker_id)
    await recover.round()
    assert await alive.where(message_id) == ("queued", None)
    taken_over = alive.runtime.metrics.registry.get_sample_value("sms_gateway_messages_taken_over_total")
    assert taken_over == 1


async def test_a_round_gives_up_on_receipts_that_never_came(world: World) -> None:
    message_id = await world.send()
    recover = recovering(world)
    await recover.round()
    assert (await world.message(message_id))["status"] == "sent"
    await rows.pass_time(world.database, message_id, 600 + 72 * 3600 + 1)
    world.runtime.hints.webhooks.clear()
    await recover.round()
    assert await world.where(message_id) == ("undelivered", "no_receipt")
    assert world.runtime.hints.webhooks.is_set()
    assert len(await rows.webhooks(world.database, message_id)) == 1


async def test_a_round_matches_orphans_and_measures_the_lanes(make_world: MakeWorld) -> None:
    world = await make_world(Capabilities(callback_per_message=False))
    await world.receive.apply(replace(news(UUID(int=0), "delivered"), attempt_id=None, provider_message_id="p1"))
    message_id = await world.send()
    late = await world.accept("otp")
    await rows.pass_time(world.database, late, 60)
    await recovering(world).round()
    await recovering(world).tidy_round()
    assert (await world.message(message_id))["status"] == "delivered"
    sample = world.runtime.metrics.registry.get_sample_value
    assert sample("sms_gateway_lane_due_messages", {"traffic": "otp"}) == 1
    assert sample("sms_gateway_lane_oldest_due_seconds", {"traffic": "otp"}) == pytest.approx(60, abs=5)


async def test_a_round_forgets_what_is_past_its_time(world: World) -> None:
    await world.database.execute(
        "INSERT INTO idempotency_keys VALUES ($1, 'send', 'k', '', $1, now() - interval '1 second')", world.client_id
    )
    await recovering(world).tidy_round()
    assert await world.database.fetch("SELECT FROM idempotency_keys") == []


async def test_recovery_goes_on_after_a_round_that_was_cut_short(world: World) -> None:
    rounds = asyncio.Semaphore(0)

    class Failing(Upkeep):
        async def dead_workers(self) -> list[UUID]:
            rounds.release()
            raise StoreOverloaded("no connection")

    recover = recovering(world, upkeep=Failing(world.database))
    running = asyncio.create_task(recover.run())
    for _ in range(2):
        await asyncio.wait_for(rounds.acquire(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    errors = world.runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "recover"})
    assert errors is not None
    assert errors >= 1


async def test_housekeeping_that_takes_long_keeps_no_message_of_a_dead_worker_waiting(make_world: MakeWorld) -> None:
    dead, alive = await make_world(), await make_world()
    message_id = await dead.accept()
    await dead.runtime.queue.claim(Traffic.TRANSACTIONAL, dead.lease.worker_id, {}, 1)
    await rows.end_lease(dead.database, dead.lease.worker_id)
    tidying, freed = asyncio.Event(), asyncio.Event()

    class Watched(Upkeep):
        async def forget_keys(self) -> bool:
            tidying.set()
            return await asyncio.Event().wait()

        async def dead_workers(self) -> list[UUID]:
            await tidying.wait()
            return await super().dead_workers()

        async def take_over(self, worker_id: UUID) -> int:
            found = await super().take_over(worker_id)
            freed.set()
            return found

    running = asyncio.create_task(recovering(alive, upkeep=Watched(alive.database)).run())
    await asyncio.wait_for(freed.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await alive.where(message_id) == ("queued", None)


async def test_a_step_of_recovery_that_fails_keeps_no_other_from_its_turn(make_world: MakeWorld) -> None:
    world = await make_world(Capabilities(callback_per_message=False))

    class Failing(Upkeep):
        async def dead_workers(self) -> list[UUID]:
            raise StoreOverloaded("no connection")

        async def stray_messages(self, *_: object) -> set[UUID]:
            raise StoreOverloaded("no connection")

        async def lane_depths(self) -> dict[str, tuple[int, float]]:
            raise StoreOverloaded("no connection")

    await world.receive.apply(replace(news(UUID(int=0), "delivered"), attempt_id=None, provider_message_id="p1"))
    matched, overdue = await world.send(), await world.send()
    await rows.pass_time(world.database, overdue, 600 + 72 * 3600 + 1)
    await world.database.execute(
        "INSERT INTO idempotency_keys VALUES ($1, 'send', 'k', '', $1, now() - interval '1 second')", world.client_id
    )
    recover = recovering(world, upkeep=Failing(world.database))
    await recover.round()
    await recover.tidy_round()
    assert await world.where(matched) == ("delivered", None)
    assert await world.where(overdue) == ("undelivered", "no_receipt")
    assert await world.database.fetch("SELECT FROM idempotency_keys") == []
    errors = world.runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "recover"})
    assert errors == 3


class SlowToHear:
    """A claim that is committed long before its worker hears of it."""

    def __init__(self) -> None:
        self.committed, self.heard = asyncio.Event(), asyncio.Event()

    async def __call__(self, claimed: list[Any]) -> None:
        if claimed:
            self.committed.set()
            await self.heard.wait()


async def test_a_message_whose_claim_is_not_heard_of_yet_is_not_astray(world: World) -> None:
    slow = SlowToHear()

    class Slow(WatchedQueue):
        async def claim(self, *arguments: Any) -> list[Claimed]:
            claimed = await super().claim(*arguments)
            await slow(claimed)
            return claimed

    queue = Slow(world.runtime)
    message_id = await world.accept()
    async with delivering(world, queue=queue) as deliver:
        await asyncio.wait_for(slow.committed.wait(), 10)
        recover = Recover(world.runtime, world.lease, deliver, world.receive, Notify(world.runtime, world.lease))
        for _ in range(3):
            await recover.round()
        assert (await world.message(message_id))["worker_id"] == world.lease.worker_id
        slow.heard.set()
        await queue.until_settled({message_id})
    assert await world.where(message_id) == ("sent", None)
    assert deliver.claiming_since_s == math.inf


async def test_a_webhook_whose_claim_is_not_heard_of_yet_is_not_astray(world: World, listener: Listener) -> None:
    slow = SlowToHear()

    class Slow(Outbox):
        async def claim(self, *arguments: Any) -> list[Delivery]:
            claimed = await super().claim(*arguments)
            await slow(claimed)
            return claimed

    await world.send(callback_url=listener.url)
    [attempt] = await world.database.fetch("SELECT id FROM attempts")
    await world.receive.apply(news(attempt["id"], "delivered"))
    notify = Notify(replace(world.runtime, outbox=Slow(world.database)), world.lease)
    running = asyncio.create_task(notify.run())
    await asyncio.wait_for(slow.committed.wait(), 10)
    recover = Recover(world.runtime, world.lease, world.deliver, world.receive, notify)
    for _ in range(3):
        await recover.round()
    [row] = await world.database.fetch("SELECT worker_id FROM webhook_deliveries")
    assert row["worker_id"] == world.lease.worker_id
    slow.heard.set()
    await listener.wait_for(1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await notify.drain(5)
    assert len(listener.received) == 1
