"""The contract of a provider adapter. An adapter does no I/O.

It turns submissions into an `httpx.Request` and an `httpx.Response` into outcomes, and parses a provider's callback
into receipts. One engine (`pipeline/submit.py`) does timeouts, pacing, breaker, metrics and logs for all of them.
An adapter never raises on what a provider answers: an answer that it does not understand is `Unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from service.domain.message import Traffic
from service.domain.outcome import Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do, so that the engine need not ask which provider it is.

    `idempotency_key`: a repeat with the same key is counted once, so an unknown outcome may be repeated.
    `bulk_size`: most recipients in one call (1: no bulk). `validity_period`: it honours one.
    `callback_per_message`: a callback URL can be given with each send; otherwise receipts match by the provider's id.
    """

    idempotency_key: bool = False
    bulk_size: int = 1
    validity_period: bool = False
    callback_per_message: bool = True


@dataclass(frozen=True, slots=True)
class Account:
    """One account at a provider, as `gateway.yaml` names it. Secrets stay out of `repr`.

    `webhook_secret` is what the provider signs its callbacks with; None where it signs nothing.
    """

    name: str
    base_url: str
    api_key: str = field(repr=False)
    webhook_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """One message for one provider. `to` is E.164; `validity_s` is what is left of its validity, at least 1.

    `idempotency_key` is `message_id:account`, the same on every repeat to this account.
    `callback_url` carries the attempt's token; None when the account has one callback URL for everything.
    """

    to: str
    sender: str
    text: str
    traffic: Traffic
    validity_s: int
    idempotency_key: str
    callback_url: str | None


@dataclass(frozen=True, slots=True)
class Callback:
    """A provider's callback as it came: raw body, headers (lower-case names), query, the public URL it was sent to."""

    body: bytes
    headers: Mapping[str, str]
    query: Mapping[str, str]
    url: str


Doubt = Refused | Throttled | Unavailable | Unknown
"""Why an answer does not prove that the credentials work."""


def doubt(outcome: Outcome) -> Doubt:
    """The same as a doubt. A send without a recipient is never really accepted, and has no message to reject."""
    match outcome:
        case Accepted():
            return Unknown("unreadable_reply")
        case Rejected(code=code):
            return Refused("unrecognised", code)
        case _:
            return outcome


class Adapter(Protocol):
    """What each file in this folder implements."""

    capabilities: Capabilities

    def send_request(self, submission: Submission) -> httpx.Request:
        """The request that submits one message."""
        ...

    def send_outcome(self, response: httpx.Response) -> Outcome:
        """What the answer to `send_request` means. Never raises; what is not understood is `Unknown`."""
        ...

    def credentials_request(self) -> httpx.Request:
        """A send that lacks its recipient, so that it costs nothing and nobody can accept it.

        It needs the very permission that sending needs; other requests often need another.
        """
        ...

    def credentials_verdict(self, response: httpx.Response) -> Doubt | None:
        """None when the answer to that proves that the credentials work; otherwise why it does not. Never raises."""
        ...

    def receipts(self, callback: Callback, now_s: float) -> list[Receipt]:
        """The receipts in a callback; `now_s` (Unix time) bounds the age of a signature.

        Raises:
            ForgedReceipt: the provider's signature is missing or wrong.
            UnreadableReceipt: genuine but not understood.
        """
        ...


class BulkAdapter(Adapter, Protocol):
    """What an adapter implements besides when its `capabilities.bulk_size` is more than 1."""

    def bulk_request(self, submissions: Sequence[Submission], idempotency_key: str) -> httpx.Request:
        """One request for many messages of one text and sender, at most `capabilities.bulk_size`.

        Raises:
            ValueError: the submissions differ in more than `to`, repeat a recipient, or are none or too many.
        """
        ...

    def bulk_outcomes(self, submissions: Sequence[Submission], response: httpx.Response) -> list[Outcome]:
        """One outcome for each submission, in their order. Never raises; what is not understood is `Unknown`."""
        ...
