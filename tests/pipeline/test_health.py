"""Health on the way of messages: who is asked first, what is counted, who is a probe. No clock runs here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from uuid import UUID

import pytest

from service.domain.health import Cause, Condition, Place, Samples, Standing, StandingPolicy
from service.domain.message import Traffic
from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.errors import StoreOverloaded
from service.pipeline.deliver import routes_of
from service.pipeline.health import Health
from service.pipeline.submit import Submit
from service.pipeline.worker import working
from service.storage.health import HealthStore
from service.storage.queue import Claimed, Tried
from tests import rows
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WITHOUT_KEY, World, news, provider

PRIMARY = Place("primary", "US", "transactional")
FALLBACK = Place("fallback", "US", "transactional")


@pytest.fixture(autouse=True)
async def nothing_is_added_by_tests_before() -> None:
    """What a worker has counted it adds a second later, and by then its test may be over."""
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__name__", "") == "_add_soon":
            task.cancel()


def health(world: World) -> Health:
    return submit(world).health


def submit(world: World) -> Submit:
    return world.deliver._submit  # noqa: SLF001 - the worker's own, which only `working` needs otherwise


async def seen(world: World) -> dict[Place, Samples]:
    """What all processes have counted."""
    await health(world).sync()
    return {one.place: one.samples for one in await world.runtime.health.evidence(StandingPolicy())}


async def judged(world: World, pass_s: float = 0.0) -> None:
    """Everything is counted, judged and read. If time passes before that, standings grow older, and samples too old."""
    await health(world).sync()
    if pass_s:
        await world.database.execute("DELETE FROM health_samples")
        await world.database.execute("UPDATE health_standings SET since = since - make_interval(secs => $1)", pass_s)
        world.ahead_s += pass_s
    await health(world).judge()
    await health(world).sync()


async def stand(world: World, place: Place, condition: Condition, cause: Cause, ago_s: float = 6.0) -> None:
    await world.runtime.health.move({place: Standing(condition, 0.0, cause, 1)})
    await world.database.execute("UPDATE health_standings SET since = now() - make_interval(secs => $1)", ago_s)
    await health(world).sync()


async def conditions(world: World) -> dict[Place, Condition]:
    return {place: standing.condition for place, standing in (await world.runtime.health.standings()).items()}


@pytest.mark.parametrize(
    ("answer", "samples"),
    [
        (Accepted("p"), Samples(calls=1)),
        (Rejected("bad"), Samples(calls=1)),
        (Throttled(100), Samples(calls=1)),
        (Refused("sender"), Samples(calls=1)),
        (Refused("funds", about=About.ACCOUNT), Samples(calls=1, failures=1)),
        (Unavailable("down"), Samples(calls=1, failures=1)),
        (Unknown("http_500"), Samples(calls=1, failures=1)),
    ],
)
async def test_every_call_is_counted_by_what_it_says_of_its_provider(
    make_world: MakeWorld, answer: Outcome, samples: Samples
) -> None:
    world = await make_world(WITHOUT_KEY)
    world.http.always("primary", answer)
    await world.send()
    assert (await seen(world))[PRIMARY] == samples


async def test_a_call_that_took_more_than_half_of_its_time_is_slow(make_world: MakeWorld) -> None:
    world = await make_world(providers={"primary": provider("primary", timeout_s=0.1)})

    async def slow() -> Outcome:
        await asyncio.sleep(0.06)
        return Accepted("p")

    world.http.script("primary", slow)
    await world.send()
    assert (await seen(world))[PRIMARY] == Samples(calls=1, slow=1)


@pytest.mark.parametrize(
    ("status", "error_code", "counted"),
    [
        ("delivered", 0, (1, 0)),
        ("undelivered", None, (0, 1)),
        ("failed", 34, (0, 1)),
        ("undelivered", 27, (0, 0)),
        ("undelivered", 1, (0, 0)),
        ("sent", None, (0, 0)),
    ],
)
async def test_a_receipt_is_counted_once_unless_it_lies_with_the_subscriber(
    world: World, status: str, error_code: int | None, counted: tuple[int, int]
) -> None:
    message_id = await world.send()
    [attempt] = await rows.attempts(world.database, message_id)
    for _ in range(2):
        await world.receive.apply(news(attempt["id"], status, error_code))
    await world.receive._health.sync()  # noqa: SLF001 - it does so by itself a second later
    found = (await seen(world))[PRIMARY]
    assert (found.calls, (found.delivered, found.undelivered)) == (1, counted)


async def test_what_was_counted_is_shared_by_itself(world: World) -> None:
    await world.send()
    async with asyncio.timeout(60):
        while not await world.runtime.health.evidence(StandingPolicy()):  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.05)


def errors(world: World) -> float | None:
    return world.runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "health"})


async def test_what_cannot_be_shared_or_judged_is_only_lost(world: World) -> None:
    class Down:
        async def add(self, *_: object) -> None:
            raise StoreOverloaded

        standings = take_round = add

    kept = health(world)
    await world.send()
    kept._store = Down()  # type: ignore[assignment] # noqa: SLF001 - a fault that no database can be asked for
    keeping = asyncio.create_task(kept.keep())
    async with asyncio.timeout(60):
        while not errors(world):  # noqa: ASYNC110 - the metric has no event
            await asyncio.sleep(0.02)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert (await world.where(await world.send()))[0] == "sent"


async def test_a_country_that_fails_is_left_and_the_others_stay(world: World) -> None:
    await world.runtime.health.add({PRIMARY._replace(country="GB"): Samples(calls=40, failures=30)})
    await judged(world)
    await world.send(country="GB")
    await world.send(country="US")
    assert world.http.called() == ["fallback", "primary"]
    moved = {"provider": "primary", "condition": "failing"}
    assert world.runtime.metrics.registry.get_sample_value("sms_gateway_provider_standings_total", moved) == 1


async def test_a_provider_that_accepts_and_then_fails_by_receipt_is_left(world: World) -> None:
    message_ids = [await world.accept() for _ in range(40)]
    await world.step()
    for message_id in message_ids:
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "undelivered"))
    await world.receive._health.sync()  # noqa: SLF001 - it does so by itself a second later
    await judged(world)
    assert await conditions(world) == {PRIMARY: Condition.FAILING}
    world.http.calls.clear()
    await world.send()
    assert world.http.called() == ["fallback"]


async def fail(world: World) -> None:
    """The primary fails until its breaker opens, and is well again."""
    world.http.always("primary", Unavailable("down"))
    for _ in range(5):
        await world.send()
    world.http.always("primary", Accepted("p"))
    world.http.calls.clear()


async def first_of_a_hundred(world: World) -> set[int]:
    """Of a hundred messages with all lots between them, those that try the primary first."""
    await world.accept()
    [one] = await world.queue.claim(Traffic.TRANSACTIONAL, world.lease.worker_id, {}, 1)
    [route] = routes_of(world.runtime.config)
    messages = [replace(one, id=UUID(int=number * (1 << 32) // 100)) for number in range(100)]
    firsts = [health(world).order(message, route).providers[0] for message in messages]
    return {number for number, name in enumerate(firsts) if name == "primary"}


async def drift(world: World, pass_s: Callable[[float], Awaitable[None]]) -> None:
    """The traffic comes back from now on in a minute."""
    parts, tried = [], set[int]()
    for age_s in (0, 15, 15, 15, 14, 1):
        await pass_s(age_s)
        now = await first_of_a_hundred(world)
        assert tried <= now, "no message swings"
        tried = now
        parts.append(len(now))
    assert parts == pytest.approx([10, 32, 55, 77, 98, 100], abs=3)


async def test_after_its_breaker_closed_a_process_lets_the_traffic_drift_back(world: World) -> None:
    await fail(world)
    assert await first_of_a_hundred(world) == set()
    world.ahead_s += 5.1
    await world.send()
    assert world.http.called() == ["primary"], "the probe"

    async def pass_s(seconds: float) -> None:
        world.ahead_s += seconds

    await drift(world, pass_s)


async def test_a_process_that_cannot_reach_a_provider_takes_it_from_nobody_else(make_world: MakeWorld) -> None:
    sick, other = await make_world(), await make_world()
    await fail(sick)
    for _ in range(20):
        await other.send()
    await judged(sick)
    await health(other).sync()
    assert (await seen(other))[PRIMARY] == Samples(calls=25, failures=5, openings=1)
    assert len(await first_of_a_hundred(other)) == 100


async def test_a_place_that_was_probed_well_gets_its_traffic_back_slowly(make_world: MakeWorld) -> None:
    """And so in a worker that never called it."""
    world, other = await make_world(), await make_world()
    await stand(world, PRIMARY, Condition.PROBING, Cause.SLOW)
    for _ in range(10):
        world.ahead_s += 1.1
        await world.send()
    assert world.http.called() == ["primary"] * 10, "each of them a probe"
    await judged(world)
    assert (await conditions(world))[PRIMARY] is Condition.RECOVERING

    async def pass_s(seconds: float) -> None:
        await judged(world, seconds)
        await health(other).sync()

    await drift(other, pass_s)
    assert (await conditions(world))[PRIMARY] is Condition.HEALTHY


async def test_a_provider_that_failed_a_message_is_not_the_first_that_is_asked_again(world: World) -> None:
    world.http.script("primary", Unavailable("down"))
    world.http.script("fallback", Throttled(0.001))
    message_id = await world.send()
    assert await world.where(message_id) == ("queued", "provider_busy")
    world.ahead_s += 1
    await world.again()
    assert world.http.called() == ["primary", "fallback", "fallback"]


async def test_where_all_providers_are_bad_the_configured_order_stays_and_nobody_is_a_probe(world: World) -> None:
    for place in (PRIMARY, FALLBACK):
        await stand(world, place, Condition.PROBING, Cause.RECEIPT_FAILURES)
    for _ in range(3):
        await world.send()
    assert world.http.called() == ["primary"] * 3


async def test_one_message_a_second_is_a_probe(world: World) -> None:
    await stand(world, PRIMARY, Condition.PROBING, Cause.RECEIPT_FAILURES)
    for _ in range(3):
        await world.send()
    world.ahead_s += 1
    await world.send()
    assert world.http.called() == ["primary", "fallback", "fallback", "primary"]


async def test_an_otp_is_a_probe_only_where_nobody_else_has_been_for_ten_seconds(world: World) -> None:
    await stand(world, PRIMARY._replace(traffic="otp"), Condition.PROBING, Cause.SLOW, ago_s=8)
    await world.send("otp")
    world.ahead_s += 2.1
    await world.send("otp")
    await world.send("otp")
    assert world.http.called() == ["fallback", "primary", "fallback"]


async def test_an_otp_probes_a_breaker_only_where_nobody_else_has_for_ten_seconds(world: World) -> None:
    await fail(world)
    world.ahead_s += 14.9
    await world.send("otp")
    world.ahead_s += 0.2
    await world.send("otp")
    assert world.http.called() == ["fallback", "primary"]


async def test_an_otp_does_not_probe_a_breaker_while_another_message_can(world: World) -> None:
    await fail(world)
    world.ahead_s += 5.1
    await world.send("otp")
    await world.send("marketing")
    world.ahead_s += 60
    await world.send("otp")
    assert world.http.called() == ["fallback", "primary", "primary"]


@pytest.mark.parametrize("tried", [("refused", False), ("accepted", True)])
async def test_a_message_that_a_provider_is_closed_to_does_not_spend_the_turn_to_probe_it(
    world: World, tried: tuple[str, bool]
) -> None:
    await stand(world, PRIMARY, Condition.PROBING, Cause.RECEIPT_FAILURES)
    await world.accept()
    [fresh] = await world.queue.claim(Traffic.TRANSACTIONAL, world.lease.worker_id, {}, 1)
    [route] = routes_of(world.runtime.config)
    outcome, is_open = tried

    def first(message: Claimed) -> str:
        return health(world).order(message, route).providers[0]

    closed = {
        name: replace(fresh, tried=(Tried(UUID(int=1), name, open=is_open, outcome=outcome, calls=1),))
        for name in ("primary", "fallback")
    }
    assert first(closed["primary"]) == "fallback"
    assert first(closed["fallback"]) == "fallback", "it has nowhere else to go"
    assert [first(fresh), first(fresh)] == ["primary", "fallback"], "the turn was still there"


async def test_a_worker_that_stops_gives_its_lease_back_before_it_shares_its_last_counts(world: World) -> None:
    alive: list[list[UUID]] = []

    class Stuck(HealthStore):
        async def add(self, _: Mapping[Place, Samples]) -> None:
            rows = await world.database.fetch("SELECT id FROM workers WHERE expires_at > now()")
            alive.append([row["id"] for row in rows])
            await asyncio.Event().wait()

    async with asyncio.timeout(60):
        async with working(replace(world.runtime, health=Stuck(world.database))):
            await world.queue.until_settled({await world.accept()})
    assert alive[-1] == [world.lease.worker_id], "only the one of this test"


async def test_no_probe_of_a_breaker_goes_to_a_place_that_is_still_held_back(world: World) -> None:
    await fail(world)
    await stand(world, PRIMARY, Condition.FAILING, Cause.SUBMIT_ERRORS)
    world.ahead_s += 5.1
    await world.send()
    assert world.http.called() == ["fallback"]


@pytest.mark.parametrize(("cause", "asked"), [(Cause.SLOW, ["primary"]), (Cause.RECEIPT_FAILURES, [])])
async def test_what_the_second_has_no_room_for_goes_to_the_first_that_is_only_slow(
    world: World, cause: Cause, asked: list[str]
) -> None:
    await stand(world, PRIMARY, Condition.FAILING, cause)
    world.http.script("fallback", Throttled(100))
    message_ids = [await world.send() for _ in range(2)]
    assert world.http.called() == ["fallback", *asked * 2]
    expected = ("sent", None) if asked else ("queued", "provider_busy")
    assert [await world.where(each) for each in message_ids] == [expected] * 2


async def test_results_of_calls_that_began_before_a_standing_do_not_count_for_it(world: World) -> None:
    go = asyncio.Event()

    async def late() -> Outcome:
        await go.wait()
        return Unavailable("down")

    world.http.script("primary", late)
    await world.accept()
    stepping = asyncio.create_task(world.step())
    while not world.http.calls:  # noqa: ASYNC110 - the transport has no event
        await asyncio.sleep(0.001)
    await stand(world, PRIMARY, Condition.RECOVERING, Cause.SLOW, ago_s=0)
    go.set()
    await stepping
    await health(world).sync()
    await world.database.execute("UPDATE health_standings SET since = since - interval '10 seconds'")
    assert (await seen(world))[PRIMARY] == Samples()
