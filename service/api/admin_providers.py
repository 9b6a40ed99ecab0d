"""`/v1/admin`: pauses of providers, and what operators did."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import actor
from service.api.admin import Operator
from service.api.admin_models import AuditQuery, AuditReply, PauseRequest, ProviderList, ProviderReply
from service.api.context import api_of
from service.api.cursor import read_cursor, write_cursor
from service.api.hangup import WatchedRoute
from service.api.intake import read_fields
from service.api.openapi import body_of, refusals
from service.api.replies import json_reply, utc_text
from service.errors import Problem
from service.runtime import Runtime

router = APIRouter(tags=["Operators"], route_class=WatchedRoute)

_AUDIT = "audit"


@router.get(
    "/v1/admin/providers",
    operation_id="listProviders",
    summary="List providers",
    response_model=None,
    responses={200: {"model": ProviderList}, **refusals(401, 403, 503)},
)
async def list_providers(request: Request, _: Operator) -> Response:
    """Whether they are paused, and how many calls to them are being made. How they do: `GET /v1/routes`."""
    return json_reply({"providers": await _providers(api_of(request).runtime)})


@router.post(
    "/v1/admin/providers/{account}/pause",
    operation_id="pauseProvider",
    summary="Send nothing to a provider",
    response_model=None,
    responses={200: {"model": ProviderReply}, **refusals(400, 401, 403, 404, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("PauseRequest")},
)
async def pause_provider(request: Request, account: str, caller: Operator) -> Response:
    """Every worker knows of it within two seconds. Messages go to the next provider of their route, or wait."""
    api = api_of(request)
    _check(api.runtime, account)
    body = await read_fields(request, api, PauseRequest)
    await api.runtime.pauses.pause(account, body.reason, actor(caller))
    return json_reply(await _provider(api.runtime, account))


@router.post(
    "/v1/admin/providers/{account}/resume",
    operation_id="resumeProvider",
    summary="Send to a provider again",
    response_model=None,
    responses={200: {"model": ProviderReply}, **refusals(401, 403, 404, 503)},
)
async def resume_provider(request: Request, account: str, caller: Operator) -> Response:
    """Within two seconds. One that is not paused stays as it is."""
    runtime = api_of(request).runtime
    _check(runtime, account)
    await runtime.pauses.resume(account, actor(caller))
    return json_reply(await _provider(runtime, account))


@router.get(
    "/v1/admin/audit",
    operation_id="listActs",
    summary="List what operators did, newest first",
    response_model=None,
    responses={200: {"model": AuditReply}, **refusals(401, 403, 422, 503)},
)
async def list_acts(request: Request, _: Operator, query: Annotated[AuditQuery, Query()]) -> Response:
    """By the API and by the command line."""
    runtime = api_of(request).runtime
    before = None if query.cursor is None else UUID(hex=read_cursor(runtime.keyring, _AUDIT, query.cursor))
    found = await runtime.reads.audit.entries(before=before, limit=query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    acts = [
        {
            "at": utc_text(act["at"]),
            "who": act["actor"],
            "action": act["action"],
            "object": act["object"],
            "details": orjson.loads(act["details"]),
            "request_id": act["request_id"],
        }
        for act in shown
    ]
    following = write_cursor(runtime.keyring, _AUDIT, shown[-1]["id"].hex) if more else None
    return json_reply({"acts": acts, "next_cursor": following})


def _check(runtime: Runtime, account: str) -> None:
    if account not in runtime.providers:
        raise Problem(404, "provider_not_found", "There is no such provider. Take one of `GET /v1/admin/providers`.")


async def _provider(runtime: Runtime, name: str) -> dict[str, Any]:
    return next(one for one in await _providers(runtime) if one["provider"] == name)


async def _providers(runtime: Runtime) -> list[dict[str, Any]]:
    pauses, calls = await runtime.reads.pauses.pauses(), await runtime.reads.pauses.under_way()
    shown = {
        name: {"reason": pause.reason, "by": pause.paused_by, "since": utc_text(pause.paused_at)}
        for name, pause in pauses.items()
    }
    return [
        {"provider": name, "under_way": calls.get(name, 0), "paused": shown.get(name)} for name in runtime.providers
    ]
