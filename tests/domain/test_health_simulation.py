"""Breakers and standings over hours of virtual time: several processes, providers that misbehave, nobody's clock."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from service.domain.health import (
    Breaker,
    BreakerPolicy,
    BreakerState,
    Cause,
    Condition,
    Place,
    Samples,
    Standing,
    StandingPolicy,
    judge,
    ramp,
    share,
)
from service.domain.routing import rank

POLICY = StandingPolicy()
PROVIDERS = ("primary", "fallback")
MINUTE, HOUR = 60.0, 3600.0
BUCKET_S, WINDOW_S = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider does with a message: whether the call works, whether it is slow, and what its receipt says."""

    works: bool = True
    slow: bool = False
    delivers: bool = True


Provider = Callable[[float, str, float], Answer]
"""From the time, the country and a number drawn from 0 to 1."""


def good(_: float, __: str, ___: float) -> Answer:
    return Answer()


@dataclass(slots=True)
class Simulation:
    """Two processes that send `per_s` messages a second through the primary or, where it stands back, the other."""

    primary: Provider
    fallback: Provider = good
    sick: Callable[[float], bool] = lambda _: False
    """When the first process reaches the primary no more, though the provider works."""
    per_s: float = 4.0
    countries: tuple[str, ...] = ("US",)
    receipt_s: float = 8.0
    now_s: float = 0.0
    standings: dict[Place, Standing] = field(default_factory=dict)
    moves: list[tuple[float, Place, Condition]] = field(default_factory=list)
    lost: int = 0
    first: list[tuple[float, str, str]] = field(default_factory=list)
    """For each message the time, the country and the provider that was asked first."""

    def run(self, until_s: float) -> None:
        chance = random.Random(7)  # noqa: S311 - a simulation, no secret
        buckets: dict[Place, dict[float, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0] * 5))
        breakers = [{name: Breaker() for name in PROVIDERS} for _ in range(2)]
        probed_s: dict[tuple[int, str], float] = {}
        receipts: list[tuple[float, float, Place, bool]] = []
        next_judgement_s = 0.0
        while self.now_s < until_s:
            self.now_s += 1 / self.per_s
            while receipts and receipts[0][0] <= self.now_s:
                _, began_s, place, delivered = heapq.heappop(receipts)
                self._count(buckets, place, began_s, (0, 0, 0, int(delivered), int(not delivered)))
            if self.now_s >= next_judgement_s:
                self._judge(buckets)
                next_judgement_s = self.now_s + 2
            process = chance.randrange(2)
            country = chance.choice(self.countries)
            for number, name in enumerate(self._order(breakers[process], process, country, chance.random(), probed_s)):
                breaker, place = breakers[process][name], Place(name, country, "otp")
                if number == 0:
                    self.first.append((self.now_s, country, name))
                if breaker.wait_s(self.now_s) > 0:
                    continue
                answer = getattr(self, name)(self.now_s, country, chance.random())
                if process == 0 and name == "primary" and self.sick(self.now_s):
                    answer = Answer(works=False)
                breaker.end(breaker.begin(), answer.works, self.now_s)
                seen = (1, int(not answer.works), int(answer.works and answer.slow), 0, 0)
                self._count(buckets, place, self.now_s, seen)
                if answer.works:
                    heapq.heappush(receipts, (self.now_s + self.receipt_s, self.now_s, place, answer.delivers))
                    break
            else:
                self.lost += 1

    def _order(
        self,
        breakers: dict[str, Breaker],
        process: int,
        country: str,
        lot: float,
        probed_s: dict[tuple[int, str], float],
    ) -> list[str]:
        """What pipeline/health.py does: a share for each provider, and now and then a message as a probe."""
        shares, due = {}, []
        for name in PROVIDERS:
            breaker, standing = breakers[name], self.standing(Place(name, country, "otp"))
            closed = breaker.state(self.now_s) is BreakerState.CLOSED
            own = ramp(self.now_s - breaker.closed_at_s, POLICY) if closed else 0.0
            shares[name] = min(own, share(standing, self.now_s, POLICY))
            rested = self.now_s >= probed_s.get((process, name), 0) + 1 and breaker.wait_s(self.now_s) == 0
            if shares[name] == 0 and rested and standing.condition is not Condition.FAILING:
                due.append(name)
        ranked = rank(PROVIDERS, lot, shares)
        if due and lot < shares[ranked[0]]:
            probed_s[process, due[0]] = self.now_s
            return sorted(ranked, key=lambda name: name != due[0])
        return ranked

    def standing(self, place: Place) -> Standing:
        return self.standings.get(place, Standing())

    def _count(
        self,
        buckets: dict[Place, dict[float, list[int]]],
        place: Place,
        began_s: float,
        seen: tuple[int, ...],
    ) -> None:
        if began_s >= self.standing(place).since_s:
            bucket = buckets[place][self.now_s // BUCKET_S * BUCKET_S]
            for column in range(5):
                bucket[column] += seen[column]

    def _judge(self, buckets: dict[Place, dict[float, list[int]]]) -> None:
        """What storage/queries/health.sql adds up, added up here."""
        for place in {*buckets, *self.standings}:
            old = self.standing(place)
            on_trial = old.condition in {Condition.PROBING, Condition.RECOVERING}
            floor_s = old.since_s if on_trial else max(old.since_s, self.now_s - WINDOW_S)
            new = judge(old, _newest(buckets[place], floor_s), self.now_s, POLICY)
            if new.condition is not old.condition:
                self.moves.append((self.now_s, place, new.condition))
            self.standings[place] = new
        for of_place in buckets.values():
            for at_s in [at_s for at_s in of_place if at_s < self.now_s - WINDOW_S]:
                del of_place[at_s]

    def falls(self, place: Place | None = None) -> list[float]:
        """When the primary fell: in that place, or anywhere."""
        return [
            at_s
            for at_s, where, condition in self.moves
            if condition is Condition.FAILING and where.provider == "primary" and place in {None, where}
        ]

    def part(self, from_s: float, to_s: float, country: str = "US") -> float:
        """The part of a country's messages that asked the primary first, between two times."""
        asked = [name for at_s, where, name in self.first if from_s <= at_s < to_s and where == country]
        return asked.count("primary") / len(asked)


def _newest(buckets: dict[float, list[int]], floor_s: float) -> Samples:
    sums = [0] * 5
    for at_s in sorted(buckets, reverse=True):
        if at_s + BUCKET_S > floor_s:
            calls_count, receipts_count = sums[0] < POLICY.min_samples, sums[3] + sums[4] < POLICY.min_samples
            for column, counts in enumerate([calls_count] * 3 + [receipts_count] * 2):
                sums[column] += buckets[at_s][column] if counts else 0
    return Samples(*sums)


PRIMARY = Place("primary", "US", "otp")


def test_a_good_provider_keeps_all_of_its_traffic() -> None:
    simulation = Simulation(primary=good)
    simulation.run(HOUR)
    assert simulation.moves == []
    assert simulation.part(0, HOUR) == 1


def test_a_fifth_of_bad_answers_and_receipts_is_no_reason_to_leave_a_provider() -> None:
    def noisy(_: float, __: str, chance: float) -> Answer:
        return Answer(works=chance > 0.1, slow=chance < 0.2, delivers=chance > 0.3)

    simulation = Simulation(primary=noisy, per_s=2.0)
    simulation.run(4 * HOUR)
    assert simulation.moves == []


@pytest.mark.parametrize("per_s", [0.2, 4.0, 20.0])
def test_a_dead_provider_is_left_at_once_and_after_its_return_its_traffic_drifts_back(per_s: float) -> None:
    dead = (10 * MINUTE, 20 * MINUTE)
    end_s = 60 * MINUTE
    simulation = Simulation(primary=lambda at_s, *_: Answer(works=not dead[0] <= at_s < dead[1]), per_s=per_s)
    simulation.run(end_s)
    assert simulation.lost == 0
    noticed = dead[0] + 10 / per_s + 2
    assert simulation.part(0, dead[0]) == 1
    assert simulation.part(noticed, dead[1]) <= 0.02 + 0.1 / per_s, "but for probes"
    assert all(at_s < dead[1] + 2 for at_s in simulation.falls()), "no oscillation after its return"
    back_s = min(at_s for at_s, _, name in simulation.first if name == "primary" and at_s >= dead[1])
    assert back_s <= dead[1] + POLICY.hold_cap_s + BreakerPolicy().open_cap_s + 10 / per_s
    if per_s >= 4:
        parts = [simulation.part(back_s + 10 * step, back_s + 10 * step + 10) for step in range(7)]
        assert parts[0] < 0.4
        assert all(later > earlier - 0.15 for earlier, later in pairwise(parts)), parts
    assert simulation.part(dead[1] + 15 * MINUTE, end_s) == 1


@pytest.mark.parametrize("per_s", [2.0, 20.0])
def test_a_process_that_cannot_reach_a_provider_does_not_take_it_from_the_other(per_s: float) -> None:
    simulation = Simulation(primary=good, sick=lambda at_s: at_s >= 10 * MINUTE, per_s=per_s, countries=("US", "GB"))
    simulation.run(60 * MINUTE)
    assert simulation.lost == 0
    assert len(simulation.falls()) <= 4
    assert all(at_s < 12 * MINUTE for at_s in simulation.falls()), "failed probes of the sick one hold up nobody"
    assert simulation.part(15 * MINUTE, 60 * MINUTE) == pytest.approx(0.5, abs=0.05), "all that the other one sends"


def test_a_flapping_provider_is_left_alone_most_of_the_time() -> None:
    """Up and down every 90 s for four hours is 160 changes."""
    simulation = Simulation(primary=lambda at_s, *_: Answer(works=at_s % 180 < 90))
    simulation.run(4 * HOUR)
    assert simulation.lost == 0
    assert len(simulation.falls()) <= 7 + 4 * HOUR / POLICY.hold_cap_s
    assert simulation.part(2 * HOUR, 4 * HOUR) < 0.2


def test_slow_decay_is_found_where_half_of_it_fails_and_recovery_ends_it() -> None:
    def decaying(at_s: float, _: str, chance: float) -> Answer:
        bad = min(at_s, 4 * HOUR - at_s) / (2 * HOUR)
        return Answer(works=chance >= bad)

    simulation = Simulation(primary=decaying, per_s=2.0)
    simulation.run(4 * HOUR + 20 * MINUTE)
    assert 0.3 * HOUR < simulation.falls()[0] < 1.2 * HOUR
    assert len(simulation.falls()) <= 7 + simulation.now_s / POLICY.hold_cap_s
    assert simulation.lost == 0
    assert simulation.part(1.2 * HOUR, 2.8 * HOUR) < 0.1
    assert simulation.part(4 * HOUR + 15 * MINUTE, 5 * HOUR) == 1


def test_a_country_that_fails_does_not_take_the_others_with_it() -> None:
    simulation = Simulation(
        primary=lambda at_s, country, _: Answer(works=country != "GB" or at_s < 10 * MINUTE),
        countries=("US", "GB", "DE"),
    )
    simulation.run(2 * HOUR)
    assert simulation.lost == 0
    assert 10 * MINUTE < simulation.falls(Place("primary", "GB", "otp"))[0] < 11 * MINUTE
    for country in ("US", "DE"):
        assert simulation.falls(Place("primary", country, "otp")) == []
        assert simulation.part(15 * MINUTE, 2 * HOUR, country) > 0.97
    assert simulation.part(11 * MINUTE, 2 * HOUR, "GB") < 0.05


@pytest.mark.parametrize("per_s", [0.2, 4.0])
def test_a_provider_that_accepts_and_then_fails_by_receipt_is_found_and_found_well_again(per_s: float) -> None:
    bad = (10 * MINUTE, 40 * MINUTE)
    simulation = Simulation(primary=lambda at_s, *_: Answer(delivers=not bad[0] <= at_s < bad[1]), per_s=per_s)
    simulation.run(70 * MINUTE)
    assert bad[0] < simulation.falls(PRIMARY)[0] < bad[0] + simulation.receipt_s + 15 + 40 / per_s
    assert simulation.standing(PRIMARY).cause is None
    assert len(simulation.falls(PRIMARY)) <= 12
    assert simulation.part(bad[0] + 4 * MINUTE, bad[1]) < (0.1 if per_s > 1 else 0.3)
    assert simulation.part(65 * MINUTE, 70 * MINUTE) == 1


def test_receipts_of_the_bad_time_that_come_late_do_not_hold_up_the_return() -> None:
    bad = (10 * MINUTE, 11 * MINUTE)
    simulation = Simulation(primary=lambda at_s, *_: Answer(delivers=not bad[0] <= at_s < bad[1]), receipt_s=45.0)
    simulation.run(20 * MINUTE)
    assert len(simulation.falls(PRIMARY)) == 1


def test_where_all_are_slow_nobody_runs_to_the_second() -> None:
    def slow(at_s: float, *_: object) -> Answer:
        return Answer(slow=at_s > 5 * MINUTE)

    simulation = Simulation(primary=slow, fallback=slow)
    simulation.run(HOUR)
    assert simulation.falls(PRIMARY)
    assert simulation.standing(PRIMARY).cause is Cause.SLOW
    assert simulation.part(10 * MINUTE, HOUR) == 1
