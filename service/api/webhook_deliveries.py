"""What went to a client's webhook endpoints, and sending it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.context import api_of
from service.api.cursor import read_cursor, write_cursor
from service.api.hangup import WatchedRoute
from service.api.intake import read_fields
from service.api.openapi import body_of, refusals
from service.api.problems import invalid
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.api.webhook_models import DeliveriesReply, DeliveryState, ReplayReply, ReplayRequest
from service.api.webhooks import Reader, Writer, WriterNow, find_endpoint
from service.domain import ids
from service.errors import FieldError, Problem
from service.storage.endpoints import MAX_REPLAYED

router = APIRouter(tags=["Webhooks"], route_class=WatchedRoute)

_PAGE: Final = 50
_MAX_PAGE: Final = 200
_OBSTACLES: Final = {
    "endpoint_deleted": "Its endpoint was deleted, so there is nowhere to send it.",
    "endpoint_disabled": "Its endpoint is disabled. Enable it first.",
    "message_purged": "Its message is past its time and was removed, so there is nothing left to tell.",
}


@router.get(
    "/v1/webhooks/{endpoint_id}/deliveries",
    operation_id="listWebhookDeliveries",
    summary="List what went to an endpoint",
    response_model=None,
    responses={200: {"model": DeliveriesReply}, **refusals(401, 403, 404, 422, 503)},
)
async def list_deliveries(
    request: Request,
    endpoint_id: str,
    caller: Reader,
    *,
    state: Annotated[DeliveryState | None, Query(description="Only those in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="How many.")] = _PAGE,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before, with the same `state`.")] = None,
) -> Response:
    """Newest first. Test events are not among them."""
    api = api_of(request)
    endpoint = await find_endpoint(api, endpoint_id, caller)
    of, keyring = ["deliveries", endpoint.id.hex, state], api.runtime.keyring
    before = None if cursor is None else UUID(read_cursor(keyring, of, cursor))
    rows = await api.runtime.reads.endpoints.deliveries(endpoint.id, state, before, limit + 1)
    following = write_cursor(keyring, of, rows[limit - 1]["id"].hex) if len(rows) > limit else None
    return json_reply({"deliveries": [_shown(dict(row)) for row in rows[:limit]], "next_cursor": following})


@router.post(
    "/v1/webhooks/deliveries/{webhook_id}/replay",
    operation_id="replayWebhook",
    summary="Send a webhook again",
    status_code=202,
    response_model=None,
    responses={202: {"model": ReplayReply}, **refusals(401, 403, 404, 409, 503)},
)
async def replay(request: Request, webhook_id: str, caller: WriterNow) -> Response:
    """Also one that went to a `callback_url`, and one that waits for its next try. It keeps its `webhook-id`."""
    runtime, found = api_of(request).runtime, ids.read("whd", webhook_id)
    row = await runtime.endpoints.replayable(found, caller.client_id) if found else None
    if found is None or row is None:
        detail = "This client has no such webhook. Take the id of the header `webhook-id`."
        raise Problem(404, "webhook_not_found", detail)
    if row["obstacle"]:
        raise Problem(409, row["obstacle"], _OBSTACLES[row["obstacle"]])
    await runtime.endpoints.replay(found, row["target"])
    runtime.hints.webhooks.set()
    return json_reply({"replayed": 1}, status=202)


@router.post(
    "/v1/webhooks/{endpoint_id}/replay",
    operation_id="replayWebhooks",
    summary="Send an endpoint's webhooks of a time range again",
    status_code=202,
    response_model=None,
    responses={202: {"model": ReplayReply}, **refusals(400, 401, 403, 404, 409, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("ReplayRequest")},
)
async def replay_range(request: Request, endpoint_id: str, caller: Writer) -> Response:
    """The dead ones, or with `state` the delivered ones; at most 10,000, else none."""
    api = api_of(request)
    endpoint = await find_endpoint(api, endpoint_id, caller)
    body = await read_fields(request, api, ReplayRequest)
    if body.since >= body.until:
        raise invalid([FieldError("to", "invalid_range", "Give a time after `from`.")])
    if endpoint.disabled_at is not None:
        raise Problem(409, "endpoint_disabled", _OBSTACLES["endpoint_disabled"])
    async with api.admission.change_turns.turn(caller.client_id):
        replayed = await api.runtime.endpoints.replay_range(endpoint.id, body.since, body.until, body.state)
    if replayed is None:
        detail = f"More than {MAX_REPLAYED} webhooks are in this range, and none was replayed. Give a shorter one."
        raise Problem(422, "range_too_large", detail)
    api.runtime.hints.webhooks.set()
    return json_reply({"replayed": replayed}, status=202)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "webhook_id": ids.show("whd", row["id"]),
        "message_id": ids.show("msg", row["message_id"]),
        "type": f"message.{row['status']}",
        "state": row["state"],
        "attempts": row["attempts"],
        "http_status": row["last_status"],
        "error": row["last_error"],
        "created_at": utc_text(row["created_at"]),
        "next_attempt_at": utc_text_or_none(row["due_at"]),
        "ended_at": utc_text_or_none(row["ended_at"]),
    }
