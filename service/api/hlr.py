"""`GET /v1/hlr/{number}`: what the home location register says of a number."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import allowed
from service.api.admission import Admission
from service.api.context import Api, api_of
from service.api.draft import check_number, require_allowed
from service.api.hangup import WatchedRoute
from service.api.models import HlrQuery, HlrReply
from service.api.openapi import refusals
from service.api.problems import invalid
from service.api.replies import json_reply, utc_text
from service.domain import msisdn
from service.domain.hlr import HlrResult, HlrStatus
from service.errors import FieldError
from service.pipeline.limits import Limit
from service.storage.clients import Principal

router = APIRouter(tags=["Numbers"], route_class=WatchedRoute)


@router.get(
    "/v1/hlr/{number}",
    operation_id="lookUp",
    summary="Look a number up",
    response_model=None,
    responses={200: {"model": HlrReply}, **refusals(401, 403, 422, 429, 503)},
)
async def look_up(
    request: Request,
    number: str,
    caller: Annotated[Principal, allowed("hlr", Admission.looking_up)],
    query: Annotated[HlrQuery, Query()],
) -> Response:
    """A cached answer where there is one, else a live one. `unknown` when nobody answered in time."""
    if error := check_number(number):
        raise invalid([FieldError("number", error.code, error.detail)])
    require_allowed(caller, number)
    api = api_of(request)
    await api.limits.take(caller, Limit.HLR)
    result, cached = await _find(api, number, query.max_age)
    return json_reply(hlr_reply(number, result, cached=cached))


async def _find(api: Api, number: str, max_age_s: int | None) -> tuple[HlrResult | None, bool]:
    known = None if max_age_s == 0 else await api.lookup.cached(number, max_age_s)
    if known is not None:
        return known, True
    return await api.lookup.live(number, api.runtime.config.hlr.timeout_s), False


def hlr_reply(number: str, result: HlrResult | None, *, cached: bool) -> dict[str, Any]:
    """A result as callers see it."""
    known = ("mcc", "mnc", "network", "line_type", "ported", "roaming", "error_code", "source")
    return {
        "number": number,
        "status": result.status if result else HlrStatus.UNKNOWN,
        "country": msisdn.country(number),
        **{name: getattr(result, name, None) for name in known},
        "checked_at": utc_text(result.checked_at if result else datetime.now(UTC)),
        "cached": cached,
    }
