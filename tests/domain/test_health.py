from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.domain.health import Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(
    failures_to_open=3,
    failure_share=0.5,
    window=10,
    window_s=60.0,
    min_samples=6,
    open_s=5.0,
    open_cap_s=15.0,
    probe_timeout_s=30.0,
)


def _opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        assert breaker.allows(at_s)
        breaker.record(False, at_s)
    return breaker


def test_a_new_breaker_is_closed() -> None:
    breaker = Breaker()
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert breaker.allows(0.0)
    assert breaker.retry_at_s(7.0) == 7.0


def test_failures_in_a_row_open_it() -> None:
    breaker = _opened()
    assert breaker.state(4.9) is BreakerState.OPEN
    assert not breaker.allows(4.9)
    assert breaker.retry_at_s(1.0) == 5.0


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(POLICY)
    for success in (False, False, True, False, False):
        breaker.record(success, 0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_a_large_share_of_failures_opens_it_once_there_are_enough_samples() -> None:
    breaker = Breaker(POLICY)
    for success in (True, False, True, False, True):
        breaker.record(success, 0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    breaker.record(False, 0.0)
    assert breaker.state(0.0) is BreakerState.OPEN


def test_old_samples_do_not_count() -> None:
    breaker = Breaker(POLICY)
    for success in (True, False, True, False, True):
        breaker.record(success, 0.0)
    breaker.record(False, 61.0)
    assert breaker.state(61.0) is BreakerState.CLOSED


def test_when_its_time_is_over_one_probe_passes_at_a_time() -> None:
    breaker = _opened()
    assert breaker.state(5.0) is BreakerState.HALF_OPEN
    assert breaker.retry_at_s(6.0) == 6.0
    assert breaker.allows(6.0)
    assert breaker.state(6.0) is BreakerState.HALF_OPEN
    assert not breaker.allows(6.0)
    assert breaker.retry_at_s(6.0) == 36.0


def test_a_successful_probe_closes_it_and_the_past_is_forgotten() -> None:
    breaker = _opened()
    assert breaker.allows(5.0)
    breaker.record(True, 5.5)
    assert breaker.state(5.5) is BreakerState.CLOSED
    breaker.record(False, 5.6)
    breaker.record(False, 5.7)
    assert breaker.allows(5.8)


def test_failed_probes_keep_it_open_longer_and_longer_up_to_the_cap() -> None:
    breaker, now_s, waits = _opened(), 0.0, []
    for _ in range(4):
        waits.append(breaker.retry_at_s(now_s) - now_s)
        now_s = breaker.retry_at_s(now_s)
        assert breaker.allows(now_s)
        breaker.record(False, now_s)
    assert waits == [5.0, 10.0, 15.0, 15.0]


def test_after_it_closed_the_next_opening_is_short_again() -> None:
    breaker = _opened()
    assert breaker.allows(5.0)
    breaker.record(False, 5.0)
    assert breaker.allows(15.0)
    breaker.record(True, 15.0)
    for _ in range(3):
        breaker.record(False, 20.0)
    assert breaker.retry_at_s(20.0) == 25.0


def test_a_probe_that_never_reports_does_not_block_for_ever() -> None:
    breaker = _opened()
    assert breaker.allows(5.0)
    assert not breaker.allows(34.9)
    assert breaker.allows(35.0)


def test_late_results_of_earlier_calls_change_nothing_while_open() -> None:
    breaker = _opened()
    breaker.record(True, 1.0)
    breaker.record(False, 2.0)
    assert breaker.retry_at_s(2.0) == 5.0
    assert not breaker.allows(4.9)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(min_value=0, max_value=20)), max_size=80))
def test_a_call_can_always_go_at_the_time_that_was_told(steps: list[tuple[bool, bool, float]]) -> None:
    breaker, now_s = Breaker(POLICY), 0.0
    for call, success, pause_s in steps:
        now_s += pause_s
        may = breaker.state(now_s) is not BreakerState.OPEN and breaker.retry_at_s(now_s) == now_s
        if call:
            assert breaker.allows(now_s) is may
        breaker.record(success, now_s)
    assert breaker.allows(breaker.retry_at_s(now_s))
