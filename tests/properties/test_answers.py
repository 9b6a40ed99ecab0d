"""What a provider can say, whatever it is: no answer makes the gateway send twice or wait for ever."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.outcome import Accepted, Outcome, Throttled, Unavailable, Unknown
from service.errors import ReceiptError
from service.providers.adapter import Callback
from tests.providers.contract import CASES, NOW_S, adapter_of, bodies, each_case

HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
RETRY_AFTER = HEADER | st.integers(-(10**30), 10**30).map(str) | st.sampled_from(["nan", "inf", "1e400", "-1", "0.5"])


@each_case
@given(data=st.data())
@settings(deadline=None)
def test_a_5xx_is_unknown_unless_a_503_proves_more(name: str, data: st.DataObject) -> None:
    status = data.draw(st.integers(500, 599))
    response = httpx.Response(status, content=data.draw(bodies(CASES[name])), headers={"x": "y"})
    outcome = adapter_of(name).send_outcome(response)
    assert isinstance(outcome, Unknown | (Unavailable | Throttled if status == 503 else Unknown)), outcome


@each_case
@given(data=st.data())
@settings(deadline=None)
def test_a_2xx_is_accepted_or_unknown(name: str, data: st.DataObject) -> None:
    response = httpx.Response(data.draw(st.integers(200, 299)), content=data.draw(st.binary(max_size=200)))
    assert isinstance(adapter_of(name).send_outcome(response), Accepted | Unknown)


@each_case
@given(value=RETRY_AFTER)
@settings(deadline=None)
def test_a_wait_that_a_provider_asks_for_is_a_time_or_nothing(name: str, value: str) -> None:
    headers = {b"Retry-After": value.encode("latin-1", "replace")}
    outcome = adapter_of(name).send_outcome(httpx.Response(429, headers=headers))
    assert isinstance(outcome, Outcome)
    if isinstance(outcome, Throttled) and outcome.retry_after_s is not None:
        assert outcome.retry_after_s >= 0
        assert math.isfinite(outcome.retry_after_s)


CALLBACKS = st.builds(
    Callback,
    st.binary(max_size=300),
    st.dictionaries(st.text(max_size=30), st.text(max_size=80), max_size=5),
    st.dictionaries(st.text(max_size=10), st.text(max_size=40), max_size=5),
    st.text(max_size=80),
)


@each_case
@given(callback=CALLBACKS, now_s=st.floats(0, 1e11))
@settings(deadline=None)
def test_a_callback_of_anything_is_a_receipt_or_refused(name: str, callback: Callback, now_s: float) -> None:
    with suppress(ReceiptError):
        assert adapter_of(name).receipts(callback, now_s)


@each_case
@pytest.mark.parametrize("header", ["webhook-timestamp", "webhook-signature", "webhook-id", "x-twilio-signature"])
@given(value=st.text(max_size=60))
@settings(deadline=None)
def test_no_changed_header_of_a_signature_raises_anything_else(name: str, header: str, value: str) -> None:
    case = CASES[name]
    body, _ = next(iter(case.receipts.values()))
    signed = case.callback(case.account, body, NOW_S)
    changed = replace(signed, headers=dict(signed.headers) | {header: value})
    with suppress(ReceiptError):
        adapter_of(name).receipts(changed, NOW_S)
