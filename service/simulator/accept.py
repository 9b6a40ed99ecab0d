"""From a valid body to what is accepted of it: the sends for the ledger, and the answer for the caller."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from service.domain import msisdn
from service.errors import FieldError, Problem
from service.simulator.bodies import NO_FUNDS, UNREGISTERED, Body, BulkBody, SendBody
from service.simulator.faults import Fault, Faults
from service.simulator.ledger import ReceiptPlan, Send
from service.simulator.number_table import Behaviour, behaviour_of

_REFUSALS: Final = {
    "duplicate_recipient": "This number is in the list already, and is sent to once.",
    "invalid_number": "The carrier knows no such number: remove it.",
    "recipient_opted_out": "The recipient has opted out: do not send to this number.",
}
NOT_E164: Final = "Give the number in E.164: +, country code, national number, and nothing else."


def _refusal_of(to: str) -> tuple[str, str] | None:
    """Why a number is not sent to, as code and detail; None when it is."""
    code = msisdn.check_syntax(to)
    if code:
        return code, NOT_E164
    code = behaviour_of(to).refused
    return (code, _REFUSALS[code]) if code else None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What came of one request. `answer` is the body of its 200."""

    sends: Sequence[Send]
    answer: dict[str, Any]


class Acceptor:
    """Makes sends, with a plan for the receipt of each. Delays are in seconds."""

    def __init__(
        self, faults: Faults, account_callback_url: str | None, receipt_delay_s: float, slow_receipt_delay_s: float
    ) -> None:
        self._faults = faults
        self._account_callback_url = account_callback_url
        self._receipt_delay_s = receipt_delay_s
        self._slow_receipt_delay_s = slow_receipt_delay_s

    def single(self, body: SendBody, key: str | None, early: bool) -> Accepted:
        """Accept one message; with `early`, its receipt is due at once.

        Raises:
            Problem: 422 for the number, 402 or 403 for the sender.
        """
        _check_account(body)
        refusal = _refusal_of(body.to)
        if refusal:
            code, detail = refusal
            raise Problem(422, code, detail, errors=(FieldError("to", code, detail),))
        send = self._send(body, body.to, key, batch_id=None, early=early)
        return Accepted([send], {"message_id": send.message_id, "to": send.to} | _echo(body, send.at))

    def bulk(self, body: BulkBody, key: str | None, early: bool) -> Accepted:
        """Accept what can be of many recipients.

        Raises:
            Problem: 422 when that is none, 402 or 403 for the sender.
        """
        _check_account(body)
        batch_id = f"batch_{_sortable_id()}"
        sends: list[Send] = []
        results: list[dict[str, Any]] = []
        seen: set[str] = set()
        for to in body.recipients:
            refusal = _refusal_of(to)
            if to in seen:
                refusal = "duplicate_recipient", _REFUSALS["duplicate_recipient"]
            seen.add(to)
            if refusal:
                results.append({"to": to, "error": {"code": refusal[0], "detail": refusal[1]}})
                continue
            send = self._send(body, to, key, batch_id=batch_id, early=early)
            sends.append(send)
            results.append({"to": to, "message_id": send.message_id})
        if not sends:
            raise _all_refused(results)
        counts = {"accepted": len(sends), "rejected": len(results) - len(sends)}
        return Accepted(sends, {"batch_id": batch_id} | counts | _echo(body, sends[0].at) | {"results": results})

    def _send(self, body: Body, to: str, key: str | None, *, batch_id: str | None, early: bool) -> Send:
        now = datetime.now(UTC)
        return Send(
            message_id=f"msg_{_sortable_id()}",
            to=to,
            sender=body.sender,
            idempotency_key=key,
            at=now,
            reference=body.reference,
            batch_id=batch_id,
            segments=body.measure.segments,
            receipt=self._plan(body, behaviour_of(to), now, early=early),
        )

    def _plan(self, body: Body, behaviour: Behaviour, now: datetime, *, early: bool) -> ReceiptPlan | None:
        url = body.callback_url or self._account_callback_url
        if url is None or behaviour.receipt is None or self._faults.hit(Fault.NO_RECEIPT):
            return None
        if early:
            return ReceiptPlan(url, now, copies=1)
        delay_s = self._slow_receipt_delay_s if behaviour.slow else self._receipt_delay_s
        due_at = max(now, body.send_at or now) + timedelta(seconds=delay_s)
        return ReceiptPlan(url, due_at, copies=2 if self._faults.hit(Fault.DUPLICATE_RECEIPT) else 1)


def _check_account(body: Body) -> None:
    if body.sender == NO_FUNDS:
        raise Problem(402, "insufficient_funds", "The account is empty: top it up.")
    if body.sender in UNREGISTERED:
        raise Problem(403, "sender_not_registered", "Register the sender, or use one that is registered.")


def _echo(body: Body, at: datetime) -> dict[str, Any]:
    size = body.measure
    return {
        "status": "queued",
        "from": body.sender,
        "traffic": body.traffic,
        "segments": size.segments,
        "encoding": size.encoding,
        "reference": body.reference,
        "created_at": at,
    }


def _all_refused(results: list[dict[str, Any]]) -> Problem:
    errors = tuple(
        FieldError(f"recipients.{index}", result["error"]["code"], result["error"]["detail"])
        for index, result in enumerate(results)
    )
    return Problem(422, "no_valid_recipients", "Correct the numbers as `errors` says.", errors=errors)


def _sortable_id() -> str:
    """A UUIDv7 (RFC 9562, 5.7) in hexadecimal: 48 bits of Unix milliseconds, then chance."""
    chance = secrets.randbits(74)
    high, low = chance >> 62, chance & ((1 << 62) - 1)
    return f"{time.time_ns() // 1_000_000:012x}{0x7000 | high:04x}{(0b10 << 62) | low:016x}"
