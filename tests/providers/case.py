"""What a case says of its provider. A case knows one provider; the suite (`contract.py`) knows none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
import orjson

from service.domain.outcome import Accepted, Outcome
from service.domain.receipt import Receipt
from service.providers.adapter import Account, Callback, Doubt

FIRST = "+447700900100"
SECOND = "+447700900101"

Code = str | int
"""What an adapter's table is keyed by: a provider's code, or a status of HTTP."""

BulkResult = tuple[str, str | None, str | None]
"""(recipient, message id, error code): one of the latter two is None."""


@dataclass(frozen=True, slots=True)
class OnTheWire:
    """A send as the provider reads it. None where the provider has no such thing or got none."""

    to: tuple[str, ...]
    sender: str
    text: str
    validity_s: int | None
    callback_url: str | None
    idempotency_key: str | None
    credential: str


@dataclass(frozen=True, slots=True)
class Bulk:
    """How one provider answers a bulk."""

    reply: Callable[[Sequence[BulkResult]], httpx.Response]
    errors: Mapping[str, Outcome]
    """What the error code of one recipient means."""
    all_bad: Mapping[str, tuple[httpx.Response, Outcome, Outcome]]
    """Refusals of all of `FIRST` and `SECOND`, with the outcome of each."""
    half_readable: Mapping[str, httpx.Response]
    """Replies to `FIRST` and `SECOND` that do not tell what came of the first, and give the second the id `id-2`."""


def holds_id(outcome: Accepted, body: bytes) -> bool:
    """Whether the message id was in the answer."""
    return bool(outcome.provider_message_id) and orjson.dumps(outcome.provider_message_id) in body


@dataclass(frozen=True, slots=True)
class Case:
    """One provider. Each answer stands with the outcome that it must give."""

    account: Account
    secrets: tuple[str, ...]
    """What of the account must show nowhere."""
    read: Callable[[httpx.Request], OnTheWire]
    answers: Mapping[str, tuple[httpx.Response, Outcome]]
    table: frozenset[Code]
    """Every code in the adapter's own tables, so that the suite can ask whether `codes` has them all."""
    codes: Mapping[Code, Outcome]
    code_answer: Callable[[Code], httpx.Response]
    unknown_code: Code
    read_nobody: Callable[[httpx.Request], str]
    """Reads a send that asks whether the credentials work: it holds no recipient, and this credential."""
    credentials: Mapping[str, tuple[httpx.Response, Doubt | None]]
    """Answers to that. None: the credentials work."""
    without_id: Mapping[str, httpx.Response]
    """2xx answers that hold no usable message id, or no other proof that the message was accepted."""
    callback: Callable[[Account, bytes, float], Callback]
    """A callback with this content, signed by the account at this Unix time."""
    receipts: Mapping[str, tuple[bytes, Receipt]]
    forge: Mapping[str, Callable[[Callback], Callback]]
    """What an attacker can do to a signed callback. Empty where the provider signs nothing."""
    unreadable: Mapping[str, bytes]
    words: Sequence[str]
    """Field names and values of this provider, so that generated answers come close to real ones."""
    bulk: Bulk | None = None
    signs_time: bool = True
    """False where no time is signed, so that a callback can be replayed."""
    never: frozenset[type[Outcome]] = frozenset()
    """Outcomes that nothing this provider says can lead to."""
    proves: Callable[[Accepted, bytes], bool] = holds_id
    """Whether this body proves that outcome."""
    credential_headers: frozenset[str] = frozenset()
    """Headers of its own that carry credentials. httpx masks only `Authorization` when headers are shown."""
