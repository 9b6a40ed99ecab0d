"""`GET /v1/messages/{message_id}`: where a message stands and how it got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import allowed
from service.api.context import api_of
from service.api.models import MessageReply
from service.api.openapi import refusals
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.domain import ids
from service.errors import Problem
from service.storage.clients import Principal

router = APIRouter(tags=["Messages"])

_Rows = Sequence[Mapping[str, Any]]


@router.get(
    "/v1/messages/{message_id}",
    operation_id="getMessage",
    summary="See a message with its attempts and receipts",
    response_model=None,
    responses={200: {"model": MessageReply}, **refusals(401, 403, 404, 503)},
)
async def get_message(
    request: Request, message_id: str, caller: Annotated[Principal, Depends(allowed("read"))]
) -> Response:
    """The text is not shown."""
    store, found = api_of(request).runtime.messages, ids.read("msg", message_id)
    message = await store.message(found, caller.client_id) if found else None
    if message is None:
        raise Problem(
            404, "message_not_found", "This client has no such message. Take the `message_id` of a send's answer."
        )
    attempts, receipts = await store.history(message["id"])
    return json_reply(_message(dict(message), [*map(dict, attempts)], [*map(dict, receipts)]))


def _message(message: Mapping[str, Any], attempts: _Rows, receipts: _Rows) -> dict[str, Any]:
    return {
        "message_id": ids.show("msg", message["id"]),
        "status": message["status"],
        "reason": message["reason"],
        "error_code": message["error_code"],
        "to": message["recipient"],
        "from": message["sender"],
        "traffic": message["traffic"],
        "segments": message["segments"],
        "encoding": message["encoding"],
        "country": message["country"],
        "reference": message["reference"],
        "batch_id": ids.show("bat", message["batch_id"]) if message["batch_id"] else None,
        "provider": _provider(attempts),
        "created_at": utc_text(message["created_at"]),
        "send_at": utc_text(message["send_at"]),
        "expires_at": utc_text(message["expires_at"]),
        "sent_at": utc_text_or_none(message["sent_at"]),
        "ended_at": utc_text_or_none(message["ended_at"]),
        "attempts": [_attempt(attempt) for attempt in attempts],
        "receipts": [_receipt(receipt) for receipt in receipts],
    }


def _provider(attempts: _Rows) -> str | None:
    """The account that has the message: the one that accepted it, else the one tried last."""
    chosen = [attempt for attempt in attempts if attempt["outcome"] == "accepted"] or attempts
    return chosen[-1]["provider"] if chosen else None


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("provider", "calls", "outcome", "reason", "code", "open", "provider_message_id")
    return {name: attempt[name] for name in shown} | {
        "started_at": utc_text(attempt["started_at"]),
        "ended_at": utc_text_or_none(attempt["ended_at"]),
    }


def _receipt(receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {name: receipt[name] for name in ("provider", "status", "error_code", "provider_code")} | {
        "occurred_at": utc_text_or_none(receipt["occurred_at"]),
        "received_at": utc_text(receipt["received_at"]),
    }
