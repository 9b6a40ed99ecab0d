"""What the gateway answers. Times are aware (UTC); numbers are E.164; None is "not said"."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias

Traffic: TypeAlias = Literal["otp", "transactional", "marketing"]
MessageStatus: TypeAlias = Literal["queued", "sending", "sent", "delivered", "undelivered", "failed", "cancelled"]
Encoding: TypeAlias = Literal["gsm-7", "ucs-2"]
HlrStatus: TypeAlias = Literal["active", "absent", "invalid", "unknown"]

ENDS: Final = frozenset({"delivered", "undelivered", "failed", "cancelled"})
"""The statuses that a message does not leave."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One bad field. `detail` says what to do."""

    field: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Sent:
    """The message is committed to disk. It does not say that the phone has it."""

    message_id: str
    status: Literal["queued"]
    to: str
    sender: str = field(metadata={"json": "from"})
    traffic: Traffic
    segments: int
    encoding: Encoding
    reference: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RecipientError:
    """Why a recipient got no message."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """One recipient of a bulk: either it has a `message_id`, or an `error`."""

    to: str | None
    message_id: str | None = None
    error: RecipientError | None = None


@dataclass(frozen=True, slots=True)
class BulkAnswer:
    """What the gateway says of one chunk."""

    batch_id: str
    accepted: int
    rejected: int
    results: tuple[RecipientResult, ...]


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What came of a bulk. `results` are in the order of the input; `batch_ids` has one id for each chunk."""

    batch_ids: tuple[str, ...]
    results: tuple[RecipientResult, ...]

    @property
    def accepted(self) -> tuple[RecipientResult, ...]:
        """The recipients whose messages are committed to disk."""
        return tuple(result for result in self.results if result.error is None)

    @property
    def rejected(self) -> tuple[RecipientResult, ...]:
        """The recipients that get none."""
        return tuple(result for result in self.results if result.error is not None)


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a bulk is, in recipients. Repeated numbers do not count."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A bulk's progress at the gateway. `done`: none of its messages is queued, sending or sent."""

    batch_id: str
    accepted: int
    rejected: int
    counts: dict[str, int]
    done: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """A message, never with its text. `error_code` is the GSM MAP error."""

    message_id: str
    status: MessageStatus
    reason: str | None
    error_code: int | None
    to: str
    sender: str = field(metadata={"json": "from"})
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

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ENDS


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a provider. `calls` counts repeats with the same key. `open`: it may still be delivered."""

    provider: str
    calls: int
    outcome: str | None
    reason: str | None
    code: str | None
    open: bool
    provider_message_id: str | None
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class ProviderReceipt:
    """One thing that a provider said of an attempt."""

    provider: str
    status: str
    error_code: int | None
    provider_code: str | None
    occurred_at: datetime | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Message(MessageSummary):
    """A message with every attempt and every receipt, each in time order."""

    provider: str | None
    attempts: tuple[Attempt, ...]
    receipts: tuple[ProviderReceipt, ...]


@dataclass(frozen=True, slots=True)
class MessageList:
    """A page, newest first. `created_after` and `created_before` are the window that was looked at."""

    messages: tuple[MessageSummary, ...]
    created_after: datetime
    created_before: datetime | None
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Hlr:
    """What the home location register says of a number. `ported` and `roaming` are never guessed."""

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


@dataclass(frozen=True, slots=True)
class PreviewRecipient:
    """The number. `verdict`: `ok`, or the code of its error. `hlr` is what the cache holds."""

    verdict: str
    country: str | None
    suppressed: bool | None
    hlr: Hlr | None


@dataclass(frozen=True, slots=True)
class PreviewSender:
    """The sender, or the class of traffic: a verdict, and what the sender is registered for."""

    verdict: str
    traffic: Traffic | None


@dataclass(frozen=True, slots=True)
class PreviewContent:
    """The text. `units`: septets in GSM-7, 16-bit units in UCS-2."""

    verdict: str
    encoding: Encoding
    segments: int
    units: int
    ucs2_characters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreviewProvider:
    """A provider of the route, in the order in which it is asked now."""

    provider: str
    why: str
    mps: float | None
    max_in_flight: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class SkippedRoute:
    """A route above the one that is taken, and what of it does not fit."""

    index: int
    because: Literal["traffic", "country"]


@dataclass(frozen=True, slots=True)
class PreviewRoute:
    """The route that the message would take. `index` counts the gateway's routes from 0."""

    index: int
    why: str
    skipped: tuple[SkippedRoute, ...]
    providers: tuple[PreviewProvider, ...]
    hlr: Literal["off", "cached", "required"]
    hlr_fail: Literal["open", "closed"]
    on_unknown: Literal["resend", "hold"]


@dataclass(frozen=True, slots=True)
class Preview:
    """What a send would come to. `errors` is what it would be refused for."""

    would_be_accepted: bool
    errors: tuple[FieldProblem, ...]
    to: PreviewRecipient
    sender: PreviewSender = field(metadata={"json": "from"})
    traffic: PreviewSender
    message: PreviewContent
    send_at: datetime | None
    expires_at: datetime | None
    validity_period: int | None
    screening: Literal["pass", "look_up", "suppressed", "number_unreachable", "no_route"] | None
    route: PreviewRoute | None
