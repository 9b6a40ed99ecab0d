"""The vocabulary of the adapter contract suite: what a case says of its provider.

The suite (`test_contract.py`) knows no provider. A case knows one, and its `CASE` is found by the adapter's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Final, cast
from urllib.parse import urlencode

import httpx
import orjson
import pytest
from hypothesis import strategies as st

from service.domain.message import Traffic
from service.domain.outcome import Accepted, Outcome
from service.domain.receipt import Receipt
from service.providers import ADAPTERS, build
from service.providers.adapter import Account, Adapter, BulkAdapter, Callback, Submission

NOW_S = 1_800_000_000.0

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


CASES: Final[dict[str, Case]] = {name: import_module(f"tests.providers.cases.{name}").CASE for name in ADAPTERS}


SUBMISSION: Final = Submission(
    to="+447700900123",
    sender="MyApp",
    text="Your code is 481902.",
    traffic=Traffic.OTP,
    validity_s=300,
    idempotency_key="msg_1:primary",
    callback_url="https://sms.example.com/v1/receipts/primary/token",
)
"""A submission with everything set."""


def adapter_of(name: str) -> Adapter:
    """The adapter of a case, with the case's account."""
    return build(name, CASES[name].account)


def bulk_of(name: str) -> Bulk:
    """The bulk of a case that has one."""
    bulk = CASES[name].bulk
    assert bulk is not None
    return bulk


def bulk_adapter_of(name: str) -> BulkAdapter:
    """The adapter of a case that has a bulk."""
    return cast("BulkAdapter", adapter_of(name))


def genuine(case: Case) -> Callback:
    """A callback that the provider signed at `NOW_S`."""
    body, _ = next(iter(case.receipts.values()))
    return case.callback(case.account, body, NOW_S)


def _each(cases: Mapping[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", cases)


BULKS: Final = {name: case for name, case in CASES.items() if case.bulk}

each_case = _each(CASES)
each_bulk = _each(BULKS)
each_signing = _each({name: case for name, case in CASES.items() if case.forge})
each_timed = _each({name: case for name, case in CASES.items() if case.forge and case.signs_time})
each_untimed = _each({name: case for name, case in CASES.items() if not case.signs_time})


def each_of(path: str, cases: Mapping[str, Case] = CASES) -> pytest.MarkDecorator:
    """Every (case, key) of this mapping of the cases: `codes`, `bulk.errors` ..."""
    pairs = [(name, key) for name, case in cases.items() for key in attrgetter(path)(case)]
    return pytest.mark.parametrize(("name", "key"), pairs, ids=[f"{name}: {key}" for name, key in pairs])


def bodies(case: Case) -> st.SearchStrategy[bytes]:
    """Anything, and JSON, forms and texts that come close to what this provider says."""
    words = st.sampled_from(list(case.words))
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | words | st.text()
    values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(words | st.text(), inner))
    json = (st.dictionaries(words, values) | values).map(orjson.dumps)
    text = st.text(st.characters(codec="utf-8"))
    forms = st.dictionaries(words, words | text).map(lambda fields: urlencode(fields).encode())
    return st.binary() | json | forms | st.tuples(words, text).map(lambda parts: "".join(parts).encode())
