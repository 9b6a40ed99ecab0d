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
MAX_AGE_S: Final = 31_536_000

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


class Strict(BaseModel):
    """A request's JSON: `true` is no 1, and an unknown field is a typo."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Parameters(BaseModel):
    """The query of a URL. An unknown parameter is a typo too."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Page(Parameters):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[
        str | None,
        Field(description="`next_cursor` of the page before, with the same filters. Leave out for the first."),
    ] = None


class MessageFields(Strict):
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


class Reply(BaseModel):
    """An answer's JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


def _example(fields: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class SendReply(Reply):
    """The message is committed to disk. It does not say that the phone has it."""

    model_config = _example(
        {
            "message_id": "msg_0198c0de5f0a7c3e9b1d2f4a6c8e0b13",
            "status": "queued",
            "to": "+15555550100",
            "from": "MyApp",
            "traffic": "transactional",
            "segments": 1,
            "encoding": "gsm-7",
            "reference": None,
            "created_at": "2026-01-31T09:30:00.123Z",
        }
    )

    message_id: str = Field(pattern="^msg_[0-9a-f]{32}$")
    status: Literal["queued"]
    to: str
    sender: str = Field(alias="from")
    traffic: Traffic
    segments: int
    encoding: Encoding
    reference: str | None
    created_at: datetime


class RecipientError(Reply):
    """Why a recipient was rejected."""

    code: str
    detail: str


class Accepted(Reply):
    """A recipient whose message is committed."""

    to: str
    message_id: str


class Rejected(Reply):
    """A recipient that gets no message. `to` is null where it was no text."""

    to: str | None
    error: RecipientError


class BulkReply(Reply):
    """What came of each recipient, in the order of the request."""

    model_config = _example(
        {
            "batch_id": "bat_0198c0de5f0a7c3e9b1d2f4a6c8e0b14",
            "accepted": 1,
            "rejected": 1,
            "results": [
                {"to": "+15555550100", "message_id": "msg_0198c0de5f0a7c3e9b1d2f4a6c8e0b13"},
                {
                    "to": "+1555",
                    "error": {
                        "code": "number_too_short",
                        "detail": "The number is too short for its country. Correct it.",
                    },
                },
            ],
        }
    )

    batch_id: str = Field(pattern="^bat_[0-9a-f]{32}$")
    accepted: int
    rejected: int
    results: list[Accepted | Rejected]


class BatchReply(Reply):
    """A bulk's progress. `done`: none of its messages is queued, sending or sent."""

    model_config = _example(
        {
            "batch_id": "bat_0198c0de5f0a7c3e9b1d2f4a6c8e0b14",
            "accepted": 2,
            "rejected": 1,
            "counts": dict.fromkeys(MessageStatus, 0) | {"sent": 1, "delivered": 1},
            "done": False,
            "created_at": "2026-01-31T09:30:00.123Z",
        }
    )

    batch_id: str
    accepted: int
    rejected: int
    counts: dict[MessageStatus, int]
    done: bool
    created_at: datetime


class HlrQuery(Parameters):
    """How old an answer may be."""

    max_age: Annotated[
        int | None,
        Field(ge=0, le=MAX_AGE_S, description="Seconds that a cached answer may be old; 0 asks the network."),
    ] = None


class HlrReply(Reply):
    """What the home location register says. Null is "not said": `ported` and `roaming` are never guessed."""

    model_config = _example(
        {
            "number": "+15555550100",
            "status": "active",
            "country": "US",
            "mcc": "310",
            "mnc": "260",
            "network": "Example Mobile",
            "line_type": "mobile",
            "ported": False,
            "roaming": None,
            "error_code": None,
            "checked_at": "2026-01-31T09:30:00.123Z",
            "cached": True,
            "source": "primary",
        }
    )

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


class HealthReply(Reply):
    """Alive, or ready."""

    model_config = _example({"status": "ok"})

    status: Literal["ok"]


class FieldProblem(Reply):
    """One bad field."""

    field: str
    code: str
    detail: str


class ProblemReply(Reply):
    """A refusal (RFC 9457). `detail` says what to do; nothing of the input is echoed."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem]
    request_id: str | None
