"""The limiter, in virtual time, against neighbours of different kinds."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from service.domain.limiter import Limiter

Takes = Callable[[float, int], float]
"""How long a call takes that begins at that time, beside so many others."""


class Run:
    """As many calls as the limiter allows, for ever: what comes of them, and where the limit goes."""

    def __init__(self, takes: Takes, limiter: Limiter | None = None, timeout_s: float = 10.0) -> None:
        self.limiter = limiter or Limiter(floor=16, start=64, ceiling=512)
        self.takes = takes
        self.now_s = 0.0
        self.ended = 0
        self._timeout_s = timeout_s
        self._ends: list[tuple[float, float]] = []

    def until(self, now_s: float, wanted: int = 1_000) -> int:
        """Go on to that time with `wanted` callers at most; returns the limit then."""
        while True:
            while len(self._ends) < min(self.limiter.limit, wanted):
                self._begin()
            if len(self._ends) >= self.limiter.limit:
                self.limiter.want()
            if self._ends[0][0] > now_s:
                self.now_s = now_s
                return self.limiter.limit
            self.now_s, began_s = heapq.heappop(self._ends)
            took_s = self.now_s - began_s
            bad = took_s >= self._timeout_s
            self.ended += not bad
            self.limiter.end(None if bad else took_s, bad=bad, in_flight=len(self._ends) + 1, now_s=self.now_s)

    def _begin(self) -> None:
        takes_s = min(self.takes(self.now_s, len(self._ends) + 1), self._timeout_s)
        heapq.heappush(self._ends, (self.now_s + takes_s, self.now_s))


def steady(_: float, __: int) -> float:
    return 0.25


def test_a_neighbour_that_takes_all_it_gets_as_quickly_as_ever_gets_more_up_to_the_ceiling() -> None:
    run = Run(steady)
    assert run.until(2.0) > 100
    assert run.until(30.0) == 512


def test_nothing_is_learnt_of_more_calls_than_are_made() -> None:
    run = Run(steady)
    assert run.until(30.0, wanted=20) == 64
    assert run.until(60.0, wanted=1_000) > 64


def test_a_neighbour_that_only_gets_slower_by_more_calls_is_held_near_what_it_bears() -> None:
    """It works on 40 at a time, each for 100 ms; the others stand in its queue."""
    run = Run(lambda _, calls: 0.1 * max(1.0, calls / 40))
    run.until(60.0)
    limits = [run.until(60.0 + tenth / 10) for tenth in range(600)]
    assert 40 <= min(limits) <= max(limits) <= 200
    before = run.ended
    run.until(130.0)
    assert run.ended - before > 0.95 * 10 * 400, "it is kept busy all the same"


def test_a_neighbour_that_slows_down_gets_fewer_calls_and_all_of_them_once_it_has_recovered() -> None:
    slow = False
    run = Run(lambda _, __: 5.0 if slow else 0.05)
    assert run.until(10.0) == 512
    slow = True
    assert run.until(45.0) < 200
    slow = False
    assert run.until(75.0) == 512


def test_a_neighbour_that_is_slow_for_good_gets_its_calls_again() -> None:
    run = Run(lambda at_s, _: 0.05 if at_s < 10 else 3.0)
    run.until(10.0)
    fewest = min(run.until(10.0 + second) for second in range(1, 60))
    assert fewest < 100
    assert run.until(300.0) > 400


def test_calls_that_time_out_bring_the_limit_down_to_the_floor() -> None:
    run = Run(lambda _, __: 60.0)
    assert run.until(200.0) == 16


def test_one_failure_in_many_calls_is_no_overload() -> None:
    calls = 0

    def mostly(_: float, __: int) -> float:
        nonlocal calls
        calls += 1
        return 60.0 if calls % 50 == 0 else 0.25

    assert Run(mostly).until(60.0) > 300


def test_refusals_at_once_do_not_make_what_is_usual_look_slow() -> None:
    limiter = Limiter(floor=16, start=64, ceiling=512)
    for number in range(10_000):
        took_s = 0.25 if number % 2 else None
        limiter.want()
        limiter.end(took_s, bad=False, in_flight=limiter.limit, now_s=number * 0.002)
    assert limiter.limit > 64
    assert limiter.usual_s == 0.25


def test_the_ceiling_rules_over_floor_and_start() -> None:
    assert Limiter(floor=16, start=64, ceiling=3).limit == 3
