"""The vocabulary of the adapter contract suite: what a case says of its provider.

The suite (`test_contract.py`) knows no provider. A case knows one, and its `CASE` is found by the adapter's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Final

import httpx
import orjson
import pytest
from hypothesis import strategies as st

from service.domain.message import Traffic
from service.domain.outcome import Outcome
from service.domain.receipt import Receipt
from service.providers import ADAPTERS, build
from service.providers.adapter import Account, Adapter, Callback, Submission

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


@dataclass(frozen=True, slots=True)
class Case:
    """One provider. Each answer stands with the outcome that it must give."""

    account: Account
    read: Callable[[httpx.Request], OnTheWire]
    answers: Mapping[str, tuple[httpx.Response, Outcome]]
    table: frozenset[Code]
    """Every code in the adapter's own tables, so that the suite can ask whether `codes` has them all."""
    codes: Mapping[Code, Outcome]
    code_answer: Callable[[Code], httpx.Response]
    unknown_code: Code
    without_id: Mapping[str, httpx.Response]
    """2xx answers that hold no usable message id."""
    callback: Callable[[Account, bytes, float], Callback]
    """A callback with this body, signed by the account at this Unix time."""
    receipts: Mapping[str, tuple[bytes, Receipt]]
    forge: Mapping[str, Callable[[Callback], Callback]]
    """What an attacker can do to a signed callback. Empty where the provider signs nothing."""
    unreadable: Mapping[str, bytes]
    words: Sequence[str]
    """Field names and values of this provider, so that generated answers come close to real ones."""
    bulk: Bulk | None = None


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
    """The bulk of a case; without one the test is skipped."""
    bulk = CASES[name].bulk
    return bulk if bulk is not None else pytest.skip(f"{name} has no bulk")


def genuine(case: Case) -> Callback:
    """A callback that the provider signed at `NOW_S`."""
    body, _ = next(iter(case.receipts.values()))
    return case.callback(case.account, body, NOW_S)


each_case = pytest.mark.parametrize("name", CASES)


def each_of(path: str) -> pytest.MarkDecorator:
    """Every (case, key) of this mapping of the cases: `codes`, `bulk.errors` ..."""
    cases = CASES.items()
    pairs = [(name, key) for name, case in cases if case.bulk or "." not in path for key in attrgetter(path)(case)]
    return pytest.mark.parametrize(("name", "key"), pairs, ids=[f"{name}: {key}" for name, key in pairs])


def bodies(case: Case) -> st.SearchStrategy[bytes]:
    """Anything, and JSON that comes close to what this provider says."""
    words = st.sampled_from(list(case.words))
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | words | st.text()
    values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(words | st.text(), inner))
    return st.binary() | (st.dictionaries(words, values) | values).map(orjson.dumps)
