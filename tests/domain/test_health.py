"""The breaker and the standing, step by step. test_health_simulation.py shows them over hours."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.health import (
    Breaker,
    BreakerPolicy,
    BreakerState,
    Cause,
    Condition,
    Pass,
    Samples,
    Standing,
    StandingPolicy,
    judge,
    share,
)

POLICY = BreakerPolicy(
    failures_to_open=3,
    failure_share=0.5,
    window=10,
    window_s=60.0,
    min_samples=6,
    open_s=5.0,
    open_cap_s=15.0,
)


def call(breaker: Breaker, success: bool | None, at_s: float) -> bool:
    assert breaker.wait_s(at_s) == 0
    return breaker.end(breaker.begin(), success, at_s)


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    assert [call(breaker, False, at_s) for _ in range(3)] == [False, False, True]
    return breaker


def test_a_new_breaker_is_closed() -> None:
    breaker = Breaker()
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert breaker.wait_s(7.0) == 0


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert breaker.state(4.9) is BreakerState.OPEN
    assert breaker.wait_s(1.0) == 4.0


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(POLICY)
    for success in (False, False, True, False, False):
        call(breaker, success, 0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_a_large_share_of_failures_opens_it_once_there_are_enough_samples() -> None:
    breaker = Breaker(POLICY)
    for success in (True, False, True, False, True):
        call(breaker, success, 0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert call(breaker, False, 0.0)
    assert breaker.state(0.0) is BreakerState.OPEN


def test_old_samples_do_not_count() -> None:
    breaker = Breaker(POLICY)
    for success in (True, False, True, False, True):
        call(breaker, success, 0.0)
    call(breaker, False, 61.0)
    assert breaker.state(61.0) is BreakerState.CLOSED


def test_when_its_time_is_over_one_probe_passes_at_a_time() -> None:
    breaker = opened()
    assert breaker.state(5.0) is BreakerState.HALF_OPEN
    assert breaker.wait_s(6.0) == 0
    probe = breaker.begin()
    assert breaker.state(6.0) is BreakerState.HALF_OPEN
    assert breaker.wait_s(1e6) == math.inf
    assert not breaker.end(probe, True, 7.0)
    assert breaker.state(7.0) is BreakerState.CLOSED


def test_each_failed_probe_doubles_the_wait_up_to_a_cap() -> None:
    breaker, now_s, waits_s = opened(), 0.0, []
    for _ in range(4):
        waits_s.append(breaker.wait_s(now_s))
        now_s += waits_s[-1]
        assert call(breaker, False, now_s)
    assert waits_s == [5.0, 10.0, 15.0, 15.0]


def test_after_it_closed_the_next_opening_is_short_again() -> None:
    breaker = opened()
    call(breaker, False, 5.0)
    call(breaker, True, 15.0)
    for _ in range(3):
        call(breaker, False, 20.0)
    assert breaker.wait_s(20.0) == 5.0


def test_a_probe_that_was_not_made_makes_room_for_the_next_at_once() -> None:
    breaker = opened()
    call(breaker, None, 5.0)
    assert breaker.wait_s(5.0) == 0
    call(breaker, True, 5.0)
    assert breaker.state(5.0) is BreakerState.CLOSED


def test_a_call_that_was_not_made_changes_nothing_while_closed() -> None:
    breaker = Breaker(POLICY)
    for success in (False, False, None, False):
        call(breaker, success, 0.0)
    assert breaker.state(0.0) is BreakerState.OPEN


@pytest.mark.parametrize("success", [True, False, None])
def test_a_late_result_is_neither_the_probes_nor_one_of_the_closed_phase_after_it(success: bool | None) -> None:
    breaker = Breaker(POLICY)
    late = [breaker.begin() for _ in range(5)]
    for _ in range(3):
        call(breaker, False, 0.0)
    breaker.end(late[0], success, 1.0)
    assert breaker.wait_s(1.0) == 4.0
    probe = breaker.begin()
    breaker.end(late[1], success, 6.0)
    assert breaker.wait_s(6.0) == math.inf, "the probe is still out"
    breaker.end(probe, True, 6.0)
    for each in late[2:]:
        breaker.end(each, success, 7.0)
    assert breaker.state(7.0) is BreakerState.CLOSED


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.sampled_from([True, False, None]), st.floats(0, 20))))
def test_whatever_happens_it_lets_a_call_through_once_all_calls_have_ended(
    steps: list[tuple[str, bool | None, float]],
) -> None:
    breaker, now_s, out = Breaker(POLICY), 0.0, list[Pass]()
    for step, success, pause_s in steps:
        now_s += pause_s
        if step == "begin" and breaker.wait_s(now_s) == 0:
            out.append(breaker.begin())
        elif step == "end" and out:
            breaker.end(out.pop(0), success, now_s)
    for each in out:
        breaker.end(each, None, now_s)
    assert breaker.wait_s(now_s) <= POLICY.open_cap_s


STANDING = StandingPolicy()
FALLEN = Standing(Condition.FAILING, 100.0, Cause.SUBMIT_ERRORS, 1)
PROBING = replace(FALLEN, condition=Condition.PROBING)
RECOVERING = replace(FALLEN, condition=Condition.RECOVERING)


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        (Samples(calls=40, failures=20), Cause.SUBMIT_ERRORS),
        (Samples(calls=20, failures=20), Cause.SUBMIT_ERRORS),
        (Samples(calls=40, slow=20), Cause.SLOW),
        (Samples(calls=40, delivered=20, undelivered=20), Cause.RECEIPT_FAILURES),
        (Samples(openings=9), None),
        (Samples(calls=40, failures=19, slow=19, delivered=21, undelivered=20), None),
        (Samples(calls=19, failures=19), None),
        (Samples(calls=400, failures=199), None),
    ],
)
@pytest.mark.parametrize("old", [Standing(), RECOVERING])
def test_a_place_falls_when_half_of_enough_samples_are_bad(old: Standing, seen: Samples, cause: Cause | None) -> None:
    fallen = Standing(Condition.FAILING, 101.0, cause, old.strikes + 1)
    assert judge(old, seen, 101.0, STANDING) == (fallen if cause else old)


@pytest.mark.parametrize(("strikes", "held_s"), [(1, 10), (2, 20), (3, 40), (6, 300), (5000, 300)])
def test_a_fallen_place_stays_for_its_time_whatever_is_seen_and_longer_each_time(strikes: int, held_s: float) -> None:
    fallen = replace(FALLEN, strikes=strikes)
    for seen in (Samples(calls=1000), Samples(calls=1000, failures=1000)):
        assert judge(fallen, seen, 99.9 + held_s, STANDING) is fallen
        assert judge(fallen, seen, 100.0 + held_s, STANDING).condition is Condition.PROBING


@pytest.mark.parametrize(
    ("cause", "seen", "then"),
    [
        (Cause.SUBMIT_ERRORS, Samples(calls=9), Condition.PROBING),
        (Cause.SUBMIT_ERRORS, Samples(calls=10, failures=2), Condition.RECOVERING),
        (Cause.SUBMIT_ERRORS, Samples(calls=3, failures=3), Condition.FAILING),
        (Cause.SUBMIT_ERRORS, Samples(calls=10, slow=10, undelivered=10), Condition.RECOVERING),
        (Cause.SLOW, Samples(calls=10, slow=3), Condition.FAILING),
        (Cause.RECEIPT_FAILURES, Samples(calls=500, delivered=9), Condition.PROBING),
        (Cause.RECEIPT_FAILURES, Samples(calls=10, delivered=10), Condition.RECOVERING),
        (Cause.RECEIPT_FAILURES, Samples(calls=10, undelivered=3), Condition.FAILING),
        (Cause.RECEIPT_FAILURES, Samples(calls=10, failures=3, delivered=10), Condition.FAILING),
    ],
)
def test_probes_are_judged_by_what_brought_the_place_down(cause: Cause, seen: Samples, then: Condition) -> None:
    new = judge(replace(PROBING, cause=cause), seen, 101.0, STANDING)
    assert new.condition is then
    assert new.strikes == (2 if then is Condition.FAILING else 1)
    assert new.since_s == (100.0 if then is Condition.PROBING else 101.0)


def test_its_share_grows_from_a_tenth_to_all_and_then_it_is_healthy() -> None:
    shares = [share(RECOVERING, at_s, STANDING) for at_s in (99.0, 100.0, 130.0, 160.0, 200.0)]
    assert shares == pytest.approx([0.1, 0.1, 0.55, 1.0, 1.0])
    assert judge(RECOVERING, Samples(), 159.9, STANDING) is RECOVERING
    assert judge(RECOVERING, Samples(), 160.0, STANDING) == Standing(Condition.HEALTHY, 160.0, None, 1)
    assert [share(each, 100.0, STANDING) for each in (Standing(), FALLEN, PROBING)] == [1.0, 0.0, 0.0]


def test_strikes_are_forgiven_after_a_long_time_of_health() -> None:
    struck = Standing(Condition.HEALTHY, 100.0, None, 3)
    assert judge(struck, Samples(calls=9), 399.9, STANDING) is struck
    assert judge(struck, Samples(calls=9), 400.0, STANDING) == Standing(Condition.HEALTHY, 100.0)
