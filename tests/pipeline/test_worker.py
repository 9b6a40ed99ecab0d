"""Lanes and leases, with their loops running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from service.domain.message import Traffic
from service.domain.outcome import Accepted, Outcome, Unavailable, Unknown
from service.errors import StoreOverloaded
from service.pipeline.lane import Lane
from service.pipeline.lease import Lease
from service.pipeline.worker import working
from service.runtime import Runtime
from service.storage.queue import Claimed, MessageQueue, Walk
from service.storage.upkeep import Upkeep
from tests import rows
from tests.listener import Listener
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WITHOUT_KEY, WatchedQueue, World, delivering, news, provider


class Blocking:
    """A provider that answers nobody before `go`, and tells how many have called."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.go = asyncio.Event()
        self.calls = 0
        self._outcome = outcome or Accepted("p")
        self._called = asyncio.Condition()

    async def __call__(self) -> Outcome:
        async with self._called:
            self.calls += 1
            self._called.notify_all()
        await self.go.wait()
        return self._outcome

    async def until(self, calls: int) -> None:
        async with asyncio.timeout(60), self._called:
            await self._called.wait_for(lambda: self.calls >= calls)


async def test_every_lane_delivers_what_is_accepted(world: World) -> None:
    async with delivering(world):
        message_ids = {await world.accept(traffic) for traffic in ("otp", "transactional", "marketing")}
        await world.queue.until_settled(message_ids)
    assert {(await world.message(each))["status"] for each in message_ids} == {"sent"}


async def test_a_campaign_does_not_stand_before_an_otp(make_world: MakeWorld) -> None:
    world = await make_world(deliver={"poll_s": 0.01, "lanes": {"marketing": 3}, "lease_s": 600})
    blocking = Blocking()
    world.http.always("primary", blocking)
    for _ in range(10):
        await world.accept("marketing")
    async with delivering(world) as deliver:
        await blocking.until(3)
        otp = await world.accept("otp")
        await blocking.until(4)
        assert otp in deliver.under_way
        assert len(deliver.under_way) == 4, "the lane takes no more than its number"
        blocking.go.set()
        rest = await world.database.fetch("SELECT id FROM messages")
        await world.queue.until_settled({row["id"] for row in rest})
    assert deliver.under_way == []
    assert len(world.http.calls) == 11


@pytest.mark.parametrize(("traffic", "expected"), [(Traffic.OTP, 6), (Traffic.MARKETING, 4)])
async def test_a_lane_claims_no_more_than_its_providers_let_out(
    make_world: MakeWorld, traffic: Traffic, expected: int
) -> None:
    """Of each provider three seconds of a message a second; marketing has the half that is not kept for OTPs."""
    paced = {name: provider(name, mps=1, otp_reserve=0.5) for name in ("primary", "fallback")}
    world = await make_world(providers=paced)
    for _ in range(10):
        await world.accept(traffic.value)
    async with laned(world, traffic) as lane:
        assert len(lane.under_way) == expected


async def test_a_provider_without_a_pace_has_places_of_its_own_beside_a_slow_one(make_world: MakeWorld) -> None:
    world = await make_world(providers={"primary": provider("primary", mps=0.001)})
    for _ in range(8):
        await world.accept("marketing")
    async with laned(world, Traffic.MARKETING) as lane:
        assert len(lane.under_way) == 8


@asynccontextmanager
async def laned(world: World, traffic: Traffic) -> AsyncIterator[Lane]:
    """A lane that has claimed what it may and works on it until the body is over."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(_: Claimed, _earlier: asyncio.Task[None] | None) -> None:
        begun.set()
        await go.wait()

    lane = Lane(world.runtime, world.lease, traffic, work, world.submit.room)
    running = asyncio.create_task(lane.run())
    await asyncio.wait_for(begun.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    yield lane
    go.set()
    await asyncio.gather(*lane.under_way.values())


async def test_a_lane_claims_nothing_twice_for_the_same_place(world: World) -> None:
    """What was claimed comes to its provider before the next claim, or it would be put back for a second."""

    class Counting(WatchedQueue):
        claims = 0

        async def claim(self, *arguments: Any) -> list[Claimed]:
            self.claims += 1
            return await super().claim(*arguments)

    queue, begun, go = Counting(world.runtime), list[int](), asyncio.Event()

    async def work(_: Claimed, _earlier: asyncio.Task[None] | None) -> None:
        begun.append(queue.claims)
        arrived.set()
        await go.wait()

    arrived = asyncio.Event()
    for _ in range(10):
        await world.accept("otp")
    lane = Lane(replace(world.runtime, queue=queue), world.lease, Traffic.OTP, work, lambda _: 5 - len(begun))
    running = asyncio.create_task(lane.run())
    await asyncio.wait_for(arrived.wait(), 10)
    running.cancel()
    go.set()
    await asyncio.gather(running, *lane.under_way.values(), return_exceptions=True)
    assert begun == [1] * 5


async def test_places_of_a_provider_that_nobody_comes_to_count_a_little_now_and_then(make_world: MakeWorld) -> None:
    providers = {name: provider(name, max_in_flight=8, otp_reserve=0) for name in ("primary", "fallback")}
    world = await make_world(providers=providers)
    blocking = Blocking()
    world.http.always("primary", blocking)
    for lane in Traffic:
        assert [world.submit.room(lane) for _ in range(2)] == [8, 8], "nobody is in use yet"
    for _ in range(10):
        await world.accept("marketing")
    stepping = asyncio.create_task(world.step())
    await blocking.until(8)
    rooms = {world.submit.room(Traffic.MARKETING) for _ in range(100)}
    assert rooms <= {10, 18}, "those of the primary, and now and then a few of the fallback's"
    assert 10 in rooms
    blocking.go.set()
    await stepping


async def test_a_client_with_few_messages_is_not_behind_one_with_many(make_world: MakeWorld) -> None:
    world = await make_world(deliver={"poll_s": 0.01, "lanes": {"marketing": 4}, "lease_s": 600})
    blocking = Blocking()
    world.http.always("primary", blocking)
    for _ in range(20):
        await world.accept("marketing")
    small_client = await rows.a_client(world.database, "small")
    small = rows.a_message(small_client, traffic="marketing")
    await world.runtime.messages.add(small, None)
    async with delivering(world) as deliver:
        await blocking.until(4)
        assert small.id in deliver.under_way
        blocking.go.set()


async def test_a_message_of_a_client_that_is_new_waits_for_nothing(world: World) -> None:
    async with delivering(world):
        await world.queue.until_settled({await world.accept()})
        newcomer = rows.a_message(await rows.a_client(world.database, "new"))
        await world.runtime.messages.add(newcomer, None)
        await world.queue.until_settled({newcomer.id}, timeout_s=3)


@pytest.mark.parametrize(("age_s", "expected"), [(0, [1, 1, 0]), (5, [1])], ids=["new", "waited for its pace"])
async def test_a_lane_looks_for_more_without_a_hint_only_where_new_messages_came(
    make_world: MakeWorld, age_s: float, expected: list[int]
) -> None:
    world = await make_world(deliver={"poll_s": 60, "lease_s": 600})
    found: list[int] = []
    looked = asyncio.Event()

    class Refilled(WatchedQueue):
        async def claim(self, *arguments: Any) -> list[Claimed]:
            if len(found) == 1:
                await world.accept()
            claimed = await super().claim(*arguments)
            found.append(len(claimed))
            if len(found) >= len(expected):
                looked.set()
            return claimed

    queue = Refilled(world.runtime)
    runtime = replace(world.runtime, queue=queue)
    lane = Lane(runtime, world.lease, Traffic.TRANSACTIONAL, world.deliver.deliver, world.submit.room)
    await rows.pass_time(world.database, await world.accept(), age_s)
    running = asyncio.create_task(lane.run())
    await asyncio.wait_for(looked.wait(), 10)
    await asyncio.sleep(0.1)  # ten times what keeps two claims apart
    running.cancel()
    await asyncio.gather(running, *lane.under_way.values(), return_exceptions=True)
    assert found == expected


async def test_a_message_that_was_put_back_and_claimed_at_once_is_still_seen_as_under_way(world: World) -> None:
    """The settlement of the first task and the claim for the second cross each other."""
    first, second = asyncio.Event(), asyncio.Event()
    message_id = await world.accept()
    begun = asyncio.Queue[asyncio.Task[None] | None]()

    async def work(_: Claimed, earlier: asyncio.Task[None] | None) -> None:
        await begun.put(earlier)
        await (second if earlier else first).wait()

    lane = Lane(world.runtime, world.lease, Traffic.TRANSACTIONAL, work, world.submit.room)
    running = asyncio.create_task(lane.run())
    assert await begun.get() is None
    earlier = lane.under_way[message_id]
    await world.database.execute("UPDATE messages SET worker_id = NULL, due_at = now() WHERE id = $1", message_id)
    assert await asyncio.wait_for(begun.get(), 10) is earlier
    task = lane.under_way[message_id]
    first.set()
    await earlier
    await asyncio.sleep(0)
    assert lane.under_way == {message_id: task}
    second.set()
    await task
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert lane.under_way == {}


@pytest.mark.parametrize(
    ("outcome", "called", "status"),
    [(Unknown("http_500"), ["primary"], "sending"), (Unavailable("down"), ["primary", "fallback"], "sent")],
)
async def test_a_message_whose_claim_a_crash_took_back_is_not_worked_on_twice_at_once(
    make_world: MakeWorld, outcome: Outcome, called: list[str], status: str
) -> None:
    """A claim's commit does not wait for the disk, so PostgreSQL may come back without it. No provider knows keys."""
    world = await make_world(WITHOUT_KEY)
    blocking = Blocking(outcome)
    world.http.always("primary", blocking)
    message_id = await world.accept("marketing")

    async def claim() -> Claimed:
        [claimed] = await world.queue.claim(Traffic.MARKETING, world.lease.worker_id, {}, 1)
        return claimed

    earlier = asyncio.create_task(world.deliver.deliver(await claim()))
    await blocking.until(1)
    await world.database.execute("UPDATE messages SET status = 'queued', worker_id = NULL, due_at = now()")
    later = asyncio.create_task(world.deliver.deliver(await claim(), earlier))
    blocking.go.set()
    await asyncio.gather(earlier, later)
    await world.step()
    assert world.http.called() == called
    assert (await world.message(message_id))["status"] == status


async def test_a_claim_that_fails_is_tried_again(world: World) -> None:
    class Once(WatchedQueue):
        failures = 0

        async def claim(self, *arguments: Any) -> list[Claimed]:
            if self.failures < 3:
                self.failures += 1
                raise StoreOverloaded("no connection")
            return await super().claim(*arguments)

    queue = Once(world.runtime)
    async with delivering(world, queue=queue):
        await queue.until_settled({await world.accept()})
    assert queue.failures == 3


async def test_what_a_crash_put_back_is_found_by_the_next_claim(world: World) -> None:
    """It is due as it was before, which is below what was claimed since."""

    class Crashing(WatchedQueue):
        floors: list[int]
        asked = asyncio.Event()

        async def claim(
            self, lane: Traffic, worker_id: UUID, floors: Any, limit: int, walk: Walk | None = None
        ) -> list[Claimed]:
            if self.floors and self.floors[-1] and not crash.is_set():
                crash.set()
                raise StoreOverloaded("no connection")
            self.floors.append(len(floors))
            if crash.is_set():
                self.asked.set()
            return await super().claim(lane, worker_id, floors, limit, walk)

    crash = asyncio.Event()
    queue = Crashing(world.runtime)
    queue.floors = []
    runtime = replace(world.runtime, queue=queue)
    lane = Lane(runtime, world.lease, Traffic.TRANSACTIONAL, world.deliver.deliver, world.submit.room)
    await world.accept()
    running = asyncio.create_task(lane.run())
    await asyncio.wait_for(queue.asked.wait(), 10)
    running.cancel()
    await asyncio.gather(running, *lane.under_way.values(), return_exceptions=True)
    assert queue.floors[-2:] == [1, 0]


async def test_a_lane_does_not_rest_before_it_has_been_round_all_clients(world: World) -> None:
    """Those of more clients than a claim looks at wait for their time; the next poll is an hour away."""
    await world.database.execute(
        "INSERT INTO messages (id, client_id, recipient, sender, traffic, country, encoding, segments, send_at, due_at,"
        " expires_at) SELECT new_id(), smallest_at(now() - make_interval(days => n)), '+15555550100', 'MyApp',"
        " 'transactional', 'US', 'gsm-7', 1, now(), now() + interval '1 hour', now() + interval '2 hours'"
        " FROM generate_series(1, 600) AS n"
    )
    message_id = await world.accept()  # its client comes after all of them
    deliver = world.runtime.config.deliver.model_copy(update={"poll_s": 3600.0})
    config = world.runtime.config.model_copy(update={"deliver": deliver})
    runtime = replace(world.runtime, settings=replace(world.runtime.settings, config=config))
    world.runtime.hints.lanes[Traffic.TRANSACTIONAL].clear()
    delivered: asyncio.Queue[UUID] = asyncio.Queue()

    async def take(message: Claimed, _: object) -> None:
        await delivered.put(message.id)

    running = asyncio.create_task(Lane(runtime, world.lease, Traffic.TRANSACTIONAL, take, world.submit.room).run())
    assert await asyncio.wait_for(delivered.get(), 10) == message_id
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Renewals(MessageQueue):
    """Tells of each renewal; `failures` of them fail first."""

    def __init__(self, world: World, failures: int = 0) -> None:
        super().__init__(world.database, receipt_wait=timedelta(hours=72))
        self.ids = asyncio.Queue[UUID]()
        self._failures = failures

    async def renew(self, worker_id: UUID, lease: timedelta) -> bool:
        await self.ids.put(worker_id)
        if self._failures > 0:
            self._failures -= 1
            raise StoreOverloaded("no connection")
        return await super().renew(worker_id, lease)


def short_lived(world: World, queue: MessageQueue, lease_s: float) -> Runtime:
    """With a lease shorter than the settings allow."""
    deliver = world.runtime.config.deliver.model_copy(update={"lease_s": lease_s})
    config = world.runtime.config.model_copy(update={"deliver": deliver})
    return replace(world.runtime, queue=queue, settings=replace(world.runtime.settings, config=config))


@asynccontextmanager
async def keeping(world: World, queue: MessageQueue, lease_s: float) -> AsyncIterator[Lease]:
    lease = Lease(short_lived(world, queue, lease_s))
    await lease.begin()
    running = asyncio.create_task(lease.keep())
    try:
        yield lease
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_lease_is_renewed_under_the_same_id_even_if_a_renewal_fails(world: World) -> None:
    queue = Renewals(world, failures=1)
    async with keeping(world, queue, lease_s=0.5) as lease:
        seen = [await asyncio.wait_for(queue.ids.get(), 10) for _ in range(3)]
        assert seen == [lease.worker_id] * 3


async def test_a_worker_whose_lease_ran_out_goes_on_under_a_new_id(world: World) -> None:
    queue = Renewals(world)
    async with keeping(world, queue, lease_s=0.5) as lease:
        before = lease.worker_id
        await world.database.execute("UPDATE workers SET expires_at = now() WHERE id = $1", before)
        while (current := await asyncio.wait_for(queue.ids.get(), 10)) == before:
            pass
        assert current == lease.worker_id != before
    assert before in await world.runtime.upkeep.dead_workers()


async def test_a_lease_that_cannot_be_given_back_runs_out_by_itself(world: World) -> None:
    class Broken(MessageQueue):
        async def retire(self, _: UUID) -> None:
            raise StoreOverloaded("no connection")

    lease = Lease(replace(world.runtime, queue=Broken(world.database, receipt_wait=timedelta(hours=72))))
    await lease.begin()
    await lease.end()
    assert lease.worker_id not in await world.runtime.upkeep.dead_workers()


async def test_a_worker_delivers_notifies_and_gives_its_lease_back(world: World, listener: Listener) -> None:
    async with working(world.runtime):
        message_id = await world.accept(callback_url=listener.url)
        world.runtime.hints.lanes[Traffic.TRANSACTIONAL].set()
        await world.queue.until_settled({message_id})
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "delivered"))
        [received] = await listener.wait_for(1)
    assert received.json()["status"] == "delivered"
    alive = await world.database.fetch("SELECT id FROM workers WHERE expires_at > now()")
    assert [row["id"] for row in alive] == [world.lease.worker_id], "only the one of this test"


def set_to(world: World, *work: str) -> Runtime:
    settings = world.runtime.settings
    return replace(world.runtime, settings=replace(settings, environment=replace(settings.environment, work=work)))


async def test_a_worker_that_is_set_to_otps_leaves_all_else_to_others(world: World, listener: Listener) -> None:
    campaign = await world.accept("marketing", callback_url=listener.url)
    otp = await world.accept("otp", callback_url=listener.url)
    async with working(set_to(world, "otp")):
        await world.queue.until_settled({otp})
        [attempt] = await rows.attempts(world.database, otp)
        await world.receive.apply(news(attempt["id"], "delivered"))
        later = await world.accept("otp")
        world.runtime.hints.lanes[Traffic.OTP].set()
        await world.queue.until_settled({later})
        assert await world.where(campaign) == ("queued", None)
    assert listener.received == []
    async with working(set_to(world, "marketing", "webhooks")):
        await world.queue.until_settled({campaign})
        await listener.wait_for(1)


async def test_a_worker_that_is_set_to_webhooks_delivers_them_and_no_message(world: World, listener: Listener) -> None:
    message_id = await world.send(callback_url=listener.url)
    [attempt] = await rows.attempts(world.database, message_id)
    await world.receive.apply(news(attempt["id"], "delivered"))
    queued = await world.accept()
    async with working(set_to(world, "webhooks")):
        await listener.wait_for(1)
        assert await world.where(queued) == ("queued", None)


async def test_a_worker_that_stops_lets_its_calls_end(world: World) -> None:
    blocking = Blocking()
    world.http.always("primary", blocking)
    message_id = await world.accept()
    async with working(world.runtime):
        await blocking.until(1)
        asyncio.get_running_loop().call_later(0.05, blocking.go.set)
    assert await world.where(message_id) == ("sent", None)


async def test_a_worker_whose_loop_breaks_ends_instead_of_doing_half_its_work(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(Upkeep):
        async def dead_workers(self) -> list[UUID]:
            raise ValueError("a bug")

    await until_it_breaks(replace(world.runtime, upkeep=Buggy(world.database)))
    assert "a worker loop ended" in caplog.text
    assert "a bug" in caplog.text


async def test_a_worker_that_no_longer_renews_its_lease_ends(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(WatchedQueue):
        async def renew(self, *_: object) -> bool:
            raise ValueError("a bug")

    await until_it_breaks(short_lived(world, Buggy(world.runtime), lease_s=0.1))
    assert "a worker loop ended" in caplog.text
    assert "a bug" in caplog.text


async def until_it_breaks(runtime: Runtime) -> None:
    async def work() -> None:
        async with working(runtime):
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.create_task(work()), 10)


async def test_nothing_is_lost_or_doubled_by_a_provider_that_does_not_say_what_it_took(world: World) -> None:
    world.http.script("primary", *[Unknown("http_500")] * 4)
    message_ids = {await world.accept("marketing") for _ in range(4)}
    async with delivering(world):
        await world.queue.until_settled(message_ids)
        world.queue.settled.clear()
        await rows.make_due(world.database)
        await world.queue.until_settled(message_ids)
    assert {(await world.message(each))["status"] for each in message_ids} == {"sent"}
    assert len({call.key for call in world.http.calls}) == 4
    assert world.http.called() == ["primary"] * 8
