"""The JSON of the routes below `/v1/messages`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from service.api.models import FieldProblem, HlrReply, Page, Reply, Text, Time
from service.domain.message import MessageStatus, Traffic
from service.domain.segments import Encoding

_SUMMARY: Final[dict[str, Any]] = {
    "message_id": "msg_0198c0de5f0a7c3e9b1d2f4a6c8e0b13",
    "status": "delivered",
    "reason": None,
    "error_code": 0,
    "to": "+15555550100",
    "from": "MyApp",
    "traffic": "transactional",
    "segments": 1,
    "encoding": "gsm-7",
    "country": "US",
    "reference": "order-4711",
    "batch_id": None,
    "created_at": "2026-01-31T09:30:00.123Z",
    "send_at": "2026-01-31T09:30:00.123Z",
    "expires_at": "2026-02-01T09:30:00.123Z",
    "sent_at": "2026-01-31T09:30:00.301Z",
    "ended_at": "2026-01-31T09:30:02.417Z",
}


class MessageQuery(Page):
    """Which messages."""

    status: Annotated[MessageStatus | None, Field(description="Where it stands.")] = None
    to: Annotated[str | None, Field(description="Recipient in E.164. Write `+` as `%2B`.")] = None
    sender: Annotated[Text | None, Field(alias="from", description="Sender ID.")] = None
    traffic: Annotated[Traffic | None, Field(description="The class of the message.")] = None
    batch_id: Annotated[str | None, Field(description="The bulk that it came with.")] = None
    reference: Annotated[Text | None, Field(description="The caller's own id.")] = None
    created_after: Annotated[
        Time | None, Field(description="From this time on. Default: 24 h before `created_before`, or before now.")
    ] = None
    created_before: Annotated[Time | None, Field(description="Before this time. Default: no end.")] = None


class MessageSummary(Reply):
    """A message. Never its text."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SUMMARY]})

    message_id: str
    status: MessageStatus
    reason: str | None
    error_code: int | None
    to: str
    sender: str = Field(alias="from")
    traffic: Traffic
    segments: int
    encoding: Encoding
    country: str
    reference: str | None
    batch_id: str | None
    created_at: datetime
    send_at: datetime
    expires_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None


class MessageList(Reply):
    """Newest first. `created_after` and `created_before` are the window that was looked at."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "messages": [_SUMMARY],
                    "created_after": "2026-01-30T09:31:00.000Z",
                    "created_before": None,
                    "next_cursor": None,
                }
            ]
        }
    )

    messages: list[MessageSummary]
    created_after: datetime
    created_before: datetime | None
    next_cursor: str | None = Field(description="Where the next page begins. Null: this was the last.")


class AttemptReply(Reply):
    """One attempt at a provider; a repeat with the same key counts in `calls`. `open`: it may still be delivered."""

    provider: str
    calls: int
    outcome: str | None
    reason: str | None
    code: str | None
    open: bool
    provider_message_id: str | None
    started_at: datetime
    ended_at: datetime | None


class ReceiptReply(Reply):
    """One thing that a provider said of an attempt. `error_code` is the GSM MAP error."""

    provider: str
    status: str
    error_code: int | None
    provider_code: str | None
    occurred_at: datetime | None
    received_at: datetime


class MessageReply(MessageSummary):
    """A message, every attempt and every receipt, each in time order. Never its text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_SUMMARY | {"provider": "primary", "attempts": [], "receipts": []}]}
    )

    provider: str | None
    attempts: list[AttemptReply]
    receipts: list[ReceiptReply]


class RankedProvider(Reply):
    """A provider of the route, in the order in which it is asked now. `mps` null: no pacing."""

    provider: str
    why: str
    mps: float | None
    max_in_flight: int
    timeout_s: float


class SkippedRoute(Reply):
    """A route above the one that is taken, and what of it does not fit."""

    index: int
    because: Literal["traffic", "country"]


class RouteReply(Reply):
    """The route that the message would take. `index` counts the routes of `gateway.yaml` from 0."""

    index: int
    why: str
    skipped: list[SkippedRoute]
    providers: list[RankedProvider]
    hlr: Literal["off", "cached", "required"]
    hlr_fail: Literal["open", "closed"]
    on_unknown: Literal["resend", "hold"]


class PreviewReply(Reply):
    """What a send of this body would come to. Nothing was stored, nobody was asked, nothing was spent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "would_be_accepted": True,
                    "errors": [],
                    "to": {"verdict": "ok", "country": "US", "suppressed": False, "hlr": None},
                    "from": {"verdict": "ok", "traffic": "transactional"},
                    "traffic": {"verdict": "ok", "traffic": "transactional"},
                    "message": {
                        "verdict": "ok",
                        "encoding": "ucs-2",
                        "segments": 1,
                        "units": 12,
                        "ucs2_characters": ["ж"],
                    },
                    "send_at": "2026-01-31T09:30:00.123Z",
                    "expires_at": "2026-02-01T09:30:00.123Z",
                    "validity_period": 86400,
                    "screening": "pass",
                    "route": {
                        "index": 1,
                        "why": "The first route that takes transactional traffic to US.",
                        "skipped": [{"index": 0, "because": "traffic"}],
                        "providers": [
                            {
                                "provider": "primary",
                                "why": "It is asked first.",
                                "mps": 50.0,
                                "max_in_flight": 64,
                                "timeout_s": 10.0,
                            }
                        ],
                        "hlr": "cached",
                        "hlr_fail": "open",
                        "on_unknown": "hold",
                    },
                }
            ]
        }
    )

    class Recipient(Reply):
        """The number. `hlr` is what the cache holds."""

        verdict: str = Field(description="`ok`, or the code of its error.")
        country: str | None
        suppressed: bool | None
        hlr: HlrReply | None

    class Sender(Reply):
        """The sender ID. `traffic` is what it is registered for."""

        verdict: str
        traffic: Traffic | None

    class Content(Reply):
        """The text. Of one that is too long, only so much is measured as shows that."""

        verdict: str
        encoding: Encoding
        segments: int
        units: int = Field(description="Septets in GSM-7, 16-bit units in UCS-2.")
        ucs2_characters: list[str] = Field(description="The characters that force UCS-2.")

    would_be_accepted: bool
    errors: list[FieldProblem] = Field(description="What a send would be refused for.")
    to: Recipient
    sender: Sender = Field(alias="from")
    traffic: Sender
    message: Content
    send_at: datetime | None
    expires_at: datetime | None
    validity_period: int | None
    screening: Literal["pass", "look_up", "suppressed", "number_unreachable", "no_route"] | None = Field(
        description="What comes after the accept. `look_up`: the HLR is asked first. Others end as `failed`."
    )
    route: RouteReply | None
