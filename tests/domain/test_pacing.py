from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.pacing import Decision, Grant, admit, grant

NOW = 1_700_000_000.0

_rates = st.floats(min_value=0.1, max_value=5000)
_pauses = st.lists(st.floats(min_value=0, max_value=2), min_size=1, max_size=60)


def test_an_idle_provider_gives_a_slot_at_once() -> None:
    assert grant(0.0, NOW, 0.5, 1, 0.1) == Grant(NOW, 1, NOW + 0.5)


def test_slots_are_given_up_to_the_horizon() -> None:
    assert grant(0.0, NOW, 0.25, 100, 1.0) == Grant(NOW, 5, NOW + 1.25)


def test_no_more_slots_are_given_than_wanted() -> None:
    assert grant(0.0, NOW, 0.25, 3, 1.0) == Grant(NOW, 3, NOW + 0.75)
    assert grant(0.0, NOW, 0.25, 0, 1.0) == Grant(NOW, 0, 0.0)


def test_beyond_the_horizon_nothing_is_given_and_the_next_free_slot_is_told() -> None:
    assert grant(NOW + 2.0, NOW, 0.25, 3, 1.0) == Grant(NOW + 2.0, 0, NOW + 2.0)


def test_a_slot_on_the_horizon_counts() -> None:
    assert grant(NOW + 1.0, NOW, 0.25, 3, 1.0) == Grant(NOW + 1.0, 1, NOW + 1.25)


def test_a_slot_that_was_told_is_granted_when_its_time_comes() -> None:
    told = grant(NOW + 0.3, NOW, 0.1, 1, 0.0)
    assert told.count == 0
    assert grant(NOW + 0.3, told.first_s, 0.1, 1, 0.0).count == 1


@given(_rates, _pauses, st.integers(min_value=1, max_value=50), st.floats(min_value=0, max_value=1))
def test_granted_slots_never_come_closer_than_the_interval(
    rate: float, pauses: list[float], wanted: int, horizon_s: float
) -> None:
    interval_s, tat_s, now_s, last_s = 1 / rate, 0.0, NOW, -math.inf
    for pause_s in pauses:
        now_s += pause_s
        given_ = grant(tat_s, now_s, interval_s, wanted, horizon_s)
        assert given_.tat_s >= tat_s
        assert given_.first_s >= now_s
        assert given_.count <= wanted
        if given_.count:
            assert given_.first_s - last_s >= interval_s - 1e-5
            last_s = given_.first_s + (given_.count - 1) * interval_s
            assert last_s <= now_s + horizon_s + 1e-5
        tat_s = given_.tat_s


def test_a_burst_passes_and_the_next_is_told_when_to_come() -> None:
    tat_s = 0.0
    for remaining in (2, 1, 0):
        decision = admit(tat_s, NOW, 0.5, burst=3)
        assert decision == Decision(True, decision.tat_s, 0.0, remaining)
        tat_s = decision.tat_s
    refused = admit(tat_s, NOW, 0.5, burst=3)
    assert refused == Decision(False, tat_s, 0.5, 0)
    assert admit(tat_s, NOW + refused.retry_after_s, 0.5, burst=3).allowed


def test_a_refusal_costs_nothing_and_still_tells_what_remains() -> None:
    assert admit(NOW + 0.5, NOW, 0.5, burst=3, cost=3) == Decision(False, NOW + 0.5, 0.5, 2)


def test_a_cost_above_the_burst_is_never_let_through() -> None:
    assert admit(0.0, NOW, 0.5, burst=10, cost=11).retry_after_s == math.inf
    assert admit(0.0, NOW, 0.5, burst=10, cost=10).allowed


@pytest.mark.parametrize("rate", [3, 7, 10])
def test_the_whole_burst_is_had_one_by_one_in_spite_of_rounding(rate: int) -> None:
    tat_s = 0.0
    for _ in range(rate):
        decision = admit(tat_s, NOW + 0.123, 1 / rate, burst=rate)
        assert decision.allowed
        tat_s = decision.tat_s


@given(_rates, st.integers(min_value=1, max_value=40), _pauses, st.data())
def test_no_window_ever_sees_more_than_rate_times_length_plus_burst(
    rate: float, burst: int, pauses: list[float], data: st.DataObject
) -> None:
    tat_s, now_s = 0.0, NOW
    passed: list[tuple[float, int]] = []
    for pause_s in pauses:
        now_s += pause_s
        cost = data.draw(st.integers(min_value=1, max_value=burst))
        decision = admit(tat_s, now_s, 1 / rate, burst, cost)
        assert decision.tat_s >= tat_s
        assert 0 <= decision.remaining <= burst
        if decision.allowed:
            passed.append((now_s, cost))
        else:
            assert decision.tat_s == tat_s
            assert admit(tat_s, now_s + decision.retry_after_s, 1 / rate, burst, cost).allowed
        tat_s = decision.tat_s
    for start, (since_s, _) in enumerate(passed):
        total = 0
        for at_s, cost in passed[start:]:
            total += cost
            assert total <= rate * (at_s - since_s) + burst + 0.05
