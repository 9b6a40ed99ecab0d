"""What only the smsroute adapter does, and the table of providers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.errors import ConfigurationError
from service.providers import build
from service.providers.smsroute import SmsRoute
from tests.providers.cases.smsroute import ACCOUNT


def test_an_unknown_adapter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"primary.*smsroute"):
        build("twillio", ACCOUNT)


def test_a_known_adapter_is_built() -> None:
    assert isinstance(build("smsroute", ACCOUNT), SmsRoute)


@pytest.mark.parametrize("key", ["", "sk live", "sk\nlive", "clé"])
def test_an_api_key_that_cannot_be_a_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"primary.*api_key") as error:
        SmsRoute(replace(ACCOUNT, api_key=key))
    assert not key or key not in str(error.value)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "whsec_abcde", "clé"])
def test_a_webhook_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ConfigurationError, match=r"primary.*webhook_secret") as error:
        SmsRoute(replace(ACCOUNT, webhook_secret=secret))
    assert secret in {"", "whsec_"} or secret not in str(error.value)
