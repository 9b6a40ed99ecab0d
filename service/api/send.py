"""`POST /v1/send`: one message."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import authorize
from service.api.context import Api, api_of
from service.api.intake import RawRoute, read_json, read_key, small_body_bytes
from service.api.models import SendReply, SendRequest
from service.api.openapi import IDEMPOTENCY_KEY, body_of, refusals
from service.api.replies import json_reply, utc_text
from service.domain.ids import show
from service.errors import Problem
from service.pipeline.accept import Answer
from service.pipeline.limits import Limit
from service.storage.clients import Principal
from service.storage.messages import Key, NewMessage

router = APIRouter(tags=["Messages"], route_class=RawRoute)


@router.post(
    "/v1/send",
    operation_id="send",
    summary="Send one message",
    response_model=None,
    responses={200: {"model": SendReply}, **refusals(400, 401, 403, 413, 415, 422, 429, 503)},
    openapi_extra={"requestBody": body_of("SendRequest"), "parameters": [IDEMPOTENCY_KEY]},
)
async def send(request: Request) -> Response:
    """200 means that the message is committed to disk. Repeat with the same `Idempotency-Key` after any doubt."""
    api = api_of(request)
    principal = await authorize(request, api, "send")
    answer = await _accept(request, api, principal)
    reply = {
        "message_id": show("msg", answer.message_id),
        "status": "queued",
        "to": answer.to,
        "from": answer.sender,
        "traffic": answer.traffic,
        "segments": answer.segments,
        "encoding": answer.encoding,
        "reference": answer.reference,
        "created_at": utc_text(answer.created_at),
    }
    return json_reply(reply, headers={"Idempotency-Replayed": "true"} if answer.replayed else None)


async def _accept(request: Request, api: Api, principal: Principal) -> Answer:
    awaited = api.admission.bodies.of(principal.client_id)
    body = await read_json(request, SendRequest, small_body_bytes(api.runtime.config.limits), awaited)
    key = read_key(request, api, principal, "send", body.plain)
    try:
        message = api.drafter.message(body.fields, principal, datetime.now(UTC))
    except Problem as refusal:
        with api.admission.accepting(principal, None):
            return await _earlier(api, key, refusal)
    with api.admission.accepting(principal, message.traffic):
        return await _commit(api, principal, message, key)


async def _commit(api: Api, principal: Principal, message: NewMessage, key: Key | None) -> Answer:
    try:
        await api.limits.take(principal, Limit.SEND)
    except Problem as refusal:
        return await _earlier(api, key, refusal)
    try:
        answer = await api.accept.send(message, key)
    except Problem:
        await api.limits.give_back(principal, Limit.SEND)
        raise
    if answer.replayed:
        await api.limits.give_back(principal, Limit.SEND)
    return answer


async def _earlier(api: Api, key: Key | None, refusal: Problem) -> Answer:
    """What was accepted once stays accepted, whatever the time, the registry or the limits say by now.

    Raises:
        Problem: `refusal`, where the key has answered nothing.
    """
    earlier = await api.accept.replay(key) if key else None
    if earlier is None:
        raise refusal
    return earlier
