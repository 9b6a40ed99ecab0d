"""`/v1/messages/{message_id}`: where a message stands and how it got there; taking it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import allowed
from service.api.admission import Admission
from service.api.context import api_of
from service.api.hangup import WatchedRoute
from service.api.message_models import MessageReply, MessageSummary
from service.api.openapi import refusals
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.domain import ids
from service.domain.message import MessageStatus
from service.errors import Problem
from service.storage.clients import Principal

router = APIRouter(tags=["Messages"], route_class=WatchedRoute)

_Rows = Sequence[Mapping[str, Any]]


@router.get(
    "/v1/messages/{message_id}",
    operation_id="getMessage",
    summary="See a message with its attempts and receipts",
    response_model=None,
    responses={200: {"model": MessageReply}, **refusals(401, 403, 404, 503)},
)
async def get_message(
    request: Request, message_id: str, caller: Annotated[Principal, allowed("read", Admission.reading)]
) -> Response:
    """The text is not shown."""
    store, found = api_of(request).runtime.reads.messages, ids.read("msg", message_id)
    message = await store.message(found, caller.client_id) if found else None
    if message is None:
        raise _not_found()
    attempts, receipts = await store.history(message["id"])
    reply = summary(dict(message)) | {
        "provider": _provider([*map(dict, attempts)]),
        "attempts": [_attempt(dict(attempt)) for attempt in attempts],
        "receipts": [_receipt(dict(receipt)) for receipt in receipts],
    }
    return json_reply(reply)


@router.post(
    "/v1/messages/{message_id}/cancel",
    operation_id="cancelMessage",
    summary="Take a message back",
    response_model=None,
    responses={200: {"model": MessageSummary}, **refusals(401, 403, 404, 409, 503)},
)
async def cancel_message(
    request: Request, message_id: str, caller: Annotated[Principal, allowed("send", Admission.changing_now)]
) -> Response:
    """Only while it is `queued`. What is cancelled is never sent, and no webhook tells of it."""
    runtime, found = api_of(request).runtime, ids.read("msg", message_id)
    message, done = await runtime.messages.cancel(found, caller.client_id) if found else (None, False)
    if message is None:
        raise _not_found()
    if message["status"] != MessageStatus.CANCELLED:
        detail = f"The message is `{message['status']}` already. Only a `queued` one can be cancelled."
        raise Problem(409, "not_cancellable", detail)
    if done:
        runtime.metrics.ended.labels(MessageStatus.CANCELLED.value, "").inc()
    return json_reply(summary(dict(message)))


def _not_found() -> Problem:
    detail = "This client has no such message. Take the `message_id` of a send's answer."
    return Problem(404, "message_not_found", detail)


def summary(message: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `messages` as callers see it."""
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
        "created_at": utc_text(message["created_at"]),
        "send_at": utc_text(message["send_at"]),
        "expires_at": utc_text(message["expires_at"]),
        "sent_at": utc_text_or_none(message["sent_at"]),
        "ended_at": utc_text_or_none(message["ended_at"]),
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
