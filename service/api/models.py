"""The JSON of the interface. Requests are strict and refuse unknown fields: those are typos."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.domain.hlr import HlrStatus
from service.domain.message import MessageStatus, Traffic
from service.domain.segments import Encoding

MAX_VALIDITY_S: Final = 604_800

_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _read_time(value: object) -> datetime:
    # pydantic's own parser takes numbers in strings and leaves out seconds, which RFC 3339 does not.
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError:
            pass
    raise PydanticCustomError("invalid_time", "not an RFC 3339 time")


Time = Annotated[datetime, PlainValidator(_read_time), WithJsonSchema({"type": "string", "format": "date-time"})]
# PostgreSQL stores no U+0000 in a text.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class MessageFields(_Request):
    """What a single message and a bulk have in common."""

    sender: str = Field(
        alias="from",
        description="Sender ID: alphanumeric (1-11 GSM characters, at least one letter), E.164, or a short code.",
    )
    message: Text = Field(description="The text. Its length is bounded in segments (10, a setting).")
    traffic: Traffic | None = Field(
        default=None, description="The class of the message. Default, and only legal value: what the sender is for."
    )
    callback_url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None, description="Where the receipt webhook goes. Default: the client's registered endpoints."
    )
    reference: Annotated[Text, Field(max_length=128)] | None = Field(
        default=None, description="Your own id, echoed everywhere."
    )
    send_at: Time | None = Field(
        default=None, description="Deliver not before this time, at most 35 days ahead. A past time means now."
    )
    validity_period: Annotated[int, Field(ge=1, le=MAX_VALIDITY_S)] | None = Field(
        default=None, description="Seconds from `send_at` after which the message must not go out any more."
    )


class SendRequest(MessageFields):
    """One message."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"to": "+15555550100", "from": "MyApp", "message": "Your verification code is 481902."},
            ]
        }
    )

    to: str = Field(description="Recipient in E.164: `+`, country code, national number, and nothing else.")


class BulkRequest(MessageFields):
    """One text to many recipients. A bad number is rejected alone."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"recipients": ["+15555550100", "+447700900123"], "from": "MyApp", "message": "We open at nine."},
            ]
        }
    )

    recipients: Annotated[
        list[Any], Field(min_length=1), WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1})
    ] = Field(description="1 to 10,000 (a setting) numbers in E.164.")


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class SendReply(_Reply):
    """The message is committed to disk. It does not say that the phone has it."""

    message_id: str = Field(pattern="^msg_[0-9a-f]{32}$")
    status: Literal["queued"]
    to: str
    sender: str = Field(alias="from")
    traffic: Traffic
    segments: int
    encoding: Encoding
    reference: str | None
    created_at: datetime


class RecipientError(_Reply):
    """Why a recipient was rejected."""

    code: str
    detail: str


class Accepted(_Reply):
    """A recipient whose message is committed."""

    to: str
    message_id: str


class Rejected(_Reply):
    """A recipient that gets no message. `to` is null where it was no text."""

    to: str | None
    error: RecipientError


class BulkReply(_Reply):
    """What came of each recipient, in the order of the request."""

    batch_id: str = Field(pattern="^bat_[0-9a-f]{32}$")
    accepted: int
    rejected: int
    results: list[Accepted | Rejected]


class BatchReply(_Reply):
    """A bulk's progress. `done`: none of its messages is queued, sending or sent."""

    batch_id: str
    accepted: int
    rejected: int
    counts: dict[MessageStatus, int]
    done: bool
    created_at: datetime


class AttemptReply(_Reply):
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


class ReceiptReply(_Reply):
    """One thing that a provider said of an attempt. `error_code` is the GSM MAP error."""

    provider: str
    status: str
    error_code: int | None
    provider_code: str | None
    occurred_at: datetime | None
    received_at: datetime


class MessageReply(_Reply):
    """A message, every attempt and every receipt, each in time order. Never its text."""

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
    provider: str | None
    created_at: datetime
    send_at: datetime
    expires_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None
    attempts: list[AttemptReply]
    receipts: list[ReceiptReply]


class HlrReply(_Reply):
    """What the home location register says. Null is "not said": `ported` and `roaming` are never guessed."""

    number: str
    status: HlrStatus
    country: str
    mcc: str | None
    mnc: str | None
    network: str | None
    line_type: str | None
    ported: bool | None
    roaming: bool | None
    error_code: int | None
    checked_at: datetime
    cached: bool
    source: str | None


class HealthReply(_Reply):
    """Alive, or ready."""

    status: Literal["ok"]


class FieldProblem(_Reply):
    """One bad field."""

    field: str
    code: str
    detail: str


class ProblemReply(_Reply):
    """A refusal (RFC 9457). `detail` says what to do; nothing of the input is echoed."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem]
    request_id: str | None
