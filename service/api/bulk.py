"""`POST /v1/send/bulk`: one text to many recipients, and how far it is."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import allowed, authorize
from service.api.admission import Admission
from service.api.context import Api, api_of
from service.api.draft import BulkDraft
from service.api.hangup import WatchedRoute
from service.api.intake import parse_json, read_json_body, read_key
from service.api.models import BatchReply, BulkReply, BulkRequest
from service.api.openapi import IDEMPOTENCY_KEY, body_of, refusals
from service.api.replies import json_reply, utc_text
from service.domain import ids
from service.domain.message import MessageStatus
from service.errors import FieldError, Problem
from service.pipeline.limits import Limit
from service.storage.clients import Principal
from service.storage.messages import Batch, NewMessage

router = APIRouter(tags=["Messages"], route_class=WatchedRoute)

_CHUNK: Final = 100


@router.post(
    "/v1/send/bulk",
    operation_id="sendBulk",
    summary="Send one text to many recipients",
    response_model=None,
    responses={200: {"model": BulkReply}, **refusals(400, 401, 403, 413, 415, 422, 429, 503)},
    openapi_extra={"requestBody": body_of("BulkRequest"), "parameters": [IDEMPOTENCY_KEY]},
)
async def send_bulk(request: Request) -> Response:
    """All good recipients are committed together. A bad one is rejected alone; when all are bad the answer is 422."""
    api = api_of(request)
    principal = await authorize(request, api, "send")
    with api.admission.bulks.of(principal.client_id):
        raw = await read_json_body(request, api.runtime.config.limits.max_body_bytes)
        async with api.admission.bulk_turns.turn(principal.client_id):
            answer, replayed = await _accept(request, raw, api, principal)
    headers = {"Idempotency-Replayed": "true"} if replayed else None
    return Response(answer, headers=headers, media_type="application/json")


async def _accept(request: Request, raw: bytes, api: Api, principal: Principal) -> tuple[bytes, bool]:
    body = await parse_json(raw, BulkRequest)
    key = read_key(request, api, principal, "bulk", body.plain)
    try:
        draft = await api.drafter.bulk(body.fields, principal, datetime.now(UTC))
        await api.limits.take(principal, Limit.BULK, len(draft.messages))
    except Problem:
        earlier = await api.accept.replay_bulk(key) if key else None
        if earlier is None:
            raise
        return earlier, True
    batch = await _batch(draft, principal)
    try:
        answer, replayed = await api.accept.bulk(batch, draft.messages, key)
    except Problem:
        await api.limits.give_back(principal, Limit.BULK, len(draft.messages))
        raise
    if replayed:
        await api.limits.give_back(principal, Limit.BULK, len(draft.messages))
    return answer, replayed


async def _batch(draft: BulkDraft, principal: Principal) -> Batch:
    batch_id = ids.new_id()
    rejected = len(draft.results) - len(draft.messages)
    head = {"batch_id": ids.show("bat", batch_id), "accepted": len(draft.messages), "rejected": rejected}
    results = []
    for start in range(0, len(draft.results), _CHUNK):  # in pieces, so that other requests go on meanwhile
        results.append(orjson.dumps([_result(result) for result in draft.results[start : start + _CHUNK]])[1:-1])
        await asyncio.sleep(0)
    answer = orjson.dumps(head)[:-1] + b',"results":[' + b",".join(results) + b"]}"
    return Batch(batch_id, principal.client_id, rejected, answer)


def _result(result: NewMessage | tuple[str | None, FieldError]) -> dict[str, Any]:
    if isinstance(result, NewMessage):
        return {"to": result.to, "message_id": ids.show("msg", result.id)}
    to, error = result
    return {"to": to, "error": {"code": error.code, "detail": error.detail}}


@router.get(
    "/v1/batches/{batch_id}",
    operation_id="getBatch",
    summary="See how far a bulk is",
    response_model=None,
    responses={200: {"model": BatchReply}, **refusals(401, 403, 404, 503)},
)
async def get_batch(
    request: Request, batch_id: str, caller: Annotated[Principal, allowed("read", Admission.reading)]
) -> Response:
    """How many messages of the bulk are in each status."""
    found = ids.read("bat", batch_id)
    batch = await api_of(request).runtime.reads.messages.batch(found, caller.client_id) if found else None
    if batch is None:
        raise Problem(404, "batch_not_found", "This client has no such batch. Take the `batch_id` of a bulk's answer.")
    counts = {status.value: batch["counts"].get(status, 0) for status in MessageStatus}
    return json_reply(
        {
            "batch_id": batch_id,
            "accepted": batch["accepted"],
            "rejected": batch["rejected"],
            "counts": counts,
            "done": not any(counts[status] for status in MessageStatus if not status.terminal),
            "created_at": utc_text(batch["created_at"]),
        }
    )
