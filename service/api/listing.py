"""`GET /v1/messages`: a client's messages, newest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import allowed
from service.api.admission import Admission
from service.api.context import api_of
from service.api.cursor import read_cursor, write_cursor
from service.api.draft import check_filter
from service.api.hangup import WatchedRoute
from service.api.message_models import MessageList, MessageQuery
from service.api.messages import summary
from service.api.openapi import refusals
from service.api.problems import invalid
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.domain import ids
from service.errors import FieldError
from service.storage.clients import Principal
from service.storage.listing import Wanted

router = APIRouter(tags=["Messages"], route_class=WatchedRoute)

_WINDOW: Final = timedelta(hours=24)
# Before and after these no message was made, and further out times cannot be reckoned with.
_FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)


@router.get(
    "/v1/messages",
    operation_id="listMessages",
    summary="List messages, newest first",
    response_model=None,
    responses={200: {"model": MessageList}, **refusals(401, 403, 422, 503)},
)
async def list_messages(
    request: Request,
    caller: Annotated[Principal, allowed("read", Admission.reading)],
    query: Annotated[MessageQuery, Query()],
) -> Response:
    """A time window always applies: the last 24 hours by default. Texts are not shown."""
    runtime = api_of(request).runtime
    of = ["messages", caller.client_id.hex, query.model_dump(exclude={"cursor", "limit"})]
    position = read_cursor(runtime.keyring, of, query.cursor) if query.cursor is not None else None
    wanted = _wanted(query, caller.client_id, position)
    found = await runtime.reads.listing.page(wanted, UUID(hex=position["below"]) if position else None, query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    following = {"below": shown[-1]["id"].hex, "after": wanted.created_after.isoformat()} if more else None
    return json_reply(
        {
            "messages": [summary(dict(message)) for message in shown],
            "created_after": utc_text(wanted.created_after),
            "created_before": utc_text_or_none(wanted.created_before),
            "next_cursor": write_cursor(runtime.keyring, of, following) if following else None,
        }
    )


def _wanted(query: MessageQuery, client_id: UUID, position: dict[str, Any] | None) -> Wanted:
    errors = [] if query.to is None else check_filter("to", query.to)
    batch_id = None if query.batch_id is None else ids.read("bat", query.batch_id)
    if query.batch_id is not None and batch_id is None:
        errors.append(FieldError("batch_id", "invalid_batch_id", "Give the `batch_id` of a bulk's answer."))
    before = None if query.created_before is None else _within_reach(query.created_before)
    if position is not None:
        after = datetime.fromisoformat(position["after"])  # the window does not move on from page to page
    elif query.created_after is not None:
        after = _within_reach(query.created_after)
    else:
        after = (before or datetime.now(UTC)) - _WINDOW
    if before is not None and after >= before:
        detail = "Give a `created_after` that comes before `created_before`."
        errors.append(FieldError("created_after", "empty_window", detail))
    if errors:
        raise invalid(errors)
    return Wanted(
        client_id=client_id,
        created_after=after,
        created_before=before,
        status=query.status,
        to=query.to,
        sender=query.sender,
        traffic=query.traffic,
        batch_id=batch_id,
        reference=query.reference,
    )


def _within_reach(at: datetime) -> datetime:
    return min(max(at, _FIRST), _LAST).astimezone(UTC)
