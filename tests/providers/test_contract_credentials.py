"""What every adapter must do to learn whether the credentials work, at no cost."""

from __future__ import annotations

from typing import get_args

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.outcome import Unknown
from service.providers.adapter import Doubt
from tests.providers.contract import CASES, SUBMISSION, adapter_of, bodies, each_case, each_of


@each_case
def test_the_question_is_a_send_to_nobody_with_the_credentials(name: str) -> None:
    adapter, case = adapter_of(name), CASES[name]
    request = adapter.credentials_request()
    assert case.read_nobody(request) == case.account.api_key
    assert request.url == adapter.send_request(SUBMISSION).url


@each_of("credentials")
def test_an_answer_has_its_verdict(name: str, key: str) -> None:
    response, expected = CASES[name].credentials[key]
    assert adapter_of(name).credentials_verdict(response) == expected


@each_case
def test_the_case_shows_credentials_that_work_and_some_that_do_not(name: str) -> None:
    reasons = {getattr(doubt, "reason", None) for _, doubt in CASES[name].credentials.values()}
    assert reasons > {None, "credentials"}


@each_case
@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 422, 429, 500, 502, 503, 504])
def test_the_page_of_a_proxy_proves_nothing(name: str, status: int) -> None:
    page = httpx.Response(status, text="<html>", headers={"Content-Type": "text/html"})
    assert adapter_of(name).credentials_verdict(page) is not None


@each_of("answers")
def test_no_answer_that_accepts_proves_anything(name: str, key: str) -> None:
    response, _ = CASES[name].answers[key]
    if response.is_success:
        assert adapter_of(name).credentials_verdict(response) is not None


@each_of("without_id")
def test_a_2xx_of_anything_else_is_unknown(name: str, key: str) -> None:
    assert isinstance(adapter_of(name).credentials_verdict(CASES[name].without_id[key]), Unknown)


@each_case
@given(data=st.data())
@settings(deadline=None)
def test_no_answer_makes_an_adapter_raise_and_only_a_refusal_is_proof(name: str, data: st.DataObject) -> None:
    response = httpx.Response(data.draw(st.integers(100, 999)), content=data.draw(bodies(CASES[name])))
    verdict = adapter_of(name).credentials_verdict(response)
    assert isinstance(verdict, get_args(Doubt)) or (verdict is None and response.is_client_error)
