"""The adapter contract suite (`test_contract*.py`): every adapter's case, and the tests' way to it.

A case is found by the adapter's name, so an adapter without one fails here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Final, cast
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import strategies as st

from service.domain.message import Traffic
from service.providers import ADAPTERS, build
from service.providers.adapter import Adapter, BulkAdapter, Callback, Submission
from tests.providers.case import Bulk, Case

NOW_S = 1_800_000_000.0

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
