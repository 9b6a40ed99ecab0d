"""What every adapter must do with a callback, and that no secret shows."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ForgedReceipt, ReceiptError, UnreadableReceipt
from service.providers import build
from tests.providers.contract import (
    CASES,
    NOW_S,
    SUBMISSION,
    adapter_of,
    bodies,
    each_case,
    each_of,
    each_signing,
    each_timed,
    each_untimed,
    genuine,
)


@each_of("receipts")
def test_a_callback_becomes_its_receipt_and_a_duplicate_the_same(name: str, key: str) -> None:
    case, adapter = CASES[name], adapter_of(name)
    body, expected = case.receipts[key]
    callback = case.callback(case.account, body, NOW_S)
    assert adapter.receipts(callback, NOW_S) == [expected]
    assert adapter.receipts(callback, NOW_S + 1) == [expected]


@each_of("forge")
def test_a_forged_callback_is_refused(name: str, key: str) -> None:
    case = CASES[name]
    forged = case.forge[key](genuine(case))
    with pytest.raises(ForgedReceipt):
        adapter_of(name).receipts(forged, NOW_S)


@each_signing
def test_a_callback_of_another_account_is_refused(name: str) -> None:
    case = CASES[name]
    stranger = replace(case.account, webhook_secret="whsec_c29tZSBvdGhlciBzaWduaW5nIGtleQ==")
    with pytest.raises(ForgedReceipt):
        build(name, stranger).receipts(genuine(case), NOW_S)


@each_timed
@pytest.mark.parametrize("age_s", [-301, 301, 1e9])
def test_a_replayed_callback_is_refused_by_its_age(name: str, age_s: float) -> None:
    with pytest.raises(ForgedReceipt):
        adapter_of(name).receipts(genuine(CASES[name]), NOW_S + age_s)


@each_timed
@pytest.mark.parametrize("age_s", [-300, 300])
def test_a_callback_may_be_five_minutes_old(name: str, age_s: float) -> None:
    assert adapter_of(name).receipts(genuine(CASES[name]), NOW_S + age_s)


@each_untimed
def test_a_replay_that_cannot_be_told_is_the_same_receipt_again(name: str) -> None:
    adapter, callback = adapter_of(name), genuine(CASES[name])
    assert adapter.receipts(callback, NOW_S + 1e9) == adapter.receipts(callback, NOW_S)


@each_of("unreadable")
def test_a_genuine_callback_that_is_not_understood_is_said_to_be_so(name: str, key: str) -> None:
    case = CASES[name]
    with pytest.raises(UnreadableReceipt):
        adapter_of(name).receipts(case.callback(case.account, case.unreadable[key], NOW_S), NOW_S)


@each_of("receipts")
def test_an_account_without_a_secret_takes_callbacks_unsigned(name: str, key: str) -> None:
    case = CASES[name]
    body, expected = case.receipts[key]
    callback = replace(case.callback(case.account, body, NOW_S), headers={})
    assert build(name, replace(case.account, webhook_secret=None)).receipts(callback, NOW_S) == [expected]


@each_case
def test_no_secret_shows_in_a_repr_or_an_error(name: str) -> None:
    case, adapter = CASES[name], adapter_of(name)
    shown = [repr(case.account), repr(adapter), str(adapter)]
    for request in (adapter.send_request(SUBMISSION), adapter.credentials_request()):
        headers = [pair for pair in request.headers.multi_items() if pair[0] not in case.credential_headers]
        shown += [repr(request), repr(httpx.Headers(headers)), str(request.url)]
    callbacks = [forge(genuine(case)) for forge in case.forge.values()]
    callbacks += [case.callback(case.account, body, NOW_S) for body in case.unreadable.values()]
    for callback in callbacks:
        with pytest.raises(ReceiptError) as error:
            adapter.receipts(callback, NOW_S)
        shown.append(repr(error.value))
    assert len(shown) > 9
    assert not [text for text in shown for secret in case.secrets if secret in text]


@each_case
@given(data=st.data())
@settings(deadline=None)
def test_no_callback_makes_an_adapter_raise_anything_but_a_receipt_error(name: str, data: st.DataObject) -> None:
    case = CASES[name]
    body = data.draw(bodies(case))
    signed = case.callback(case.account, body, NOW_S)
    headers = data.draw(st.dictionaries(st.sampled_from(sorted(signed.headers)), st.text()))
    unsigned = build(name, replace(case.account, webhook_secret=None))
    for adapter, callback in (
        (adapter_of(name), signed),
        (adapter_of(name), replace(signed, headers=dict(signed.headers) | headers)),
        (unsigned, signed),
    ):
        try:
            receipts = adapter.receipts(callback, NOW_S)
        except ReceiptError:
            continue
        assert receipts
