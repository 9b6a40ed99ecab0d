"""What may become of a message: what its number has in store, or what a fault excuses. Everything else is a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from service.domain.hlr import HlrStatus
from service.domain.receipt import ReceiptStatus, reason_for
from service.simulator.number_table import Behaviour, behaviour_of
from tests.chaos.clients import Record
from tests.chaos.stage import LedgerSend

ENOUGH: Final = timedelta(seconds=20)
"""A message whose validity goes on for so long after everything is well again must go out: a breaker lets something
through by then. So must one that younger ones went past for so long: what a dead worker held is others' long before."""

_REJECTIONS: Final = {"invalid_number": "invalid_number", "recipient_opted_out": "opted_out"}

End = tuple[str, str | None]
"""A status and its reason."""


@dataclass(frozen=True, slots=True)
class Case:
    """An ended message and all that is known of it.

    `overtaken_at`: when a provider last took a younger message of its traffic before its validity was over.
    `keyless`: the providers that know no idempotency keys. `clocks_right`: no process had another time in this round.
    """

    message: asyncpg.Record
    record: Record
    attempts: Sequence[asyncpg.Record]
    sends: Sequence[tuple[str, LedgerSend]]
    healthy_at: datetime
    overtaken_at: datetime | None
    keyless: frozenset[str]
    clocks_right: bool

    @property
    def valid_until(self) -> datetime:
        """By what the client asked for: the drain brings `expires_at` forward."""
        return valid_until(self.message, self.record)

    @property
    def in_doubt(self) -> bool:
        """Whether nobody can say of some provider if it had it."""
        return any(attempt["open"] or attempt["outcome"] in {"unknown", None} for attempt in self.attempts)

    @property
    def had_time(self) -> bool:
        """Whether it was valid for long enough after all faults."""
        return self.valid_until > self.healthy_at + ENOUGH

    def __str__(self) -> str:
        """What happened, for who looks for the cause."""
        tries = [f"{a['provider']} {a['outcome']} ({a['reason']}, {a['calls']} calls)" for a in self.attempts]
        sends = [f"{provider} at {send.at:%T.%f}, receipt {send.news}" for provider, send in self.sends]
        ended_at = self.message["ended_at"]
        return f"attempts: {tries}; sends: {sends}; sent {self.message['created_at']:%T.%f}, ended {ended_at:%T.%f}"


def valid_until(message: asyncpg.Record, record: Record) -> datetime:
    """When the validity that the client asked for is over."""
    until: datetime = message["send_at"] + timedelta(seconds=record.body["validity_period"])
    return until


def complaint(case: Case) -> str | None:
    """Why a message must not have ended as it did."""
    end: End = case.message["status"], case.message["reason"]
    behaviour = behaviour_of(case.message["recipient"])
    if end in _foretold(behaviour):
        return _unfounded(case, behaviour)
    if end not in _EXCUSES:
        return "which nothing excuses"
    return _EXCUSES[end](case)


def _foretold(behaviour: Behaviour) -> set[End]:
    """How a message to such a number ends where all goes well."""
    ends: set[End] = {("failed", "number_unreachable")} if behaviour.hlr is HlrStatus.INVALID else set()
    if behaviour.refused is not None:
        return ends | {("failed", _REJECTIONS[behaviour.refused])}
    if behaviour.receipt is not None:
        return ends | {(behaviour.receipt.value, reason_for(behaviour.receipt, behaviour.error_code))}
    return ends  # without a receipt: see `_not_heard`


def _unfounded(case: Case, behaviour: Behaviour) -> str | None:
    """What the number says must have been heard from somebody."""
    if case.message["reason"] == "number_unreachable":
        return "and yet a provider has it" if case.sends else None
    if behaviour.refused is not None:
        rejected = any(attempt["outcome"] == "rejected" for attempt in case.attempts)
        return None if rejected else "and no provider said so"
    return None if any(send.receipt for _, send in case.sends) else "and no provider sent a receipt that says so"


def _cancelled(case: Case) -> str | None:
    return None if case.record.cancelled is not None else "and nobody asked for that"


def _expired(case: Case) -> str | None:
    """Providers were down, or those who worked on it were dead, until its time was over."""
    due_at = max((a["started_at"] for a in case.attempts), default=case.message["send_at"])
    if case.sends:
        return "although a provider has it"
    if case.message["ended_at"] < case.valid_until:
        return f"{case.valid_until - case.message['ended_at']} before its validity was over"
    if case.had_time:
        return f"although nothing stood in its way for {ENOUGH}"
    if case.overtaken_at is not None and case.overtaken_at > due_at + ENOUGH:
        return f"left lying while younger ones went out for {ENOUGH}"
    return None


def _nobody_knows(case: Case) -> str | None:
    """A call had no readable answer, or the process that made it died, and no receipt came.

    Where the provider knows keys the call is repeated until that is cleared up, for as long as the message is valid;
    but for an OTP, which has been repeated once and then went to every other provider.
    """
    doubts = [attempt for attempt in case.attempts if attempt["outcome"] in {"unknown", None}]
    if not doubts:
        return "although no attempt is on record as unknown"
    if case.message["traffic"] != "otp" and case.had_time and not {a["provider"] for a in doubts} & case.keyless:
        return f"although it could have been repeated for {ENOUGH}"
    return None


def _not_heard(case: Case) -> str | None:
    """The number sends no receipt, the provider lost it, or gave it up because clocks were wrong.

    Or it was a bad one, and another provider might have had it too, of whom nothing was heard.
    """
    if not case.sends:
        return "and no provider has it"
    # That other one may have been cleared up since: its worker had been given up when it said that it called nobody.
    cleared_up = any(attempt["reason"] == "not_called" for attempt in case.attempts)
    if (case.in_doubt or cleared_up) and behaviour_of(case.message["recipient"]).receipt is not ReceiptStatus.DELIVERED:
        return None
    if case.clocks_right and any(send.receipt for _, send in case.sends):
        return "although its provider had a receipt to send"
    return None


def _opted_out(case: Case) -> str | None:
    """A provider said that the recipient opted out, and whoever worked on the message by then met that on the list."""
    said = any(attempt["outcome"] == "rejected" and attempt["reason"] == "opted_out" for attempt in case.attempts)
    return None if said and not case.sends else "and no provider said that the recipient opted out"


_EXCUSES: Final[Mapping[End, Callable[[Case], str | None]]] = {
    ("cancelled", None): _cancelled,
    ("failed", "expired"): _expired,
    ("failed", "suppressed"): _opted_out,
    ("failed", "submit_unknown"): _nobody_knows,
    ("undelivered", "no_receipt"): _not_heard,
}
