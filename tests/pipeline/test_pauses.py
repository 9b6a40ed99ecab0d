"""Pauses of one sender, one recipient or one pair: what they hold, how they grow and how they end."""

from __future__ import annotations

import pytest

from service.domain.outcome import About
from service.pipeline.pace import Busy
from service.pipeline.pauses import MAX_PAUSE_S, Pauses

TO, OTHER = "+15555550100", "+15555550101"
EVERYBODY = {(sender, to) for sender in ("Promo", "MyApp") for to in (TO, OTHER)}


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0
        self.pauses = Pauses(lambda: self.s)

    def wait_s(self, sender: str = "Promo", to: str = TO) -> float:
        """How long a call has to wait; 0 where it may go."""
        try:
            self.pauses.admit(sender, to)
        except Busy as busy:
            return busy.retry_in_s
        return 0.0

    def throttle(self, seconds: float = 1.0, about: About = About.SENDER) -> float:
        return self.pauses.add(about, "Promo", TO, seconds)


@pytest.mark.parametrize(
    ("about", "held"),
    [
        (About.SENDER, {("Promo", TO), ("Promo", OTHER)}),
        (About.BRAND, {("Promo", TO), ("Promo", OTHER)}),
        (About.RECIPIENT, {("Promo", TO), ("MyApp", TO)}),
        (About.PAIR, {("Promo", TO)}),
        (About.MESSAGE, set()),
    ],
)
def test_a_pause_holds_what_it_is_about_and_nothing_else(about: About, held: set[tuple[str, str]]) -> None:
    clock = Clock()
    clock.throttle(about=about)
    assert {pair for pair in EVERYBODY if clock.wait_s(*pair)} == held


def test_those_who_wait_come_back_when_it_is_over_and_not_all_at_once() -> None:
    clock = Clock()
    clock.throttle(100.0)
    waits_s = {clock.wait_s() for _ in range(50)}
    assert len(waits_s) > 1
    assert all(100.0 <= wait_s <= 125.0 for wait_s in waits_s)


def test_after_a_pause_one_call_finds_out_whether_it_is_over() -> None:
    clock = Clock()
    clock.throttle(10.0)
    clock.s += 10.0
    assert clock.wait_s() == 0.0
    assert clock.wait_s() > 0.0, "the others wait for what it finds"
    clock.pauses.end("Promo", TO)
    assert [clock.wait_s() for _ in range(3)] == [0.0] * 3


def test_a_probe_that_tells_nothing_leaves_its_place_to_another() -> None:
    clock = Clock()
    clock.throttle(10.0)
    clock.s += 10.0
    assert clock.wait_s() == 0.0
    clock.s += 2.0
    assert clock.wait_s() == 0.0
    assert clock.wait_s() > 0.0


def test_a_pause_grows_each_time_that_a_probe_is_throttled_up_to_five_minutes() -> None:
    clock = Clock()
    lasted_s = [clock.throttle(1.0)]
    for _ in range(10):
        clock.s += lasted_s[-1]
        assert clock.wait_s() == 0.0
        lasted_s.append(clock.throttle(1.0))
    assert lasted_s == [1, 2, 4, 8, 16, 32, 64, 128, 256, MAX_PAUSE_S, MAX_PAUSE_S]


def test_calls_that_were_under_way_when_it_began_do_not_make_it_grow() -> None:
    clock = Clock()
    assert [clock.throttle(1.0) for _ in range(64)] == [1.0] * 64


def test_an_accepted_call_that_was_under_way_when_it_began_does_not_end_it() -> None:
    clock = Clock()
    clock.throttle(10.0)
    clock.pauses.end("Promo", TO)
    assert clock.wait_s() > 0.0


def test_nobody_is_paused_for_longer_than_five_minutes() -> None:
    assert Clock().throttle(86_400.0) == MAX_PAUSE_S


def test_a_pause_of_long_ago_is_forgotten() -> None:
    clock = Clock()
    clock.throttle(100.0)
    clock.s += 200.0
    assert [clock.wait_s(), clock.wait_s()] == [0.0, 0.0], "no probe is needed"
    assert clock.throttle(1.0) == 1.0, "it begins anew"


def test_what_is_over_is_dropped_and_what_is_not_is_bounded() -> None:
    clock = Clock()
    clock.throttle(1.0)
    clock.s += 2.0
    for number in range(10_000):
        clock.pauses.add(About.RECIPIENT, "Promo", f"+1555{number:07}", 60.0)
    assert len(clock.pauses) == 4096
    assert clock.wait_s(to="+15550009999") > 0.0


def test_a_call_that_is_not_made_after_all_is_no_probe() -> None:
    """It may have waited for a place in vain."""
    clock = Clock()
    clock.throttle(10.0)
    clock.s += 10.0
    for _ in range(3):
        clock.pauses.check("Promo", TO)
    assert clock.wait_s() == 0.0
    with pytest.raises(Busy):
        clock.pauses.check("Promo", TO)
