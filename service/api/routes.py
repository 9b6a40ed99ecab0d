"""`GET /v1/routes`: how the providers of each route stand, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import allowed
from service.api.admission import Admission
from service.api.context import api_of
from service.api.hangup import WatchedRoute
from service.api.openapi import refusals
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.api.route_models import BREAKER_OPEN, RouteList
from service.domain.health import Condition, StandingPolicy
from service.domain.routing import Route
from service.pipeline.deliver import routes_of
from service.pipeline.health import policy_of
from service.settings import GatewayConfig
from service.storage.clients import Principal
from service.storage.health import Evidence
from service.storage.pauses import Pause

router = APIRouter(tags=["Routes"], route_class=WatchedRoute)


@router.get(
    "/v1/routes",
    operation_id="listRoutes",
    summary="See how the providers of each route stand",
    response_model=None,
    responses={200: {"model": RouteList}, **refusals(401, 403, 503)},
)
async def list_routes(request: Request, caller: Annotated[Principal, allowed("read", Admission.reading)]) -> Response:
    """What this client's senders and countries can use. With the scope `admin`: everything."""
    runtime = api_of(request).runtime
    config = runtime.config
    policy = policy_of(config)
    usable = _usable(config, caller)
    pauses = await runtime.reads.pauses.pauses()
    evidence = await runtime.reads.health.shared_evidence(policy)
    standings = [one for one in evidence if usable(one.place.traffic, one.place.country)]
    return json_reply(
        {
            "routes": [
                {
                    "index": index,
                    "traffic": route.traffic,
                    "countries": None if route.countries is None else sorted(route.countries),
                    "providers": [
                        {
                            "provider": name,
                            "paused": _paused(pauses.get(name)),
                            "standings": _standings(route, name, standings, policy),
                        }
                        for name in route.providers
                    ],
                }
                for index, route in enumerate(routes_of(config))
                if usable(route.traffic, *(route.countries or ()))
            ]
        }
    )


def _usable(config: GatewayConfig, caller: Principal) -> Callable[..., bool]:
    """Whether the caller may send that traffic (None: any) to one of those countries (none given: any)."""
    everything = "admin" in caller.scopes
    senders = config.senders if caller.senders is None else caller.senders & config.senders.keys()
    traffic = {config.senders[name].traffic for name in senders}

    def usable(wanted: str | None, *countries: str) -> bool:
        fits = caller.countries is None or not countries or not caller.countries.isdisjoint(countries)
        return everything or (fits and (wanted is None or wanted in traffic))

    return usable


def _paused(pause: Pause | None) -> dict[str, str] | None:
    return None if pause is None else {"reason": pause.reason, "since": utc_text(pause.paused_at)}


def _standings(route: Route, name: str, standings: list[Evidence], policy: StandingPolicy) -> list[dict[str, Any]]:
    return [
        _shown(one, policy)
        for one in standings
        if one.place.provider == name
        and route.traffic in {None, one.place.traffic}
        and (route.countries is None or one.place.country in route.countries)
    ]


def _shown(one: Evidence, policy: StandingPolicy) -> dict[str, Any]:
    return {
        "country": one.place.country,
        "traffic": one.place.traffic,
        "state": Condition.FAILING if one.cut_off else one.standing.condition,
        "share": round(one.share(policy), 3),
        "reason": BREAKER_OPEN if one.cut_off else one.standing.cause,
        "since": utc_text_or_none(one.since),
        "samples": asdict(one.samples),
    }
