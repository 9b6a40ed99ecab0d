"""A message, its states and the transitions that are legal between them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID


class Traffic(StrEnum):
    """The class of a message. Each has a lane of its own, so that a campaign never delays an OTP."""

    OTP = "otp"
    TRANSACTIONAL = "transactional"
    MARKETING = "marketing"


DEFAULT_VALIDITY: Final = {
    Traffic.OTP: timedelta(minutes=5),
    Traffic.TRANSACTIONAL: timedelta(hours=24),
    Traffic.MARKETING: timedelta(hours=12),
}


class MessageStatus(StrEnum):
    """Where a message stands. `failed`: it never got out. `undelivered`: the carrier could not deliver it."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True when the message has ended."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset(
    {MessageStatus.DELIVERED, MessageStatus.UNDELIVERED, MessageStatus.FAILED, MessageStatus.CANCELLED}
)

_LEGAL: Final = {
    MessageStatus.QUEUED: {MessageStatus.SENDING, MessageStatus.FAILED, MessageStatus.CANCELLED},
    MessageStatus.SENDING: {
        MessageStatus.QUEUED,
        MessageStatus.SENT,
        MessageStatus.DELIVERED,
        MessageStatus.UNDELIVERED,
        MessageStatus.FAILED,
    },
    MessageStatus.SENT: {MessageStatus.DELIVERED, MessageStatus.UNDELIVERED, MessageStatus.FAILED},
}

OWN_GUESSES: Final = frozenset({"no_receipt", "submit_unknown"})
"""Reasons that the gateway made up for want of news. A late `delivered` corrects them, and nothing else."""


def may_become(old: MessageStatus, new: MessageStatus, *, reason: str | None = None) -> bool:
    """Whether a message in `old` (ended for `reason`) may become `new`."""
    if old.terminal:
        return new is MessageStatus.DELIVERED and reason in OWN_GUESSES
    return new in _LEGAL[old]


@dataclass(frozen=True, slots=True)
class Message:
    """A claimed message, as the delivery pipeline sees it. Times are aware UTC, from the database's clock.

    `unknown_provider` names the account whose answer is missing (a sticky `Unknown`), if there is one.
    """

    id: UUID
    client_id: UUID
    to: str
    sender: str
    text: str
    traffic: Traffic
    country: str
    segments: int
    attempts: int
    created_at: datetime
    due_at: datetime
    expires_at: datetime
    unknown_provider: str | None
