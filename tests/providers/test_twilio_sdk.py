"""The Twilio adapter beside Twilio's own SDK: the same request on the wire, and the same callbacks accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twilio.http.http_client import TwilioHttpClient  # type: ignore[import-untyped]
from twilio.request_validator import RequestValidator, get_signature_algorithm  # type: ignore[import-untyped]
from twilio.rest import Client  # type: ignore[import-untyped]

from service.domain.message import Traffic
from service.errors import ForgedReceipt, UnreadableReceipt
from service.hlr.source import HlrAccount
from service.hlr.twilio import TwilioLookup
from service.http import Transport
from service.providers.adapter import Account, Callback, Submission
from service.providers.twilio import Twilio
from service.targets import TargetPolicy
from tests.providers.cases.twilio import ACCOUNT_SID, TOKEN
from tests.providers.recorder import Recorded, Recorder

HEADERS = ("authorization", "content-type", "accept")


class ToRecorder(TwilioHttpClient):  # type: ignore[misc]
    """The SDK's own client, which believes that the recorder is Twilio."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(timeout=10)
        self._recorder = recorder

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        parts = urlsplit(url)
        here = urlsplit(self._recorder.url)
        return super().request(method, parts._replace(scheme=here.scheme, netloc=here.netloc).geturl(), *args, **kwargs)


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    async with Recorder() as made:
        yield made


def on_the_wire(recorded: Recorded) -> tuple[Any, ...]:
    path, _, query = recorded.path.partition("?")
    form = sorted(parse_qsl(recorded.body.decode(), keep_blank_values=True, strict_parsing=bool(recorded.body)))
    headers = {name: recorded.headers[name] for name in HEADERS if name in recorded.headers}
    # In a path `+` and `%2B` are the same.
    return recorded.method, unquote(path), sorted(parse_qsl(query)), headers, form


@pytest.mark.parametrize(
    "credentials", [(ACCOUNT_SID, TOKEN, None), ("SK" + "0123456789abcdef" * 2, "key-secret", ACCOUNT_SID)]
)
@pytest.mark.parametrize("callback_url", ["https://sms.example.com/v1/receipts/twilio/token", None])
@pytest.mark.parametrize("text", ["Your code is 481902.", "{[~\\^|€]}\r\n@£ &=+%00", "Привет 👩‍👩‍👧", "a" * 161])
async def test_a_send_is_the_one_that_the_sdk_makes(
    recorder: Recorder, text: str, callback_url: str | None, credentials: tuple[str, str, str | None]
) -> None:
    username, password, account_sid = credentials
    client = Client(username, password, account_sid, http_client=ToRecorder(recorder))
    await asyncio.to_thread(
        client.messages.create,
        to="+447700900123",
        from_="MyApp",
        body=text,
        validity_period=300,
        **({"status_callback": callback_url} if callback_url else {}),
    )
    api_key = ":".join(part for part in (account_sid, username, password) if part)
    adapter = Twilio(Account("twilio", recorder.url, api_key))
    transport = Transport(TargetPolicy.trusting())
    submission = Submission("+447700900123", "MyApp", text, Traffic.OTP, 300, "key", callback_url)
    await transport.send(adapter.send_request(submission), timeout_s=5)
    await transport.aclose()
    theirs, ours = map(on_the_wire, recorder.requests)
    assert ours == theirs


async def test_a_look_up_is_the_one_that_the_sdk_makes(recorder: Recorder) -> None:
    recorder.status = 200
    client = Client(ACCOUNT_SID, TOKEN, http_client=ToRecorder(recorder))
    await asyncio.to_thread(
        client.lookups.v2.phone_numbers("+447700900123").fetch, fields="line_type_intelligence,line_status"
    )
    source = TwilioLookup(HlrAccount("lookups", recorder.url, f"{ACCOUNT_SID}:{TOKEN}"))
    transport = Transport(TargetPolicy.trusting())
    await transport.send(source.lookup_request("+447700900123"), timeout_s=5)
    await transport.aclose()
    theirs, ours = map(on_the_wire, recorder.requests)
    assert ours == theirs


class Fields(dict[str, list[str]]):
    """Fields as a web framework hands them to the validator."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


SECRET = "webhook-secret"
NAMES = st.sampled_from(["MessageSid", "MessageStatus", "ErrorCode", "To", "a", "A"]) | st.text(max_size=5)
PAIRS = st.lists(st.tuples(NAMES, st.sampled_from(["SM1", "sent", ""]) | st.text(max_size=5)), max_size=6)
URLS = st.sampled_from(
    [
        "https://sms.example.com/v1/receipts/twilio/token",
        "https://sms.example.com:443/a?b=c&d=%20e",
        "https://sms.example.com:8443/a",
        "http://sms.example.com/a?b",
        "http://10.0.0.1:8080/a",
    ]
)
SETTINGS = st.sampled_from(
    [
        "",
        "key=k1,algorithm=HMAC_SHA256",
        "algorithm=hmac_sha1",
        "algorithm=",
        "key=k1",
        " algorithm = HMAC_SHA256 ",
        "x",
    ]
)


@given(pairs=PAIRS, urls=st.tuples(URLS, URLS), settings=st.tuples(SETTINGS, SETTINGS), tampered=st.booleans())
@example(
    pairs=[("MessageSid", "SM1"), ("MessageStatus", "sent"), ("a", "2"), ("a", "1"), ("a", "1")],
    urls=("https://sms.example.com:443/a?b=c&d=%20e", "https://sms.example.com/a?b=c&d=%20e"),
    settings=("key=k1,algorithm=HMAC_SHA256", "algorithm=hmac_sha256"),
    tampered=False,
)
def test_we_accept_the_callbacks_that_the_sdk_accepts_and_no_others(
    pairs: list[tuple[str, str]], urls: tuple[str, str], settings: tuple[str, str], tampered: bool
) -> None:
    """The first URL and settings are those that arrive, the second those that were signed."""
    url, signed_url = urls
    body = urlencode(pairs, errors="replace").encode()
    fields = Fields(parse_qs(body.decode(), keep_blank_values=True))
    theirs = RequestValidator(SECRET)
    signature = theirs.compute_signature(signed_url, fields, get_signature_algorithm(settings[1]))
    if tampered:
        body += b"&a=tampered"
        fields = Fields(parse_qs(body.decode(), keep_blank_values=True))
    expected = theirs.validate(url, fields, signature, get_signature_algorithm(settings[0]))
    headers = {"x-twilio-signature": signature, "x-twilio-webhooks-signature-settings": settings[0]}
    assert accepted(Callback(body, headers, {}, url)) == expected


@given(body=st.text(max_size=20), named=st.booleans(), tampered=st.booleans())
def test_we_accept_the_json_callbacks_that_the_sdk_accepts(body: str, named: bool, tampered: bool) -> None:
    theirs = RequestValidator(SECRET)
    text = body.encode(errors="replace").decode()
    url = "https://sms.example.com/a?bodySHA256=" + (theirs.compute_hash(text) if named else "0" * 64)
    signature = theirs.compute_signature(url, {})
    given_body = text + " " if tampered else text
    expected = theirs.validate(url, given_body, signature)
    headers = {"content-type": "application/json", "x-twilio-signature": signature}
    assert accepted(Callback(given_body.encode(), headers, {}, url)) == expected == (named and not tampered)


def accepted(callback: Callback) -> bool:
    adapter = Twilio(Account("twilio", "https://api.twilio.example", f"{ACCOUNT_SID}:{TOKEN}", SECRET))
    try:
        adapter.receipts(callback, 0)
    except ForgedReceipt:
        return False
    except UnreadableReceipt:
        return True  # genuine, and not a receipt
    return True
