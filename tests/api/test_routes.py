from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.api.message_models import PreviewReply
from service.api.route_models import RouteList, StandingReply
from service.app import create_app
from service.domain.health import Cause, Condition, Place, Samples, Standing
from service.runtime import Runtime
from service.storage.audit import GATEWAY
from tests.api.client import CONFIG, body, problem
from tests.gateway import make_key, open_gateway, serve

_ROUTES = """
routes:
  - {traffic: otp, countries: [GB, DE], providers: [signing]}
  - {traffic: marketing, providers: [signing]}
  - {providers: [primary, signing]}
health: {ramp_s: 100}
"""
_CONFIG = CONFIG.replace("routes:\n  - providers: [primary]\n", _ROUTES)
_US, _GB = Place("primary", "US", "transactional"), Place("signing", "GB", "otp")


@pytest.fixture
async def routed(dsn: str) -> AsyncIterator[Runtime]:
    async with open_gateway(_CONFIG, dsn) as runtime:
        yield runtime


@pytest.fixture
async def url(routed: Runtime) -> AsyncIterator[str]:
    await routed.database.execute("DELETE FROM health_samples")
    await routed.database.execute("DELETE FROM health_standings")
    async with serve(create_app(routed)) as url:
        yield url


async def _get(url: str, path: str, key: str, **json: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        return await (http.post(path, json=json) if json else http.get(path))


async def _routes(url: str, key: str) -> RouteList:
    response = await _get(url, "/v1/routes", key)
    assert response.status_code == 200, response.text
    return RouteList.model_validate_json(response.content)


def _standing(routes: RouteList, index: int, provider: str) -> list[StandingReply]:
    [route] = [route for route in routes.routes if route.index == index]
    [found] = [each.standings for each in route.providers if each.provider == provider]
    return found


async def test_every_route_is_shown_with_its_providers_though_nothing_was_sent(url: str, routed: Runtime) -> None:
    seen = await _routes(url, await make_key(routed, "read"))
    assert [(route.index, route.traffic, route.countries) for route in seen.routes] == [
        (0, "otp", ["DE", "GB"]),
        (1, "marketing", None),
        (2, None, None),
    ]
    assert [(one.provider, one.standings) for one in seen.routes[2].providers] == [("primary", []), ("signing", [])]


async def test_a_paused_provider_is_shown_with_the_reason_and_tried_last(url: str, routed: Runtime) -> None:
    key = await make_key(routed, "read", "send")
    await routed.pauses.pause("primary", "maintenance", GATEWAY)
    try:
        seen = await _routes(url, key)
        preview = PreviewReply.model_validate_json((await _get(url, "/v1/messages/preview", key, **body())).content)
    finally:
        await routed.pauses.resume("primary", GATEWAY)
    [primary, signing] = seen.routes[2].providers
    assert primary.paused is not None
    assert primary.paused.reason == "maintenance"
    assert signing.paused is None
    assert preview.route is not None
    assert [one.provider for one in preview.route.providers] == ["signing", "primary"]


async def test_a_standing_shows_its_state_share_samples_reason_and_since(url: str, routed: Runtime) -> None:
    await routed.health.move({_US: Standing(Condition.RECOVERING, 0.0, Cause.RECEIPT_FAILURES, 1)})
    await routed.database.execute("UPDATE health_standings SET since = now() - interval '50 seconds'")
    await routed.health.add({_US: Samples(calls=9, failures=1, slow=2, delivered=3, undelivered=4)})
    [own] = _standing(await _routes(url, await make_key(routed, "read")), 2, "primary")
    assert (own.country, own.traffic, own.state, own.reason) == (
        "US", "transactional", "recovering", "receipt_failures",
    )  # fmt: skip
    assert own.share == pytest.approx(0.55, abs=0.1)
    assert own.since is not None
    assert list(own.samples.model_dump().values()) == [9, 1, 2, 3, 4, 0]


async def test_a_dead_provider_is_shown_as_failing_before_its_samples_are_many(url: str, routed: Runtime) -> None:
    """And as what it was before, as soon as a call has worked."""
    await routed.health.add({_US: Samples(calls=7, failures=5, openings=1)})
    key = await make_key(routed, "read", "send")
    [own] = _standing(await _routes(url, key), 2, "primary")
    assert (own.state, own.share, own.reason) == ("failing", 0.0, "breaker_open")
    assert own.samples.openings == 1
    answer = await _get(url, "/v1/messages/preview", key, **body())
    route = PreviewReply.model_validate_json(answer.content).route
    assert route is not None
    assert [one.provider for one in route.providers] == ["signing", "primary"]
    await routed.database.execute("UPDATE health_samples SET bucket_at = bucket_at - interval '10 seconds'")
    await routed.health.add({_US: Samples(calls=1)})
    routed.reads.health._now = lambda: routed.reads.health._asked_s + 1  # noqa: SLF001 - the clock
    [own] = _standing(await _routes(url, key), 2, "primary")
    assert (own.state, own.share, own.reason) == ("healthy", 1.0, None)


async def test_a_standing_is_shown_under_the_routes_that_it_concerns(url: str, routed: Runtime) -> None:
    await routed.health.move(dict.fromkeys([_US, _GB], Standing(Condition.FAILING, 0.0, Cause.SLOW, 1)))
    seen = await _routes(url, await make_key(routed, "admin"))
    shown = {
        (route.index, one.provider): [standing.country for standing in one.standings]
        for route in seen.routes
        for one in route.providers
    }
    assert shown == {(0, "signing"): ["GB"], (1, "signing"): [], (2, "primary"): ["US"], (2, "signing"): ["GB"]}


async def test_a_client_sees_what_it_can_use_and_an_admin_everything(url: str, routed: Runtime) -> None:
    key = await make_key(routed, "read", client="bounded")
    admin = await make_key(routed, "admin", client="bounded")
    await routed.database.execute(
        "UPDATE clients SET senders = '{MyApp,Gone}', countries = '{FR}' WHERE name = 'bounded'"
    )
    french = Place("primary", "FR", "transactional")
    await routed.health.add(dict.fromkeys([_US, french], Samples(calls=1)))
    seen = await _routes(url, key)
    assert [route.index for route in seen.routes] == [2]
    assert [one.country for one in _standing(seen, 2, "primary")] == ["FR"]
    everything = await _routes(url, admin)
    assert len(everything.routes) == 3
    assert [one.country for one in _standing(everything, 2, "primary")] == ["FR", "US"]


async def test_who_asks_again_within_a_second_costs_the_database_nothing(url: str, routed: Runtime) -> None:
    key = await make_key(routed, "read")
    await routed.health.add({_US: Samples(calls=1)})
    first = await _routes(url, key)
    routed.reads.health._now = lambda: routed.reads.health._asked_s + 0.9  # noqa: SLF001 - the clock
    await routed.health.add({_US: Samples(calls=1)})
    assert await _routes(url, key) == first
    routed.reads.health._now = lambda: routed.reads.health._asked_s + 1  # noqa: SLF001 - the clock
    assert _standing(await _routes(url, key), 2, "primary")[0].samples.calls == 2


async def test_a_key_that_only_sends_may_not_look(url: str, routed: Runtime) -> None:
    assert problem(await _get(url, "/v1/routes", await make_key(routed, "send")), 403).code == "scope_missing"


@pytest.mark.parametrize(
    ("condition", "age_s", "expected"),
    [
        (Condition.FAILING, 0, ("signing", "primary", "It stands back")),
        (Condition.RECOVERING, 20, ("signing", "primary", "It is coming back")),
        (Condition.RECOVERING, 80, ("primary", "signing", "It is coming back")),
        (Condition.HEALTHY, 0, ("primary", "signing", "It is asked first.")),
    ],
)
async def test_a_preview_ranks_the_providers_as_most_messages_do_now(
    url: str, routed: Runtime, condition: Condition, age_s: int, expected: tuple[str, str, str]
) -> None:
    await routed.health.move({_US: Standing(condition, 0.0, Cause.SUBMIT_ERRORS, 1)})
    await routed.database.execute("UPDATE health_standings SET since = now() - make_interval(secs => $1)", float(age_s))
    answer = await _get(url, "/v1/messages/preview", await make_key(routed, "send"), **body())
    route = PreviewReply.model_validate_json(answer.content).route
    assert route is not None
    *order, why = expected
    assert [one.provider for one in route.providers] == order
    [said] = [one.why for one in route.providers if one.provider == "primary"]
    assert why in said
