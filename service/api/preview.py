"""`POST /v1/messages/preview`: what a send would come to. It stores nothing, asks nobody and spends nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import authorize
from service.api.context import api_of
from service.api.draft import Judgement
from service.api.hlr import hlr_reply
from service.api.intake import read_json
from service.api.message_models import PreviewReply
from service.api.models import SendRequest
from service.api.openapi import body_of, refusals
from service.api.replies import json_reply, utc_text_or_none
from service.domain.hlr import HlrStatus
from service.domain.message import Traffic
from service.domain.routing import HlrPolicy, Route, pick
from service.pipeline.deliver import routes_of
from service.settings import GatewayConfig
from service.storage.numbers import Known

router = APIRouter(tags=["Messages"])


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
    body = (await read_json(request, SendRequest, config.limits.max_body_bytes)).fields
    judged = api.drafter.judge(body, principal, datetime.now(UTC))
    known, route = None, None
    if judged.country is not None:
        known = await api.runtime.numbers.screen(body.to, principal.client_id)
        if judged.traffic is not None:
            route = pick(routes_of(config), judged.traffic, judged.country)
    return json_reply(
        {
            "would_be_accepted": not judged.errors,
            "errors": judged.errors,
            **_parts(body, judged, known),
            "screening": _screening(known, route) if known and judged.traffic else None,
            "route": _route(config, route, judged) if route else None,
        }
    )


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


def _route(config: GatewayConfig, route: Route, judged: Judgement) -> dict[str, Any]:
    """The route that is taken, with its providers in the order in which they are tried."""
    traffic = Traffic(judged.traffic or "")
    routes = routes_of(config)
    index = routes.index(route)
    return {
        "index": index,
        "why": f"The first route that takes {traffic} traffic to {judged.country}.",
        "skipped": [
            {"index": place, "because": "country" if passed.traffic in {None, traffic} else "traffic"}
            for place, passed in enumerate(routes[:index])
        ],
        "providers": [_provider(config, route, place) for place in range(len(route.providers))],
        "hlr": route.hlr,
        "hlr_fail": "open" if route.hlr_fails_open else "closed",
        "on_unknown": "resend" if route.resends(traffic) else "hold",
    }


def _provider(config: GatewayConfig, route: Route, place: int) -> dict[str, Any]:
    name = route.providers[place]
    settings = config.providers[name]
    return {
        "provider": name,
        "why": f"It is asked when {route.providers[place - 1]} cannot take the message."
        if place
        else "It is asked first.",
        "mps": settings.mps,
        "max_in_flight": settings.max_in_flight,
        "timeout_s": settings.timeout_s,
    }
