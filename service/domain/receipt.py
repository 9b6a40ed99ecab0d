"""Delivery receipts (DLR) in one vocabulary, and the GSM MAP errors that they carry."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ReceiptStatus(StrEnum):
    """What a provider can say of an accepted message."""

    SENT = "sent"
    """Handed to the carrier. Changes nothing for the caller; kept for the record."""
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    """The carrier could not deliver it."""
    FAILED = "failed"
    """The provider never got it out."""
    UNKNOWN = "unknown"
    """A word that the adapter does not know. Kept, changes nothing."""

    @property
    def negative(self) -> bool:
        """True when this ends the attempt without a delivery."""
        return self in {ReceiptStatus.UNDELIVERED, ReceiptStatus.FAILED}


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt as an adapter parsed it.

    `error_code` is the GSM MAP error: 0 when the provider says "no error", None when it said nothing.
    `provider_code` is the provider's own code, kept as it came. `occurred_at` is the provider's time, aware.
    """

    status: ReceiptStatus
    provider_message_id: str | None = None
    error_code: int | None = None
    provider_code: str | None = None
    occurred_at: datetime | None = None


# 3GPP TS 29.002, clause 17.6 (MAP errors), as carried in the `err` of a receipt.
MAP_UNKNOWN_SUBSCRIBER = 1
MAP_ILLEGAL_SUBSCRIBER = 9
MAP_ABSENT_SUBSCRIBER = 27

NUMBER_IS_DEAD = frozenset({MAP_UNKNOWN_SUBSCRIBER})
"""Errors that say the number is not assigned: the HLR cache learns `invalid` from them (and only from them)."""

SUBSCRIBERS_OWN = frozenset(
    {MAP_UNKNOWN_SUBSCRIBER, 5, 6, MAP_ILLEGAL_SUBSCRIBER, 11, 12, 13, MAP_ABSENT_SUBSCRIBER, 31, 32}
)
"""Errors that lie with the subscriber, whichever provider is asked: unknown, unidentified, absent, illegal subscriber
or equipment, no teleservice, call barred, subscriber busy, the handset's memory is full."""

_REASONS = {MAP_UNKNOWN_SUBSCRIBER: "unknown_subscriber", MAP_ABSENT_SUBSCRIBER: "absent_subscriber"}


def reason_for(status: str, error_code: int | None) -> str | None:
    """The gateway's machine code for a message that ended by a negative receipt; None for any other receipt."""
    if status not in {ReceiptStatus.UNDELIVERED, ReceiptStatus.FAILED}:
        return None
    by_status = "carrier_failed" if status == ReceiptStatus.UNDELIVERED else "provider_failed"
    return _REASONS.get(error_code or 0, by_status)
