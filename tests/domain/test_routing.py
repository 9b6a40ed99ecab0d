from __future__ import annotations

import pytest

from service.domain.ids import new_id
from service.domain.message import Traffic
from service.domain.routing import HlrPolicy, OnUnknown, Route, draw, pick, rank


def route(
    name: str,
    traffic: Traffic | None = None,
    countries: frozenset[str] | None = None,
    on_unknown: OnUnknown | None = None,
) -> Route:
    return Route(traffic, countries, (name,), on_unknown, HlrPolicy.OFF, hlr_fails_open=True)


ROUTES = [
    route("uk otp", Traffic.OTP, frozenset({"GB"})),
    route("otp", Traffic.OTP),
    route("europe", None, frozenset({"GB", "DE"})),
    route("rest"),
]


@pytest.mark.parametrize(
    ("traffic", "country", "expected"),
    [
        (Traffic.OTP, "GB", "uk otp"),
        (Traffic.OTP, "DE", "otp"),
        (Traffic.MARKETING, "DE", "europe"),
        (Traffic.TRANSACTIONAL, "US", "rest"),
    ],
)
def test_the_first_route_that_matches_is_picked(traffic: Traffic, country: str, expected: str) -> None:
    picked = pick(ROUTES, traffic, country)
    assert picked is not None
    assert picked.providers == (expected,)


def test_there_may_be_no_route() -> None:
    assert pick(ROUTES[:3], Traffic.MARKETING, "US") is None
    assert pick([], Traffic.OTP, "US") is None


@pytest.mark.parametrize(
    ("traffic", "on_unknown", "resends"),
    [
        (Traffic.OTP, None, True),
        (Traffic.TRANSACTIONAL, None, False),
        (Traffic.MARKETING, None, False),
        (Traffic.OTP, OnUnknown.HOLD, False),
        (Traffic.MARKETING, OnUnknown.RESEND, True),
    ],
)
def test_only_an_otp_is_resent_unless_its_route_says_otherwise(
    traffic: Traffic, on_unknown: OnUnknown | None, resends: bool
) -> None:
    assert route("any", on_unknown=on_unknown).resends(traffic) is resends


@pytest.mark.parametrize(
    ("shares", "failed", "expected"),
    [
        ((1.0, 1.0, 1.0), (), "abc"),
        ((0.0, 1.0, 1.0), (), "bca"),
        ((0.4, 1.0, 1.0), (), "bca"),
        ((0.6, 1.0, 1.0), (), "abc"),
        ((0.0, 0.0, 0.0), (), "abc"),
        ((0.0, 0.4, 0.4), (), "bca"),
        ((0.0, 0.4, 1.0), (), "cba"),
        ((1.0, 1.0, 1.0), ("a",), "bca"),
        ((1.0, 0.0, 0.0), ("a",), "abc"),
        ((1.0, 1.0, 1.0), ("a", "b", "c"), "abc"),
    ],
)
def test_providers_that_stand_back_or_failed_the_message_come_later(
    shares: tuple[float, ...], failed: tuple[str, ...], expected: str
) -> None:
    assert rank("abc", 0.5, dict(zip("abc", shares, strict=True)), failed) == list(expected)


def test_a_message_that_went_to_a_growing_share_once_goes_there_from_then_on() -> None:
    for message_id in (new_id() for _ in range(200)):
        lot = draw(message_id)
        first = [rank("ab", lot, {"a": growing / 10, "b": 1.0})[0] for growing in range(11)]
        assert first == sorted(first, reverse=True)
        assert first[-1] == "a"


def test_lots_are_spread_evenly() -> None:
    lots = sorted(draw(new_id()) for _ in range(4000))
    assert 0 <= lots[0] < lots[-1] < 1
    assert all(abs(lots[400 * tenth] - tenth / 10) < 0.05 for tenth in range(1, 10))
