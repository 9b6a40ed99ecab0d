"""A message, its states and the transitions that are legal between them."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Final


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
    MessageStatus.QUEUED: {
        MessageStatus.SENDING,
        MessageStatus.DELIVERED,  # by a receipt that proves a provider wrong: docs/decisions/0004
        MessageStatus.FAILED,
        MessageStatus.CANCELLED,
    },
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
    """Whether a message in `old` (ended for `reason`) may become `new`.

    The statements in `storage/queries` enforce this, and the tests hold them to it.
    """
    if old.terminal:
        return new is MessageStatus.DELIVERED and reason in OWN_GUESSES
    return new in _LEGAL[old]
