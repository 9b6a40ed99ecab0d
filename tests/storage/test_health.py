from __future__ import annotations

import asyncio

import pytest

from service.domain.health import Cause, Condition, Place, Samples, Standing, StandingPolicy
from service.errors import StoreOverloaded
from service.storage.database import Database
from service.storage.health import Evidence, HealthStore
from tests.storage.conftest import Store

US, GB = Place("primary", "US", "otp"), Place("primary", "GB", "otp")
FALLEN = Standing(Condition.FAILING, 0.0, Cause.SUBMIT_ERRORS, 2)


@pytest.fixture
def health(store: Store) -> HealthStore:
    return HealthStore(store.database)


async def seen(health: HealthStore, least: int = 40) -> dict[Place, Samples]:
    return {one.place: one.samples for one in await health.evidence(StandingPolicy(min_samples=least))}


async def pass_time(store: Store, seconds: float) -> None:
    """Into buckets that begin where time stands, so that none is half over."""
    await store.database.execute(
        "UPDATE health_samples SET bucket_at = bucket_at - make_interval(secs => $1)", float(seconds)
    )


async def test_what_processes_count_is_added_up(health: HealthStore) -> None:
    await health.add({US: Samples(calls=3, failures=1, openings=1), GB: Samples(calls=2, slow=1)})
    await health.add({US: Samples(calls=4, delivered=5, undelivered=6)})
    assert await seen(health) == {
        US: Samples(calls=7, failures=1, delivered=5, undelivered=6, openings=1),
        GB: Samples(calls=2, slow=1),
    }


async def test_only_the_newest_buckets_count_that_hold_enough(health: HealthStore, store: Store) -> None:
    await health.add({US: Samples(calls=1000, failures=1000, delivered=30)})
    await pass_time(store, 20)
    await health.add({US: Samples(calls=39, delivered=5)})
    await pass_time(store, 20)
    await health.add({US: Samples(calls=1, undelivered=5)})
    assert (await seen(health, 40))[US] == Samples(calls=40, delivered=35, undelivered=5)
    assert (await seen(health, 41))[US].calls == 1040
    await pass_time(store, 280)
    assert (await seen(health, 41))[US] == Samples(calls=1, undelivered=5)
    await pass_time(store, 20)
    assert await seen(health) == {}


async def test_a_standing_on_trial_is_judged_by_all_since_it_began_and_by_nothing_older(
    health: HealthStore, store: Store
) -> None:
    await health.add({US: Samples(calls=5, failures=5)})
    await pass_time(store, 2400)
    await health.move({US: FALLEN})
    await health.add({US: Samples(calls=7)})
    await store.database.execute("UPDATE health_standings SET since = now() - interval '30 minutes'")
    await pass_time(store, 600)
    assert (await seen(health))[US] == Samples(), "a fallen place is not on trial"
    await health.move({US: Standing(Condition.RECOVERING, 0.0, Cause.SLOW, 1)})
    await store.database.execute("UPDATE health_standings SET since = now() - interval '30 minutes'")
    assert (await seen(health))[US] == Samples(calls=7)


async def test_the_bucket_in_which_a_standing_began_counts_for_it(health: HealthStore, store: Store) -> None:
    await health.add({US: Samples(calls=3)})
    await health.move({US: Standing(Condition.RECOVERING, 0.0, Cause.SLOW, 1)})
    for began_s, calls in [(0.0, 3), (4.9, 3), (5.0, 0)]:
        await store.database.execute(
            "UPDATE health_standings"
            " SET since = (SELECT max(bucket_at) FROM health_samples) + make_interval(secs => $1)",
            began_s,
        )
        assert (await seen(health))[US].calls == calls, began_s


async def test_what_a_newer_version_stored_and_nobody_knows_here_is_healthy_or_no_cause(
    health: HealthStore, store: Store
) -> None:
    await health.move(dict.fromkeys([US, GB], FALLEN))
    check = "ALTER TABLE health_standings {} CONSTRAINT health_standings_condition_check {}"
    await store.database.execute("UPDATE health_standings SET cause = 'sunspots' WHERE country = 'US'")
    await store.database.execute(check.format("DROP", ""))
    try:
        await store.database.execute("UPDATE health_standings SET condition = 'resting' WHERE country = 'GB'")
        found = await health.standings()
        assert {one.place: one.standing for one in await health.evidence(StandingPolicy())}[GB] == Standing()
    finally:
        await store.database.execute("DELETE FROM health_standings")
        allowed = "CHECK (condition IN ('healthy', 'failing', 'probing', 'recovering'))"
        await store.database.execute(check.format("ADD", allowed))
    assert (found[US].condition, found[US].cause, found[US].strikes) == (Condition.FAILING, None, 2)
    assert found[GB] == Standing()


class Counted(Database):
    """Counts what it is asked for, and waits with the answer until it may."""

    def __init__(self, database: Database) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.down = False
        self._behind = database

    async def fetch(self, query: str, *arguments: object) -> list[object]:  # type: ignore[override]
        self.asked += 1
        await self.go.wait()
        if self.down:
            raise StoreOverloaded
        return list(await self._behind.fetch(query, *arguments))


async def test_who_asks_often_gets_one_answer_for_a_second(store: Store) -> None:
    database, now_s = Counted(store.database), 100.0
    health = HealthStore(database, lambda: now_s)
    await HealthStore(store.database).add({US: Samples(calls=1)})
    asking = [asyncio.create_task(health.shared_evidence(StandingPolicy())) for _ in range(4)]
    await asyncio.sleep(0)
    asking.pop().cancel()
    now_s = 103.0
    asking.append(asyncio.create_task(health.shared_evidence(StandingPolicy())))
    await asyncio.sleep(0)
    database.go.set()
    answers = await asyncio.gather(*asking)
    assert [one.place for one in answers[0]] == [US]
    assert answers == [answers[0]] * 4
    assert database.asked == 1, "they wait for the same"

    database.down = True
    with pytest.raises(StoreOverloaded):
        await health.shared_evidence(StandingPolicy())
    now_s = 103.9
    with pytest.raises(StoreOverloaded):
        await health.shared_evidence(StandingPolicy())
    assert database.asked == 2
    database.down, now_s = False, 104.0
    assert await health.shared_evidence(StandingPolicy()) == await health.shared_evidence(StandingPolicy())
    assert database.asked == 3


async def test_a_standing_keeps_its_time_until_its_condition_changes(health: HealthStore, store: Store) -> None:
    await health.move({US: FALLEN})
    await store.database.execute("UPDATE health_standings SET since = now() - interval '30 seconds'")
    await health.move({US: Standing(Condition.FAILING, 0.0, Cause.SLOW, 3)})
    kept = (await health.standings())[US]
    assert (kept.condition, kept.cause, kept.strikes) == (Condition.FAILING, Cause.SLOW, 3)
    assert kept.since_s == pytest.approx(-30, abs=5)
    await health.move({US: Standing()})
    [healthy] = await health.evidence(StandingPolicy())
    assert healthy == Evidence(US, healthy.standing, healthy.since, cut_off=False, samples=Samples())
    assert (healthy.standing.condition, healthy.standing.cause) == (Condition.HEALTHY, None)
    assert healthy.standing.since_s == pytest.approx(0, abs=5)


async def test_of_many_one_judges_and_the_next_a_second_later(health: HealthStore, store: Store) -> None:
    assert sorted(await asyncio.gather(*(health.take_round() for _ in range(5)))) == [False] * 4 + [True]
    await store.database.execute("UPDATE pacing SET tat = tat - interval '1 second'")
    assert await health.take_round()


async def test_processes_that_add_in_any_order_do_not_lock_each_other_out(health: HealthStore) -> None:
    one, other = {US: Samples(calls=1), GB: Samples(calls=1)}, {GB: Samples(calls=1), US: Samples(calls=1)}
    await asyncio.gather(*(health.add(each) for each in [one, other] * 20))
    assert (await seen(health, 1000))[US].calls == 40


async def test_old_samples_are_forgotten(health: HealthStore, store: Store) -> None:
    await health.add({US: Samples(calls=1)})
    await pass_time(store, 3700)
    await health.add({US: Samples(calls=1)})
    await health.forget()
    assert len(await store.database.fetch("SELECT FROM health_samples")) == 1
