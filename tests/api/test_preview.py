from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from service.api.message_models import PreviewReply
from service.app import create_app
from service.domain.hlr import HlrResult, HlrStatus
from service.runtime import Runtime
from tests.api.client import BRITISH, CONFIG, NUMBER, GatewayClient, body, problem
from tests.gateway import make_key, open_gateway, serve

_ROUTES = """
routes:
  - {traffic: otp, providers: [primary]}
  - {countries: [GB], providers: [signing], hlr: "off", on_unknown: resend}
  - {countries: [US], traffic: transactional, providers: [signing, primary], hlr: required, hlr_fail: closed}
  - {traffic: marketing, countries: [FR], providers: [primary]}
hlr: {provider: primary}
"""
_CONFIG = CONFIG.replace("routes:\n  - providers: [primary]\n", _ROUTES).replace(
    "api_key: key-of-primary", "api_key: key-of-primary, mps: 5, max_in_flight: 3, timeout_s: 2"
)


@pytest.fixture(scope="module")
async def routed(dsn: str) -> AsyncIterator[Runtime]:
    async with open_gateway(_CONFIG, dsn) as runtime:
        yield runtime


@pytest.fixture(scope="module")
async def asking(routed: Runtime) -> AsyncIterator[GatewayClient]:
    """A gateway with several routes."""
    async with serve(create_app(routed)) as url:
        headers = {"Authorization": f"Bearer {await make_key(routed, 'send')}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:
            yield GatewayClient(http)


async def _preview(api: GatewayClient, **fields: Any) -> PreviewReply:
    response = await api.http.post("/v1/messages/preview", json=body(**fields))
    assert response.status_code == 200, response.text
    return PreviewReply.model_validate_json(response.content)


async def _stored(runtime: Runtime) -> int:
    tables = ("messages", "idempotency_keys", "pacing", "hlr_results")
    return sum([len(await runtime.database.fetch(f"SELECT FROM {table}")) for table in tables])


async def test_a_good_message_is_taken_apart_and_nothing_is_stored(api: GatewayClient, runtime: Runtime) -> None:
    before, now = await _stored(runtime), datetime.now(UTC)
    response = await api.http.post("/v1/messages/preview", json=body(), headers={"Idempotency-Key": "a b"})
    seen = PreviewReply.model_validate_json(response.content)
    assert await _stored(runtime) == before
    assert (seen.would_be_accepted, seen.errors, seen.screening) == (True, [], "pass")
    assert (seen.to.verdict, seen.to.country, seen.to.suppressed, seen.to.hlr) == ("ok", "US", False, None)
    assert (seen.sender.verdict, seen.traffic.verdict, seen.traffic.traffic) == ("ok", "ok", "transactional")
    assert (seen.message.encoding, seen.message.segments, seen.message.units) == ("gsm-7", 1, 33)
    assert seen.message.ucs2_characters == []
    assert seen.validity_period == 86_400
    assert seen.send_at is not None
    assert seen.expires_at is not None
    assert abs(seen.send_at - now) < timedelta(minutes=1)
    assert seen.expires_at - seen.send_at == timedelta(days=1)
    assert "481902" not in response.text


async def test_the_characters_that_force_ucs_2_are_named(api: GatewayClient) -> None:
    seen = await _preview(api, message="caf\u00e9 \u2019quote\u2019 \U0001f600")
    assert (seen.message.encoding, seen.message.ucs2_characters) == ("ucs-2", ["\u2019", "\U0001f600"])
    assert seen.message.units == 15


async def test_a_schedule_moves_the_expiry(api: GatewayClient) -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    seen = await _preview(api, send_at=at.isoformat(), validity_period=60)
    assert (seen.send_at, seen.expires_at, seen.validity_period) == (at, at + timedelta(seconds=60), 60)


async def test_what_a_send_would_be_refused_for_is_listed(api: GatewayClient) -> None:
    far = (datetime.now(UTC) + timedelta(days=40)).isoformat()
    fields = {"to": "0015555550100", "from": "Nobody", "message": "x" * 5000, "send_at": far}
    seen = await _preview(api, **fields)
    refused = problem(await api.send(body(**fields)), 422)
    assert not seen.would_be_accepted
    assert seen.errors == refused.errors
    assert (seen.to.verdict, seen.sender.verdict, seen.message.verdict) == (
        "number_missing_plus",
        "unknown_sender",
        "message_too_long",
    )
    assert (seen.to.country, seen.traffic.traffic, seen.screening, seen.route) == (None, None, None, None)
    assert (seen.send_at, seen.expires_at, seen.validity_period) == (None, None, None)


async def test_a_time_that_no_clock_shows_is_only_an_error(api: GatewayClient) -> None:
    seen = await _preview(api, send_at="9999-12-31T23:59:59-14:00")
    assert [error.code for error in seen.errors] == ["send_at_too_far"]


async def test_a_good_number_is_judged_even_if_the_sender_is_not_known(api: GatewayClient) -> None:
    seen = await _preview(api, **{"from": "Nobody"})
    assert (seen.to.verdict, seen.to.country, seen.to.suppressed) == ("ok", "US", False)
    assert (seen.traffic.traffic, seen.screening, seen.route) == (None, None, None)


async def test_the_senders_traffic_counts_not_the_one_asked_for(api: GatewayClient) -> None:
    seen = await _preview(api, traffic="otp")
    assert (seen.sender.verdict, seen.traffic.verdict) == ("ok", "traffic_mismatch")
    assert seen.traffic.traffic == "transactional"


async def test_what_this_client_may_not_is_an_error_too(runtime: Runtime, base_url: str) -> None:
    key = await make_key(runtime, "send", client="bounded")
    await runtime.database.execute(
        "UPDATE clients SET senders = '{MyAppOTP}', countries = '{DE}' WHERE name = 'bounded'"
    )
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        seen = await _preview(GatewayClient(http))
    assert [(error.field, error.code) for error in seen.errors] == [
        ("from", "sender_forbidden"),
        ("to", "country_forbidden"),
    ]


async def test_the_route_is_named_with_what_was_passed_over(asking: GatewayClient) -> None:
    route = (await _preview(asking)).route
    assert route is not None
    assert (route.index, route.hlr, route.hlr_fail, route.on_unknown) == (2, "required", "closed", "hold")
    assert [(skipped.index, skipped.because) for skipped in route.skipped] == [(0, "traffic"), (1, "country")]
    first, second = route.providers
    assert (first.provider, first.mps, first.why) == ("signing", None, "It is asked first.")
    assert (second.provider, second.mps, second.max_in_flight, second.timeout_s) == ("primary", 5, 3, 2)
    assert "signing" in second.why
    assert "transactional traffic to US" in route.why


async def test_an_earlier_route_wins(asking: GatewayClient) -> None:
    route = (await _preview(asking, to=BRITISH)).route
    assert route is not None
    assert (route.index, route.on_unknown, [one.provider for one in route.providers]) == (1, "resend", ["signing"])


async def test_without_a_route_the_message_would_fail(asking: GatewayClient) -> None:
    seen = await _preview(asking, **{"from": "MyAppPromo"})
    assert (seen.would_be_accepted, seen.screening, seen.route) == (True, "no_route", None)


async def test_the_hlr_is_answered_from_the_cache_only(asking: GatewayClient, routed: Runtime) -> None:
    assert (await _preview(asking)).screening == "look_up"
    for status, screening in ((HlrStatus.INVALID, "number_unreachable"), (HlrStatus.ABSENT, "pass")):
        result = HlrResult(NUMBER, status, datetime.now(UTC), "test")
        await routed.numbers.keep_hlr(result, timedelta(hours=1))
        seen = await _preview(asking)
        assert seen.screening == screening
        assert seen.to.hlr is not None
        assert (seen.to.hlr.status, seen.to.hlr.cached, seen.to.hlr.source) == (status, True, "test")
    await routed.numbers.keep_hlr(HlrResult(BRITISH, HlrStatus.INVALID, datetime.now(UTC), "t"), timedelta(hours=1))
    assert (await _preview(asking, to=BRITISH)).screening == "pass", "its route does not look"
    await routed.database.execute("DELETE FROM hlr_results")


async def test_a_suppressed_number_would_be_accepted_and_fail(asking: GatewayClient, routed: Runtime) -> None:
    await routed.suppressions.add(None, [NUMBER], reason="test", source="test")
    seen = await _preview(asking)
    assert (seen.would_be_accepted, seen.to.suppressed, seen.screening) == (True, True, "suppressed")
    await routed.database.execute("DELETE FROM suppressions")


async def test_what_is_no_send_body_is_refused(api: GatewayClient, runtime: Runtime) -> None:
    path = "/v1/messages/preview"
    headers = {"Content-Type": "application/json"}
    assert problem(await api.http.post(path, content=b"{", headers=headers), 400).code == "not_json"
    assert problem(await api.http.post(path, content=b"{}"), 415).code == "not_json_type"
    assert problem(await api.http.post(path, json=body(recipient="x")), 422).code == "unknown_field"
    assert problem(await api.http.post(path, json=body(message="x" * 40_000)), 413).code == "body_too_large"
    reader = {"Authorization": f"Bearer {await make_key(runtime, 'read')}"}
    assert problem(await api.http.post(path, json=body(), headers=reader), 403).code == "scope_missing"
