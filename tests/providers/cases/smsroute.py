"""How smsroute answers each situation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import httpx

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.providers.adapter import Account, Callback
from service.providers.smsroute import CODES, NOTHING_STORED, STATUSES
from tests.providers.case import FIRST, SECOND, Bulk, BulkResult, Case, Code, OnTheWire

KEY = b"a signing key of 24 bytes"
ACCOUNT = Account(
    name="primary",
    base_url="https://api.smsroute.example/",
    api_key="sk_live_do_not_show",
    webhook_secret="whsec_" + base64.b64encode(KEY).decode(),
)


def read(request: httpx.Request) -> OnTheWire:
    body = json.loads(request.content)
    bulk = "recipients" in body
    assert request.method == "POST"
    assert request.url == f"https://api.smsroute.example/v1/send{'/bulk' if bulk else ''}"
    assert request.headers["content-type"] == "application/json"
    allowed = {"from", "message", "validity_period", "callback_url", "recipients" if bulk else "to"}
    assert set(body) <= allowed, "smsroute refuses a field that it does not know"
    assert None not in body.values(), "what is not set is left out"
    return OnTheWire(
        to=tuple(body["recipients"]) if bulk else (body["to"],),
        sender=body["from"],
        text=body["message"],
        validity_s=body["validity_period"],
        callback_url=body.get("callback_url"),
        idempotency_key=request.headers["idempotency-key"],
        credential=request.headers["authorization"].removeprefix("Bearer "),
    )


def read_nobody(request: httpx.Request) -> str:
    assert request.method == "POST"
    assert request.url == "https://api.smsroute.example/v1/send"
    assert request.headers["content-type"] == "application/json"
    assert request.content == b"{}"
    return request.headers["authorization"].removeprefix("Bearer ")


def problem(status: int, code: str | None = None, **headers: str) -> httpx.Response:
    body = {"type": "about:blank", "status": status, "code": code, "detail": "Do this.", "request_id": "r1"}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers=names | {"content-type": "application/problem+json"})


def code_answer(code: Code) -> httpx.Response:
    if code in NOTHING_STORED:
        return problem(503, str(code))
    return problem(code) if isinstance(code, int) else problem(422, code)


ANSWERS: dict[str, tuple[httpx.Response, Outcome]] = {
    "accepted": (httpx.Response(200, json={"message_id": "msg_7", "status": "queued"}), Accepted("msg_7")),
    "accepted with 202": (httpx.Response(202, json={"message_id": "msg_7"}), Accepted("msg_7")),
    "a replay of the first answer": (
        httpx.Response(200, json={"message_id": "msg_7"}, headers={"Idempotency-Replayed": "true"}),
        Accepted("msg_7"),
    ),
    "the longest id": (httpx.Response(200, json={"message_id": "x" * 128}), Accepted("x" * 128)),
    "wrong key": (problem(401, "unauthorized"), Refused("credentials", "unauthorized", about=About.ACCOUNT)),
    "wrong key, said by a proxy": (httpx.Response(401, text="<html>"), Refused("credentials", about=About.ACCOUNT)),
    "the code counts more than the status": (
        problem(403, "recipient_opted_out"),
        Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT),
    ),
    "an unknown code of a 400": (problem(400, "not_json"), Refused("unrecognised", "not_json")),
    "a code that is no code": (httpx.Response(422, json={"code": {"a": [1]}}), Refused("unrecognised")),
    "a code with a control character": (httpx.Response(422, json={"code": "a\0b"}), Refused("unrecognised")),
    "a 4xx nobody documents": (httpx.Response(418), Refused("unrecognised")),
    "a redirect": (
        httpx.Response(307, headers={"Location": "https://elsewhere.example"}),
        Refused("configuration", about=About.ACCOUNT),
    ),
    "429 with Retry-After": (problem(429, "rate_limited", Retry_After="7"), Throttled(7.0)),
    "429 that names a code": (
        problem(429, "unknown_sender", Retry_After="7"),
        Refused("sender_not_registered", "unknown_sender", About.SENDER),
    ),
    "429 with Retry-After 0": (problem(429, "rate_limited", Retry_After="0"), Throttled(0.0)),
    "429 without Retry-After": (problem(429, "rate_limited"), Throttled(None)),
    "429 with a date": (problem(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), Throttled(None)),
    "429 with a negative wait": (problem(429, Retry_After="-1"), Throttled(None)),
    "429 with another script's digits": (
        httpx.Response(429, headers=[(b"Retry-After", "٣".encode())]),
        Throttled(None),
    ),
    "429 with a wait of 30 years": (problem(429, Retry_After="999999999"), Throttled(86_400.0)),
    "429 with a wait of 200 digits": (problem(429, Retry_After="9" * 200), Throttled(None)),
    "overloaded": (problem(503, "overloaded", Retry_After="1"), Unavailable("overloaded")),
    "commit unknown": (problem(503, "commit_unknown", Retry_After="1"), Unknown("http_503")),
    "503 of a proxy": (httpx.Response(503, text="no upstream"), Unknown("http_503")),
    "500": (problem(500, "internal"), Unknown("http_500")),
    "500 that names a proof of 503": (problem(500, "overloaded"), Unknown("http_500")),
    "500 that names a code of 422": (problem(500, "invalid_number"), Unknown("http_500")),
    "502": (httpx.Response(502, text="bad gateway"), Unknown("http_502")),
    "504": (httpx.Response(504), Unknown("http_504")),
    "a status outside of HTTP": (httpx.Response(600), Unknown("http_600")),
}

BULK_ERRORS: dict[str, Outcome] = {
    "number_too_short": Rejected("invalid_number", "number_too_short", about=About.RECIPIENT),
    "recipient_opted_out": Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT),
    "duplicate_recipient": Rejected("duplicate_recipient", "duplicate_recipient"),
    "unknown_sender": Refused("sender_not_registered", "unknown_sender", About.SENDER),
    "never_seen": Refused("unrecognised", "never_seen"),
}

PINNED: dict[Code, Outcome] = {
    "invalid_number": Rejected("invalid_number", "invalid_number", about=About.RECIPIENT),
    "number_missing_plus": Rejected("invalid_number", "number_missing_plus", about=About.RECIPIENT),
    "number_bad_characters": Rejected("invalid_number", "number_bad_characters", about=About.RECIPIENT),
    "number_unknown_country_code": Rejected("invalid_number", "number_unknown_country_code", about=About.RECIPIENT),
    "number_too_short": Rejected("invalid_number", "number_too_short", about=About.RECIPIENT),
    "number_too_long": Rejected("invalid_number", "number_too_long", about=About.RECIPIENT),
    "recipient_opted_out": Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT),
    "content_rejected": Rejected("content_rejected", "content_rejected"),
    "message_too_long": Rejected("message_too_long", "message_too_long"),
    "duplicate_recipient": Rejected("duplicate_recipient", "duplicate_recipient"),
    "no_valid_recipients": Rejected("invalid_number", "no_valid_recipients"),
    "unknown_sender": Refused("sender_not_registered", "unknown_sender", About.SENDER),
    "sender_not_registered": Refused("sender_not_registered", "sender_not_registered", About.SENDER),
    "traffic_mismatch": Refused("sender_not_registered", "traffic_mismatch", About.SENDER),
    "insufficient_funds": Refused("funds", "insufficient_funds", about=About.ACCOUNT),
    "idempotency_key_reused": Unknown("idempotency_key_reused"),
    "overloaded": Unavailable("overloaded"),
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


def callback(account: Account, body: bytes, at_s: float) -> Callback:
    """Signed by hand, so that the library's signature is not checked against itself."""
    signed = b"evt_1.%d." % int(at_s) + body
    key = base64.b64decode((account.webhook_secret or "").removeprefix("whsec_"))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    headers = {
        "content-type": "application/json",
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at_s)),
        "webhook-signature": f"v1,{signature}",
    }
    return Callback(body, headers, {}, "https://sms.example.com/v1/receipts/primary/token")


def with_header(name: str, value: str | None) -> Callable[[Callback], Callback]:
    def change(genuine: Callback) -> Callback:
        headers = {key: text for key, text in genuine.headers.items() if key != name}
        return replace(genuine, headers=headers if value is None else headers | {name: value})

    return change


def receipt_body(**fields: object) -> bytes:
    body = {
        "type": "message.delivered",
        "message_id": "msg_7",
        "status": "delivered",
        "delivered_at": "2027-01-15T08:00:00.250Z",
        "error_code": 0,
        "reason": None,
        "to": "+447700900123",
        "from": "MyApp",
        "reference": None,
        "batch_id": None,
        "segments": 1,
    }
    return json.dumps(body | fields).encode()


AT = datetime(2027, 1, 15, 8, 0, 0, 250_000, tzinfo=UTC)
DELIVERED = Receipt(ReceiptStatus.DELIVERED, "msg_7", error_code=0, occurred_at=AT)
FAILED = {"status": "failed", "delivered_at": None}

RECEIPTS: dict[str, tuple[bytes, Receipt]] = {
    "delivered": (receipt_body(), DELIVERED),
    "delivered, in another time zone": (receipt_body(delivered_at="2027-01-15T13:30:00.250+05:30"), DELIVERED),
    "delivered at no time zone": (
        receipt_body(delivered_at="2027-01-15T08:00:00"),
        replace(DELIVERED, occurred_at=None),
    ),
    "delivered at no time": (receipt_body(delivered_at="soon"), replace(DELIVERED, occurred_at=None)),
    "delivered before all time": (
        receipt_body(delivered_at="0001-01-01T00:00:00+14:00"),
        replace(DELIVERED, occurred_at=None),
    ),
    "undelivered": (
        receipt_body(status="undelivered", delivered_at=None, error_code=27, reason="absent_subscriber"),
        Receipt(ReceiptStatus.UNDELIVERED, "msg_7", error_code=27, provider_code="absent_subscriber"),
    ),
    "failed, and nothing said of the error": (
        receipt_body(**FAILED, error_code=None),
        Receipt(ReceiptStatus.FAILED, "msg_7", error_code=None),
    ),
    "an error that is true": (receipt_body(**FAILED, error_code=True), Receipt(ReceiptStatus.FAILED, "msg_7")),
    "an error that is not of MAP": (receipt_body(**FAILED, error_code=4711), Receipt(ReceiptStatus.FAILED, "msg_7")),
    "an error below zero": (receipt_body(**FAILED, error_code=-1), Receipt(ReceiptStatus.FAILED, "msg_7")),
    "a reason that is no code": (
        receipt_body(**FAILED, error_code=1, reason="a\0b"),
        Receipt(ReceiptStatus.FAILED, "msg_7", 1),
    ),
    "only what smsroute documents": (
        b'{"message_id": "msg_7", "status": "delivered"}',
        Receipt(ReceiptStatus.DELIVERED, "msg_7"),
    ),
    "a status that nobody knows": (
        receipt_body(status="teleported", error_code=None),
        Receipt(ReceiptStatus.UNKNOWN, "msg_7", occurred_at=AT),
    ),
}


def bulk_reply(results: Sequence[BulkResult]) -> httpx.Response:
    return bulk_items(*(bulk_item(*result) for result in results))


def bulk_item(to: str, message_id: str | None, code: str | None) -> dict[str, object]:
    return {"to": to, "message_id": message_id} if message_id else {"to": to, "error": {"code": code, "detail": "No."}}


def bulk_items(*items: dict[str, object]) -> httpx.Response:
    return httpx.Response(200, json={"batch_id": "bat_1", "accepted": 1, "rejected": 1, "results": items})


def all_bad(*errors: object, code: str = "no_valid_recipients") -> httpx.Response:
    return httpx.Response(422, json={"code": code, "errors": errors})


def half_readable(**first: object) -> httpx.Response:
    return bulk_items({"to": FIRST, **first}, {"to": SECOND, "message_id": "id-2"})


CASE = Case(
    account=ACCOUNT,
    secrets=(ACCOUNT.api_key, base64.b64encode(KEY).decode()),
    read=read,
    answers=ANSWERS,
    table=frozenset(CODES) | frozenset(STATUSES) | NOTHING_STORED,
    codes=PINNED,
    code_answer=code_answer,
    unknown_code="never_seen",
    read_nobody=read_nobody,
    credentials={
        "a body that lacks something": (problem(422, "invalid_request"), None),
        "the same by another status": (problem(400, "missing_field"), None),
        "a number that is none": (problem(422, "invalid_number"), None),
        "a wrong key": (problem(401, "unauthorized"), Refused("credentials", "unauthorized", about=About.ACCOUNT)),
        "a key that may not send": (problem(403, "scope_missing"), Refused("forbidden", "scope_missing")),
        "no money": (problem(422, "insufficient_funds"), Refused("funds", "insufficient_funds", about=About.ACCOUNT)),
        "422 without a code": (problem(422), Refused("unrecognised")),
        "a rejection by another status": (problem(403, "invalid_number"), Refused("unrecognised", "invalid_number")),
        "too fast": (problem(429, "rate_limited", Retry_After="7"), Throttled(7.0)),
        "overloaded": (problem(503, "overloaded"), Unavailable("overloaded")),
    },
    without_id={
        "nothing": httpx.Response(200),
        "no content": httpx.Response(204),
        "garbage": httpx.Response(200, content=b"\x00\xff<html>"),
        "cut JSON": httpx.Response(200, content=b'{"message_id": "msg_7'),
        "a list": httpx.Response(200, json=["msg_7"]),
        "no id": httpx.Response(200, json={"status": "queued"}),
        "an empty id": httpx.Response(200, json={"message_id": ""}),
        "a null id": httpx.Response(200, json={"message_id": None}),
        "a number as id": httpx.Response(200, json={"message_id": 7}),
        "an id of 129 characters": httpx.Response(200, json={"message_id": "x" * 129}),
        "an id that PostgreSQL cannot store": httpx.Response(200, json={"message_id": "msg\0"}),
        "JSON nested too deeply": httpx.Response(200, content=b"[" * 100_000),
    },
    callback=callback,
    receipts=RECEIPTS,
    forge={
        "no signature": with_header("webhook-signature", None),
        "an empty signature": with_header("webhook-signature", ""),
        "a wrong signature": with_header("webhook-signature", "v1," + base64.b64encode(b"0" * 32).decode()),
        "a signature that is not ASCII": with_header("webhook-signature", "v1,é"),
        "a signature that is not Unicode": with_header("webhook-signature", "\ud800"),
        "no id": with_header("webhook-id", None),
        "another id": with_header("webhook-id", "evt_2"),
        "no timestamp": with_header("webhook-timestamp", None),
        "another timestamp": with_header("webhook-timestamp", "1800000001"),
        "a timestamp in words": with_header("webhook-timestamp", "now"),
        "another body": lambda genuine: replace(genuine, body=genuine.body.replace(b"msg_7", b"msg_8")),
        "a body that is not UTF-8": lambda genuine: replace(genuine, body=b"\xff"),
    },
    unreadable={
        "nothing": b"",
        "not JSON": b"status=delivered",
        "a list": b"[]",
        "no message id": b'{"status": "delivered"}',
        "no status": b'{"message_id": "msg_7"}',
        "a number as status": b'{"message_id": "msg_7", "status": 1}',
        "an id that PostgreSQL cannot store": b'{"message_id": "msg\\u0000", "status": "delivered"}',
    },
    words=(
        "message_id",
        "code",
        "status",
        "results",
        "to",
        "error",
        "error_code",
        "delivered_at",
        "overloaded",
        "delivered",
    ),
    bulk=Bulk(
        reply=bulk_reply,
        errors=BULK_ERRORS,
        all_bad={
            "each in its own way": (
                all_bad(
                    {"field": "recipients.1", "code": "recipient_opted_out"},
                    {"field": "recipients.0", "code": "number_too_long"},
                ),
                Rejected("invalid_number", "number_too_long", about=About.RECIPIENT),
                Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT),
            ),
            "not said of each": (
                all_bad({"field": "recipients.1", "code": "recipient_opted_out"}, "no", {}, {"field": []}),
                Rejected("invalid_number", "no_valid_recipients"),
                Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT),
            ),
            "said without a code": (
                all_bad({"field": "recipients.0"}),
                Rejected("invalid_number", "no_valid_recipients"),
                Rejected("invalid_number", "no_valid_recipients"),
            ),
            "not a refusal of the recipients": (
                all_bad({"field": "recipients.0", "code": "string_type"}, code="invalid_request"),
                Refused("unrecognised", "invalid_request"),
                Refused("unrecognised", "invalid_request"),
            ),
        },
        half_readable={
            "neither id nor error": half_readable(),
            "a number as id": half_readable(message_id=7),
            "an id and an error": half_readable(message_id="id-1", error={"code": "invalid_number"}),
            "an error in words": half_readable(error="no"),
            "an error without a code": half_readable(error={"detail": "no"}),
        },
    ),
)
