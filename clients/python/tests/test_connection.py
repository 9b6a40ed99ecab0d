"""Where the gateway is and who calls."""

from __future__ import annotations

import gc
import traceback

import pytest
from conftest import Connect
from sms_gateway_client import AsyncSmsGateway, NoAnswer, SmsGateway
from sms_gateway_client.connection import connection

from tests.journeys.world import free_port

KEY = "sk_secret-of-the-shop"


def test_the_address_and_the_key_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS_URL", "https://sms.example.com/base")
    monkeypatch.setenv("SMS_API_KEY", KEY)
    from_environment = connection(None, None)
    assert from_environment["base_url"] == "https://sms.example.com/base"
    assert from_environment["headers"]["Authorization"] == f"Bearer {KEY}"
    given = connection("http://10.0.0.7:8080", "other")
    assert given["base_url"] == "http://10.0.0.7:8080"
    assert given["headers"]["Authorization"] == "Bearer other"


@pytest.mark.parametrize("client", [SmsGateway, AsyncSmsGateway])
def test_without_an_address_or_a_key_it_says_what_to_set(
    client: type[SmsGateway | AsyncSmsGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMS_URL", raising=False)
    monkeypatch.delenv("SMS_API_KEY", raising=False)
    for bad_url in (None, "sms.example.com", "ftp://sms.example.com", "http://", "http://[::1"):
        with pytest.raises(ValueError, match="SMS_URL"):
            client(bad_url, KEY)
    for bad_key in (None, "", f"{KEY}\n", "with space", "schlüssel"):
        with pytest.raises(ValueError, match="SMS_API_KEY") as told:
            client("http://127.0.0.1:8080", bad_key)
        assert KEY not in str(told.value)


async def test_the_key_is_in_no_representation_and_no_traceback(connect: Connect) -> None:
    with SmsGateway("http://127.0.0.1:8080", KEY) as blocking:
        shown = [repr(blocking), str(blocking), *map(repr, vars(blocking).values())]
    async with AsyncSmsGateway("http://127.0.0.1:8080", KEY) as sms:
        shown += [repr(sms), *map(repr, vars(sms).values())]
    unreachable = connect(f"http://127.0.0.1:{free_port()}", KEY, retry=False)
    with pytest.raises(NoAnswer) as failed:
        await unreachable.send("+15555550100", "Hello", sender="MyApp")
    shown += [repr(failed.value), "".join(traceback.format_exception(failed.value)), repr(vars(failed.value))]
    assert not [text for text in shown if KEY in text]


def test_a_closed_client_leaves_nothing_open() -> None:
    """Warnings are errors here: a socket that is left would be one."""
    with SmsGateway("http://127.0.0.1:8080", KEY):
        pass
    gc.collect()
