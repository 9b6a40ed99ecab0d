"""What only the Kannel adapter does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.errors import ConfigurationError
from service.providers.kannel import Kannel
from tests.providers.cases.kannel import ACCOUNT, REPORT
from tests.providers.contract import SUBMISSION


@pytest.mark.parametrize(
    "key", ["", "gateway", ":pass-word", "gateway:", "gate way:password", "gateway:pass\n", "g:clé"]
)
def test_credentials_of_another_form_are_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"kannel.*api_key") as error:
        Kannel(replace(ACCOUNT, api_key=key))
    assert not key or key not in str(error.value)


def test_a_webhook_secret_is_refused_because_nothing_is_signed() -> None:
    with pytest.raises(ConfigurationError, match=r"kannel.*remove `webhook_secret`") as error:
        Kannel(replace(ACCOUNT, webhook_secret="do-not-show"))
    assert "do-not-show" not in str(error.value)


@pytest.mark.parametrize(("validity_s", "minutes"), [(1, "1"), (60, "1"), (61, "2"), (86_400, "1440")])
def test_the_validity_goes_out_in_whole_minutes_and_is_never_cut(validity_s: int, minutes: str) -> None:
    request = Kannel(ACCOUNT).send_request(replace(SUBMISSION, validity_s=validity_s))
    assert request.headers["x-kannel-validity"] == minutes


def test_a_percent_sign_of_the_callback_url_is_not_one_for_kannel_to_fill_in() -> None:
    request = Kannel(ACCOUNT).send_request(replace(SUBMISSION, callback_url="https://sms.example.com/%d/token"))
    assert request.headers["x-kannel-dlr-url"] == f"https://sms.example.com/%%d/token{REPORT}"
