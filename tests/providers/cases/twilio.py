"""How Twilio answers each situation."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import parse_qs, parse_qsl, urlencode

import httpx

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.providers.adapter import Account, Callback
from service.providers.twilio import CODES, STATUSES
from tests.providers.case import Case, Code, OnTheWire

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
TOKEN = "auth-token-do-not-show"
ACCOUNT = Account(
    name="twilio",
    base_url="https://api.twilio.example/",
    api_key=f"{ACCOUNT_SID}:{TOKEN}",
    webhook_secret="webhook-secret-do-not-show",
)
SID = "SM" + "0123456789abcdef" * 2
URL = "https://sms.example.com/v1/receipts/twilio/token"


def read(request: httpx.Request) -> OnTheWire:
    assert request.method == "POST"
    assert request.url == f"https://api.twilio.example/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    fields = parse_qs(request.content.decode(), keep_blank_values=True, strict_parsing=True)
    assert set(fields) <= {"To", "From", "Body", "ValidityPeriod", "StatusCallback"}
    assert all(len(values) == 1 for values in fields.values())
    form = {name: values[0] for name, values in fields.items()}
    return OnTheWire(
        to=(form["To"],),
        sender=form["From"],
        text=form["Body"],
        validity_s=int(form["ValidityPeriod"]),
        callback_url=form.get("StatusCallback"),
        idempotency_key=None,
        credential=base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode(),
    )


def read_nobody(request: httpx.Request) -> str:
    assert request.method == "POST"
    assert request.url == f"https://api.twilio.example/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.content == b"To="
    return base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()


def problem(status: int, code: object = None, **headers: str) -> httpx.Response:
    body = {"code": code, "message": "It is so.", "more_info": f"https://www.twilio.com/docs/errors/{code}"}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body | {"status": status}, headers=names)


def code_answer(code: Code) -> httpx.Response:
    return problem(code) if isinstance(code, int) else problem(400, int(code))


def message(status_code: int = 201, /, **fields: object) -> httpx.Response:
    body = {
        "sid": SID,
        "status": "queued",
        "error_code": None,
        "error_message": None,
        "num_segments": "1",
        "to": "+447700900123",
        "from": "MyApp",
        "body": "Your code is 481902.",
    }
    return httpx.Response(status_code, json=body | fields)


ANSWERS: dict[str, tuple[httpx.Response, Outcome]] = {
    "accepted": (message(), Accepted(SID)),
    "accepted by a messaging service": (message(status="accepted", num_segments="0"), Accepted(SID)),
    "accepted with 200": (message(200), Accepted(SID)),
    "accepted in a state that nobody knows": (message(status="teleported"), Accepted(SID)),
    "dead on arrival": (message(status="failed", error_code=21610), Rejected("opted_out", "21610", about=About.PAIR)),
    "dead on arrival, and nobody says why": (message(status="undelivered"), Refused("unrecognised")),
    "dead on arrival of an unknown cause": (
        message(status="canceled", error_code=99999),
        Refused("unrecognised", "99999"),
    ),
    "a state that is none": (message(status=["failed"]), Accepted(SID)),
    "wrong token": (problem(401, 20003), Refused("credentials", "20003", about=About.ACCOUNT)),
    "wrong token, said by a proxy": (httpx.Response(401, text="<html>"), Refused("credentials", about=About.ACCOUNT)),
    "another code of a 401": (problem(401, 20404), Refused("credentials", "20404", about=About.ACCOUNT)),
    "a wrong account": (problem(404, 20404), Refused("configuration", "20404", about=About.ACCOUNT)),
    "bad number": (problem(400, 21211), Rejected("invalid_number", "21211", about=About.RECIPIENT)),
    "opted out": (problem(400, 21610), Rejected("opted_out", "21610", about=About.PAIR)),
    "unknown subscriber": (problem(400, 30005), Rejected("unknown_subscriber", "30005", 1, About.RECIPIENT)),
    "a country that is not allowed": (problem(403, 21408), Refused("forbidden", "21408", About.RECIPIENT)),
    "an unknown code of a 400": (problem(400, 99999), Refused("unrecognised", "99999")),
    "a code that is a text": (problem(400, "21610"), Refused("unrecognised")),
    "a code that is true": (problem(400, True), Refused("unrecognised")),
    "a code of seven digits": (problem(400, 1_000_000), Refused("unrecognised")),
    "a code below zero": (problem(400, -21610), Refused("unrecognised")),
    "a 4xx nobody documents": (httpx.Response(418), Refused("unrecognised")),
    "a redirect": (
        httpx.Response(307, headers={"Location": "https://elsewhere.example"}),
        Refused("configuration", about=About.ACCOUNT),
    ),
    "429 with Retry-After": (problem(429, 20429, Retry_After="7"), Throttled(7.0)),
    "429 with Retry-After 0": (problem(429, 20429, Retry_After="0"), Throttled(0.0)),
    "429 without Retry-After": (problem(429, 20429, Twilio_Concurrent_Requests="101"), Throttled(None)),
    "429 with a date": (problem(429, 20429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), Throttled(None)),
    "429 with a wait of 30 years": (problem(429, 20429, Retry_After="999999999"), Throttled(86_400.0)),
    "429 that names a code of 400": (problem(429, 21610), Rejected("opted_out", "21610", about=About.PAIR)),
    "429 about one sender": (problem(429, 21611), Throttled(None, About.SENDER)),
    "429 about one sender, with a time": (problem(429, 21611, Retry_After="7"), Throttled(7.0, About.SENDER)),
    "400 about one sender, with a time": (problem(400, 21611, Retry_After="7"), Throttled(7.0, About.SENDER)),
    "429 about two numbers": (problem(429, 14107), Throttled(30.0, About.PAIR)),
    "429 of an unknown code": (problem(429, 99999, Retry_After="7"), Throttled(7.0, About.ACCOUNT)),
    "dead on arrival, for its sender sends too much": (
        message(status="failed", error_code=30001),
        Throttled(None, About.SENDER),
    ),
    "500": (problem(500, 20500), Unknown("http_500")),
    "500 that names a code of 400": (problem(500, 21610), Unknown("http_500")),
    "503": (problem(503, 20503, Retry_After="1"), Unknown("http_503")),
    "a status outside of HTTP": (httpx.Response(600), Unknown("http_600")),
}


def pinned(codes: str, outcome: Rejected | Refused) -> dict[Code, Outcome]:
    return {code: replace(outcome, code=code) for code in codes.split()}


PINNED: dict[Code, Outcome] = {
    **pinned("21211 21214 21217 21265 21401 21614 21635 30006", Rejected("invalid_number", about=About.RECIPIENT)),
    **pinned("21266", Rejected("invalid_number", about=About.PAIR)),
    "30003": Rejected("absent_subscriber", "30003", 27, About.RECIPIENT),
    "30005": Rejected("unknown_subscriber", "30005", 1, About.RECIPIENT),
    **pinned("21612", Refused("no_route", about=About.PAIR)),
    **pinned("21610", Rejected("opted_out", about=About.PAIR)),
    **pinned("30004 30640", Rejected("blocked", about=About.RECIPIENT)),
    **pinned("30610", Rejected("quiet_hours", about=About.RECIPIENT)),
    **pinned("21602 21618 21619 21620 30007", Rejected("content_rejected")),
    **pinned("21617 30019", Rejected("message_too_long")),
    **pinned(
        "21212 21601 21603 21606 21701 21703 21704 21705 30032 30034 30035",
        Refused("sender_not_registered", about=About.SENDER),
    ),
    **pinned("30018 30024", Refused("sender_not_registered", about=About.PAIR)),
    **pinned("30033", Refused("sender_not_registered", about=About.BRAND)),
    **pinned("21408 21608 30450", Refused("forbidden", about=About.RECIPIENT)),
    **pinned("20003", Refused("credentials", about=About.ACCOUNT)),
    **pinned("30002", Refused("suspended", about=About.ACCOUNT)),
    **pinned("21609", Refused("configuration", about=About.ACCOUNT)),
    "20429": Throttled(about=About.ACCOUNT),
    "14107": Throttled(30.0, About.PAIR),
    "21611": Throttled(about=About.SENDER),
    "30001": Throttled(about=About.SENDER),
    "30017": Throttled(about=About.RECIPIENT),
    "30022": Throttled(about=About.BRAND),
    **pinned("30023 30025 30026 30027", Refused("daily_limit", about=About.BRAND)),
    **pinned("63038", Refused("daily_limit", about=About.ACCOUNT)),
    **pinned("30008", Refused("unrecognised")),
    **pinned("30036", Refused("expired")),
    "20500": Unknown("20500"),
    "20503": Unknown("20503"),
    401: Refused("credentials", about=About.ACCOUNT),
    402: Refused("funds", about=About.ACCOUNT),
    403: Refused("forbidden"),
    404: Refused("configuration", about=About.ACCOUNT),
    405: Refused("configuration", about=About.ACCOUNT),
    408: Unknown("http_408"),
    409: Unknown("http_409"),
    413: Refused("configuration", about=About.ACCOUNT),
    415: Refused("configuration", about=About.ACCOUNT),
    429: Throttled(),
}


def sign(secret: str, url: str, fields: Sequence[tuple[str, str]], algorithm: str = "sha1") -> str:
    """By hand. That it is Twilio's way, `test_twilio_sdk.py` asks its own validator."""
    signed = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.new(secret.encode(), signed.encode(), algorithm).digest()).decode()


def callback(account: Account, body: bytes, _at_s: float) -> Callback:
    fields = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
    headers = {
        "content-type": "application/x-www-form-urlencoded; charset=UTF-8",
        "x-twilio-signature": sign(account.webhook_secret or "", URL, fields),
        "i-twilio-idempotency-token": "d0ab1e5e-0000-4000-8000-000000000000",
    }
    return Callback(body, headers, {}, URL)


def with_header(name: str, value: str | None) -> Callable[[Callback], Callback]:
    def change(genuine: Callback) -> Callback:
        headers = {key: text for key, text in genuine.headers.items() if key != name}
        return replace(genuine, headers=headers if value is None else headers | {name: value})

    return change


def another_algorithm(genuine: Callback) -> Callback:
    signed = sign(ACCOUNT.webhook_secret or "", URL, parse_qsl(genuine.body.decode()), "md5")
    settings = {"x-twilio-webhooks-signature-settings": "key=webhooks_sharedkey_1,algorithm=HMAC_MD5"}
    return replace(genuine, headers={**genuine.headers, **settings, "x-twilio-signature": signed})


def receipt_body(**fields: str) -> bytes:
    body = {
        "MessageSid": SID,
        "MessageStatus": "delivered",
        "SmsSid": SID,
        "SmsStatus": "delivered",
        "AccountSid": ACCOUNT_SID,
        "ApiVersion": "2010-04-01",
        "From": "MyApp",
        "To": "+447700900123",
        "RawDlrDoneDate": "2701150800",
        "MessagingServiceSid": "",
    }
    return urlencode(body | fields).encode()


def state(word: str, status: ReceiptStatus) -> dict[str, tuple[bytes, Receipt]]:
    return {word: (receipt_body(MessageStatus=word), Receipt(status, SID))}


def failure(word: str, code: str, receipt: Receipt) -> tuple[bytes, Receipt]:
    return receipt_body(MessageStatus=word, ErrorCode=code), receipt


RECEIPTS: dict[str, tuple[bytes, Receipt]] = {
    **state("delivered", ReceiptStatus.DELIVERED),
    **state("read", ReceiptStatus.DELIVERED),
    **state("queued", ReceiptStatus.SENT),
    **state("accepted", ReceiptStatus.SENT),
    **state("scheduled", ReceiptStatus.SENT),
    **state("sending", ReceiptStatus.SENT),
    **state("sent", ReceiptStatus.SENT),
    **state("undelivered", ReceiptStatus.UNDELIVERED),
    **state("failed", ReceiptStatus.FAILED),
    **state("canceled", ReceiptStatus.FAILED),
    **state("partially_delivered", ReceiptStatus.UNKNOWN),
    **state("received", ReceiptStatus.UNKNOWN),
    "out of reach": failure("undelivered", "30003", Receipt(ReceiptStatus.UNDELIVERED, SID, 27, "30003")),
    "no such number": failure("undelivered", "30005", Receipt(ReceiptStatus.UNDELIVERED, SID, 1, "30005")),
    "a landline": failure("undelivered", "30006", Receipt(ReceiptStatus.UNDELIVERED, SID, None, "30006")),
    "an error of no known cause": failure("failed", "30008", Receipt(ReceiptStatus.FAILED, SID, None, "30008")),
    "too late": failure("failed", "30036", Receipt(ReceiptStatus.FAILED, SID, None, "30036")),
    "a code that is not in the table": failure("failed", "99999", Receipt(ReceiptStatus.FAILED, SID, None, "99999")),
    "an empty code": failure("failed", "", Receipt(ReceiptStatus.FAILED, SID)),
    "a code that is no code": failure("failed", "a\0b", Receipt(ReceiptStatus.FAILED, SID)),
    "only what is needed": (
        urlencode({"MessageSid": SID, "MessageStatus": "sent"}).encode(),
        Receipt(ReceiptStatus.SENT, SID),
    ),
}


CASE = Case(
    account=ACCOUNT,
    secrets=(TOKEN, base64.b64encode(ACCOUNT.api_key.encode()).decode()[-16:], "webhook-secret-do-not-show"),
    read=read,
    answers=ANSWERS,
    table=frozenset(CODES) | frozenset(STATUSES),
    codes=PINNED,
    code_answer=code_answer,
    unknown_code="99999",
    read_nobody=read_nobody,
    credentials={
        "no recipient": (problem(400, 21604), None),
        "a number that is none": (problem(400, 21211), None),
        "no sender": (problem(400, 21603), None),
        "a wrong token": (problem(401, 20003), Refused("credentials", "20003", about=About.ACCOUNT)),
        "a wrong token, said by 400": (problem(400, 20003), Refused("credentials", "20003", about=About.ACCOUNT)),
        "another account": (problem(404, 20404), Refused("configuration", "20404", about=About.ACCOUNT)),
        "400 without a code": (problem(400), Refused("unrecognised")),
        "a rejection by another status": (problem(403, 21211), Refused("unrecognised", "21211")),
        "dead on arrival": (message(status="failed", error_code=21610), Refused("unrecognised", "21610")),
        "the day's volume is used up": (problem(400, 63038), Refused("daily_limit", "63038", About.ACCOUNT)),
        "too fast": (problem(429, 20429), Throttled(None)),
        "too fast, said by 400": (problem(400, 20429), Throttled()),
    },
    without_id={
        "nothing": httpx.Response(201),
        "no content": httpx.Response(204),
        "garbage": httpx.Response(201, content=b"\x00\xff<html>"),
        "cut JSON": httpx.Response(201, content=b'{"sid": "SM0123'),
        "a list": httpx.Response(201, json=[SID]),
        "no id": httpx.Response(201, json={"status": "queued"}),
        "an empty id": message(sid=""),
        "a null id": message(sid=None),
        "a number as id": message(sid=7),
        "an id of 129 characters": message(sid="x" * 129),
        "an id that PostgreSQL cannot store": message(sid="SM\0"),
        "JSON nested too deeply": httpx.Response(201, content=b"[" * 100_000),
    },
    callback=callback,
    receipts=RECEIPTS,
    forge={
        "no signature": with_header("x-twilio-signature", None),
        "an empty signature": with_header("x-twilio-signature", ""),
        "a wrong signature": with_header("x-twilio-signature", base64.b64encode(b"0" * 20).decode()),
        "a signature that is not ASCII": with_header("x-twilio-signature", "é"),
        "a signature that is not Unicode": with_header("x-twilio-signature", "\ud800"),
        "another body": lambda genuine: replace(genuine, body=genuine.body.replace(b"delivered", b"failed")),
        "a field more": lambda genuine: replace(genuine, body=genuine.body + b"&ErrorCode=30005"),
        "an empty field more": lambda genuine: replace(genuine, body=genuine.body + b"&ErrorCode="),
        "a body that is not UTF-8": lambda genuine: replace(genuine, body=b"\xff"),
        "another URL": lambda genuine: replace(genuine, url=genuine.url + "2"),
        "another host": lambda genuine: replace(genuine, url=genuine.url.replace("sms.example", "sms2.example")),
        "a query": lambda genuine: replace(genuine, url=genuine.url + "?a=1"),
        "another algorithm than it was signed with": with_header(
            "x-twilio-webhooks-signature-settings", "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
        ),
        "an algorithm that we do not know": another_algorithm,
        "said to be JSON": with_header("content-type", "application/json"),
    },
    unreadable={
        "nothing": b"",
        "JSON": b'{"MessageSid": "SM1", "MessageStatus": "delivered"}',
        "no message id": b"MessageStatus=delivered",
        "an empty message id": b"MessageSid=&MessageStatus=delivered",
        "no status": b"MessageSid=SM1",
        "an empty status": b"MessageSid=SM1&MessageStatus=",
        "an id that PostgreSQL cannot store": b"MessageSid=SM%00&MessageStatus=delivered",
    },
    words=(
        "sid",
        "code",
        "status",
        "error_code",
        "MessageSid",
        "MessageStatus",
        "ErrorCode",
        "delivered",
        SID,
        "30005",
    ),
    signs_time=False,
    # Twilio has no answer that proves that it is down and has taken nothing.
    never=frozenset({Unavailable}),
)
