from __future__ import annotations

import pytest

from service.domain.message import Traffic
from service.domain.routing import HlrPolicy, OnUnknown, Route, pick


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
