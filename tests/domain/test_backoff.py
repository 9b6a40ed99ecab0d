from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.backoff import put_back_delay_s, repeat_delay_s, webhook_delay_s

_jitter = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_webhooks_follow_the_schedule_of_the_contract_and_then_give_up() -> None:
    minute, hour = 60, 3600
    promised = [5, 30, 2 * minute, 10 * minute, hour, 3 * hour, 6 * hour, 12 * hour, 24 * hour]
    assert [webhook_delay_s(attempt, 0.5) for attempt in range(1, 10)] == pytest.approx(promised)
    assert webhook_delay_s(10, 0.5) is None


@given(_jitter)
def test_a_webhook_wait_stays_within_a_tenth_of_the_schedule(jitter: float) -> None:
    delay_s = webhook_delay_s(3, jitter)
    assert delay_s is not None
    assert 108 <= delay_s <= 132


def test_jitter_spreads_the_waits() -> None:
    assert webhook_delay_s(1, 0.0) == pytest.approx(4.5)
    assert webhook_delay_s(1, 0.99) == pytest.approx(5.49)
    assert repeat_delay_s(1, 0.0) == 0.5
    assert put_back_delay_s(1, 0.0) == 0.25


def test_repeats_double_from_one_second_to_a_minute() -> None:
    waits = [repeat_delay_s(attempt, 1.0) for attempt in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_put_backs_double_from_half_a_second_to_thirty() -> None:
    waits = [put_back_delay_s(attempt, 1.0) for attempt in range(1, 9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(st.integers(min_value=1, max_value=10**9), _jitter)
def test_any_number_of_tries_has_a_wait_below_the_cap(attempt: int, jitter: float) -> None:
    assert 0.5 <= repeat_delay_s(attempt, jitter) <= 60
    assert 0.25 <= put_back_delay_s(attempt, jitter) <= 30
