"""What every adapter must do with a send, whoever the provider is. How its provider answers stands in `cases/`."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unknown
from service.pipeline.health import provider_is_down
from tests.providers.contract import (
    BULKS,
    CASES,
    SUBMISSION,
    adapter_of,
    bodies,
    bulk_adapter_of,
    each_case,
    each_of,
)

TEXTS = {
    "GSM-7": "Your code is 481902.",
    "GSM-7 with the extension table and line breaks": "{[~\\^|€]}\r\n@£$¥ \u00a0ÄÖÑÜ§",
    "two segments of GSM-7": "a" * 161,
    "UCS-2": "Привет, 你好 \u202e\u0301",
    "UCS-2 outside the basic plane": "👩‍👩‍👧 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "ten segments of UCS-2": "й" * 670,
    "what JSON and forms escape": "\"'<&=+%00?#\\u0041/ \t",
}


@each_case
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_text_goes_out_byte_exact(name: str, text: str) -> None:
    request = adapter_of(name).send_request(replace(SUBMISSION, text=text))
    assert CASES[name].read(request).text == text


@each_case
def test_every_field_that_the_provider_can_take_reaches_it(name: str) -> None:
    adapter, sent = adapter_of(name), SUBMISSION
    can, wire = adapter.capabilities, CASES[name].read(adapter.send_request(sent))
    assert (wire.to, wire.sender, wire.credential) == ((sent.to,), sent.sender, CASES[name].account.api_key)
    assert wire.validity_s == (sent.validity_s if can.validity_period else None)
    assert wire.callback_url == (sent.callback_url if can.callback_per_message else None)
    assert wire.idempotency_key == (sent.idempotency_key if can.idempotency_key else None)


@each_case
def test_without_a_callback_url_none_is_sent(name: str) -> None:
    request = adapter_of(name).send_request(replace(SUBMISSION, callback_url=None))
    assert CASES[name].read(request).callback_url is None


@each_of("answers")
def test_an_answer_has_its_outcome(name: str, key: str) -> None:
    response, expected = CASES[name].answers[key]
    assert adapter_of(name).send_outcome(response) == expected


@each_of("codes")
def test_a_code_has_its_outcome(name: str, key: str) -> None:
    case = CASES[name]
    assert adapter_of(name).send_outcome(case.code_answer(key)) == case.codes[key]


@each_of("codes")
def test_a_code_says_what_it_is_about_and_only_what_is_about_the_account_speaks_for_all(name: str, key: str) -> None:
    outcome = CASES[name].codes[key]
    if isinstance(outcome, Rejected):
        assert outcome.about is not About.ACCOUNT, "no other provider is asked, so it must lie with the message"
    if isinstance(outcome, Refused | Throttled):
        assert outcome.about in About
        assert provider_is_down(outcome) == (isinstance(outcome, Refused) and outcome.about is About.ACCOUNT)


@each_case
def test_the_case_pins_every_code_of_the_adapter(name: str) -> None:
    assert set(CASES[name].codes) == CASES[name].table


@each_case
def test_the_case_shows_every_outcome(name: str) -> None:
    case = CASES[name]
    assert {type(outcome) for _, outcome in case.answers.values()} == set(get_args(Outcome)) - case.never


def page(status: int) -> httpx.Response:
    """What a proxy on the way says for itself."""
    return httpx.Response(status, text="<html>", headers={"Content-Type": "text/html"})


@each_case
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_5xx_that_proves_nothing_is_unknown(name: str, status: int) -> None:
    assert adapter_of(name).send_outcome(page(status)) == Unknown(f"http_{status}")


@each_case
def test_a_429_is_throttled(name: str) -> None:
    assert adapter_of(name).send_outcome(page(429)) == Throttled(None)


@each_case
@pytest.mark.parametrize("status", [301, 302, 307, 401, 404])
def test_what_is_wrong_with_the_account_is_said_to_be_so(name: str, status: int) -> None:
    outcome = adapter_of(name).send_outcome(page(status))
    assert isinstance(outcome, Refused)
    assert outcome.about is About.ACCOUNT


@each_case
def test_an_unknown_code_neither_counts_as_sent_nor_ends_the_message(name: str) -> None:
    case = CASES[name]
    assert isinstance(adapter_of(name).send_outcome(case.code_answer(case.unknown_code)), Refused | Unknown)


@each_of("without_id")
def test_a_2xx_without_an_id_is_unknown(name: str, key: str) -> None:
    response = CASES[name].without_id[key]
    assert response.is_success
    assert isinstance(adapter_of(name).send_outcome(response), Unknown)


STATUSES = st.integers(100, 999)
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Content-Type", "Location"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126)),
)


@each_case
@given(data=st.data())
@settings(deadline=None)
def test_no_answer_makes_an_adapter_raise_and_none_without_proof_is_accepted(name: str, data: st.DataObject) -> None:
    case, body = CASES[name], data.draw(bodies(CASES[name]))
    response = httpx.Response(data.draw(STATUSES), content=body, headers=data.draw(HEADERS))
    outcomes = [adapter_of(name).send_outcome(response)]
    if name in BULKS:
        both = [SUBMISSION, replace(SUBMISSION, to="+447700900199")]
        outcomes += bulk_adapter_of(name).bulk_outcomes(both, response)
    assert len(outcomes) == (3 if name in BULKS else 1)
    for outcome in outcomes:
        assert isinstance(outcome, Outcome)
        if isinstance(outcome, Accepted):
            assert response.is_success
            assert case.proves(outcome, body)
