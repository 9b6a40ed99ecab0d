"""`POST /v1/messages/preview`: what a send would come to. It stores nothing, asks nobody and spends nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import authorize
from service.api.context import Api, api_of
from service.api.draft import Judgement
from service.api.hangup import while_connected
from service.api.hlr import hlr_reply
from service.api.intake import read_json, small_body_bytes
from service.api.message_models import PreviewReply
from service.api.models import SendRequest
from service.api.openapi import body_of, refusals
from service.api.replies import json_reply, utc_text_or_none
from service.domain.health import Place
from service.domain.hlr import HlrStatus
from service.domain.message import Traffic
from service.domain.routing import HlrPolicy, Route, pick, rank
from service.pipeline.deliver import routes_of
from service.pipeline.health import policy_of
from service.runtime import Runtime
from service.settings import GatewayConfig
from service.storage.clients import Principal
from service.storage.numbers import Known

router = APIRouter(tags=["Messages"])

_MIDDLE: Final = 0.5
"""The lot of a message for which a share of more than a half counts."""


@router.post(
    "/v1/messages/preview",
    operation_id="previewMessage",
    summary="See what a send would come to",
    response_model=None,
    responses={200: {"model": PreviewReply}, **refusals(400, 401, 403, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("SendRequest")},
)
async def preview_message(request: Request) -> Response:
    """The body of a send. What a send would be refused for is listed in `errors`, so that too is a 200 here.

    Limits are not looked at, nor is an `Idempotency-Key`. HLR results come from the cache only.
    """
    api = api_of(request)
    principal = await authorize(request, api, "send")
    config = api.runtime.config
    awaited = api.admission.bodies.of(principal.client_id)
    body = (await read_json(request, SendRequest, small_body_bytes(config.limits), awaited)).fields
    async with while_connected(request), api.admission.reading(principal.client_id):
        return json_reply(await _preview(api, principal, body))


async def _preview(api: Api, principal: Principal, body: SendRequest) -> dict[str, Any]:
    config = api.runtime.config
    judged = api.drafter.judge(body, principal, datetime.now(UTC))
    known, route = None, None
    if judged.country is not None:
        known = await api.runtime.reads.numbers.screen(body.to, principal.client_id)
        if judged.traffic is not None:
            route = pick(routes_of(config), judged.traffic, judged.country)
    return {
        "would_be_accepted": not judged.errors,
        "errors": judged.errors,
        **_parts(body, judged, known),
        "screening": _screening(known, route) if known and judged.traffic else None,
        "route": await _route(api.runtime, route, judged) if route else None,
    }


def _parts(body: SendRequest, judged: Judgement, known: Known | None) -> dict[str, Any]:
    verdicts = {error.field: error.code for error in reversed(judged.errors)}
    expires_at = None
    if judged.send_at is not None and judged.validity_s is not None:
        expires_at = judged.send_at + timedelta(seconds=judged.validity_s)
    return {
        "to": {
            "verdict": verdicts.get("to", "ok"),
            "country": judged.country,
            "suppressed": known.suppressed if known else None,
            "hlr": hlr_reply(body.to, known.hlr, cached=True) if known and known.hlr else None,
        },
        "from": {"verdict": verdicts.get("from", "ok"), "traffic": judged.traffic},
        "traffic": {"verdict": verdicts.get("traffic", "ok"), "traffic": judged.traffic},
        "message": {
            "verdict": verdicts.get("message", "ok"),
            "encoding": judged.size.encoding,
            "segments": judged.size.segments,
            "units": judged.size.units,
            "ucs2_characters": judged.ucs2_characters,
        },
        "send_at": utc_text_or_none(judged.send_at),
        "expires_at": utc_text_or_none(expires_at),
        "validity_period": None if judged.validity_s is None else int(judged.validity_s),
    }


def _screening(known: Known, route: Route | None) -> str:
    """What `pipeline.deliver` would say before the first provider."""
    if route is None:
        return "no_route"
    if known.suppressed:
        return "suppressed"
    if route.hlr is HlrPolicy.OFF:
        return "pass"
    if known.hlr is None:
        return "look_up" if route.hlr is HlrPolicy.REQUIRED else "pass"
    return "number_unreachable" if known.hlr.status is HlrStatus.INVALID else "pass"


async def _route(runtime: Runtime, route: Route, judged: Judgement) -> dict[str, Any]:
    """The route that is taken, with its providers in the order in which most messages try them now."""
    traffic = Traffic(judged.traffic or "")
    routes = routes_of(runtime.config)
    index = routes.index(route)
    return {
        "index": index,
        "why": f"The first route that takes {traffic} traffic to {judged.country}.",
        "skipped": [
            {"index": place, "because": "country" if passed.traffic in {None, traffic} else "traffic"}
            for place, passed in enumerate(routes[:index])
        ],
        "providers": await _providers(runtime, route, judged.country or "", traffic),
        "hlr": route.hlr,
        "hlr_fail": "open" if route.hlr_fails_open else "closed",
        "on_unknown": "resend" if route.resends(traffic) else "hold",
    }


async def _providers(runtime: Runtime, route: Route, country: str, traffic: Traffic) -> list[dict[str, Any]]:
    policy = policy_of(runtime.config)
    known = {one.place: one.share(policy) for one in await runtime.reads.health.shared_evidence(policy)}
    paused = await runtime.reads.pauses.pauses()
    shares = {
        name: 0.0 if name in paused else known.get(Place(name, country, traffic.value), 1.0) for name in route.providers
    }
    ranked = rank(route.providers, _MIDDLE, shares)
    return [
        _provider(runtime.config, name, shares[name], ranked[place - 1] if place else None)
        for place, name in enumerate(ranked)
    ]


def _provider(config: GatewayConfig, name: str, share: float, before: str | None) -> dict[str, Any]:
    settings = config.providers[name]
    why = "It is asked first." if before is None else f"It is asked when {before} cannot take the message."
    if share == 0:
        why += " It stands back (`GET /v1/routes` says why)."
    elif share < 1:
        why += f" It is coming back: {share:.0%} of the messages try it in its place of the route."
    return {
        "provider": name,
        "why": why,
        "mps": settings.mps,
        "max_in_flight": settings.max_in_flight,
        "timeout_s": settings.timeout_s,
    }
