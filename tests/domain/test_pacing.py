from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.pacing import Decision, admit

NOW = 1_700_000_000.0

_rates = st.floats(min_value=0.1, max_value=5000)
_pauses = st.lists(st.floats(min_value=0, max_value=2), min_size=1, max_size=60)


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
