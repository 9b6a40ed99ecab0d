"""What only the Twilio adapter does."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from urllib.parse import parse_qs

import pytest

from service.domain.receipt import Receipt, ReceiptStatus
from service.errors import ConfigurationError, ForgedReceipt
from service.providers.adapter import Callback
from service.providers.twilio import Twilio
from tests.providers.cases.twilio import ACCOUNT, ACCOUNT_SID, CASE, SID, TOKEN, URL, callback, sign
from tests.providers.contract import NOW_S, SUBMISSION

SECRET = ACCOUNT.webhook_secret or ""
KEY_SID = "SK" + "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "key",
    [
        "",
        TOKEN,
        ACCOUNT_SID,
        f"{ACCOUNT_SID}:",
        f"{ACCOUNT_SID[:-1]}:{TOKEN}",
        f"{KEY_SID}:{TOKEN}",
        f"{ACCOUNT_SID}:{KEY_SID[:-1]}:{TOKEN}",
        f"{ACCOUNT_SID}:{KEY_SID}:",
        f"{ACCOUNT_SID}:{TOKEN} ",
        f"{ACCOUNT_SID}:clé",
    ],
)
def test_credentials_of_another_form_are_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"twilio.*api_key") as error:
        Twilio(replace(ACCOUNT, api_key=key))
    assert not key or key not in str(error.value)


def test_an_empty_webhook_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"twilio.*webhook_secret"):
        Twilio(replace(ACCOUNT, webhook_secret=""))


def test_an_api_key_signs_in_for_its_account() -> None:
    request = Twilio(replace(ACCOUNT, api_key=f"{ACCOUNT_SID}:{KEY_SID}:secret")).send_request(SUBMISSION)
    assert f"/Accounts/{ACCOUNT_SID}/" in request.url.path
    assert base64.b64decode(request.headers["authorization"].split()[1]).decode() == f"{KEY_SID}:secret"


@pytest.mark.parametrize(("validity_s", "sent"), [(1, "1"), (36_000, "36000"), (36_001, "36000"), (86_400, "36000")])
def test_the_validity_is_at_most_ten_hours(validity_s: int, sent: str) -> None:
    request = Twilio(ACCOUNT).send_request(replace(SUBMISSION, validity_s=validity_s))
    assert parse_qs(request.content.decode())["ValidityPeriod"] == [sent]


def test_the_vector_of_twilios_own_validator_is_accepted() -> None:
    given = Callback(
        body=b"To=%2B15558675310&MessageStatus=delivered&MessageSid=SM1",
        headers={"x-twilio-signature": "b+wdlV1R5szQpsrwMvXjEsTFLtU="},
        query={"mid": "1"},
        url="https://x.example/cb?mid=1",
    )
    (receipt,) = Twilio(replace(ACCOUNT, webhook_secret="12345")).receipts(given, NOW_S)
    assert receipt == Receipt(ReceiptStatus.DELIVERED, "SM1")


@pytest.mark.parametrize(
    ("ours", "signed"),
    [
        ("https://sms.example.com/a", "https://sms.example.com:443/a"),
        ("https://sms.example.com:443/a", "https://sms.example.com/a"),
        ("https://sms.example.com:8443/a", "https://sms.example.com:8443/a"),
        ("https://sms.example.com:8443/a", "https://sms.example.com/a"),
        ("http://sms.example.com/a?b=c:80", "http://sms.example.com:80/a?b=c:80"),
    ],
)
def test_the_url_counts_with_its_port_and_without(ours: str, signed: str) -> None:
    fields = [("MessageSid", SID), ("MessageStatus", "sent")]
    headers = {"x-twilio-signature": sign(SECRET, signed, fields)}
    given = Callback(f"MessageSid={SID}&MessageStatus=sent".encode(), headers, {}, ours)
    assert Twilio(ACCOUNT).receipts(given, NOW_S)


def test_the_public_url_is_the_one_that_is_signed_and_not_that_behind_the_proxy() -> None:
    genuine = callback(ACCOUNT, CASE.receipts["sent"][0], NOW_S)
    with pytest.raises(ForgedReceipt):
        Twilio(ACCOUNT).receipts(replace(genuine, url=URL.replace("https", "http")), NOW_S)


@pytest.mark.parametrize("algorithm", ["HMAC_SHA256", "hmac_sha256"])
def test_a_shared_key_signs_by_sha_256(algorithm: str) -> None:
    fields = [("MessageSid", SID), ("MessageStatus", "sent")]
    settings = {"x-twilio-webhooks-signature-settings": f"key=webhooks_sharedkey_1, algorithm = {algorithm}"}
    body = f"MessageSid={SID}&MessageStatus=sent".encode()
    given = Callback(body, settings | {"x-twilio-signature": sign(SECRET, URL, fields, "sha256")}, {}, URL)
    assert Twilio(ACCOUNT).receipts(given, NOW_S) == [Receipt(ReceiptStatus.SENT, SID)]
    with pytest.raises(ForgedReceipt):
        Twilio(ACCOUNT).receipts(
            replace(given, headers={"x-twilio-signature": sign(SECRET, URL, fields)} | settings), 0
        )


def json_callback(body: bytes, named: str) -> Callback:
    url = f"{URL}?bodySHA256={named}"
    headers = {"content-type": "application/json", "x-twilio-signature": sign(SECRET, url, [])}
    return Callback(body, headers, {"bodySHA256": named}, url)


def test_a_json_body_is_signed_by_its_hash_in_the_url() -> None:
    body = f'{{"MessageSid": "{SID}", "MessageStatus": "sent", "Parts": 1}}'.encode()
    adapter, named = Twilio(ACCOUNT), hashlib.sha256(body).hexdigest()
    assert adapter.receipts(json_callback(body, named), NOW_S) == [Receipt(ReceiptStatus.SENT, SID)]
    for forged in (
        json_callback(body + b" ", named),
        json_callback(body, ""),
        replace(json_callback(body, named), url=URL),
        replace(json_callback(body, named), url=f"{URL}?bodySHA256={named}&a=1"),
    ):
        with pytest.raises(ForgedReceipt):
            adapter.receipts(forged, NOW_S)
