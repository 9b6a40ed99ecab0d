"""How Kannel answers each situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import httpx
from smsutil import is_valid_gsm  # type: ignore[import-untyped]

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.providers.adapter import Account, Callback
from service.providers.kannel import ACCEPTED, STATUSES, TEXTS
from tests.providers.case import Case, Code, OnTheWire

ACCOUNT = Account(name="kannel", base_url="http://kannel.example:13013/", api_key="gateway:password:do-not-show")
URL = "https://sms.example.com/v1/receipts/kannel/token"
REPORT = "?status=%d&at=%T&id=%F&err=%#smpp#dlr_err#"
TEMPORAL_FAILURE = "Temporal failure, try again later."


def read(request: httpx.Request) -> OnTheWire:
    assert request.method == "POST"
    assert request.url == "http://kannel.example:13013/cgi-bin/sendsms"
    headers = request.headers
    assert headers["content-type"] == "text/plain; charset=UTF-8"
    text = request.content.decode()
    assert headers["x-kannel-coding"] == ("0" if is_valid_gsm(text) else "2")
    report = headers.get("x-kannel-dlr-url")
    assert (report is None) == ("x-kannel-dlr-mask" not in headers)
    assert report is None or (report.endswith(REPORT) and headers["x-kannel-dlr-mask"] == "31")
    return OnTheWire(
        to=(headers["x-kannel-to"],),
        sender=headers["x-kannel-from"],
        text=text,
        validity_s=int(headers["x-kannel-validity"]) * 60,
        callback_url=report.removesuffix(REPORT) if report else None,
        idempotency_key=None,
        credential=f"{headers['x-kannel-username']}:{headers['x-kannel-password']}",
    )


def read_nobody(request: httpx.Request) -> str:
    assert request.method == "POST"
    assert request.url == "http://kannel.example:13013/cgi-bin/sendsms"
    headers = request.headers
    assert headers["content-type"] == "text/plain; charset=UTF-8"
    assert "x-kannel-to" not in headers
    assert request.content == b""
    return f"{headers['x-kannel-username']}:{headers['x-kannel-password']}"


def reply(status: int, text: str) -> httpx.Response:
    return httpx.Response(status, text=text, headers={"Content-Type": "text/html", "Server": "Kannel/1.4.5"})


def code_answer(code: Code) -> httpx.Response:
    if isinstance(code, int):
        return reply(code, "<html>")
    return reply(503 if code == TEMPORAL_FAILURE else 403 if code.startswith("Authorization") else 400, code)


ANSWERS: dict[str, tuple[httpx.Response, Outcome]] = {
    "accepted": (reply(202, "0: Accepted for delivery"), Accepted(None)),
    "queued": (reply(202, "3: Queued for later delivery"), Accepted(None)),
    "accepted at once": (reply(202, "Sent."), Accepted(None)),
    "accepted at once, in parts": (reply(202, "Sent. Message splits: 2"), Accepted(None)),
    "accepted, and a line break": (reply(202, "0: Accepted for delivery\r\n"), Accepted(None)),
    "wrong password": (reply(403, "Authorization failed for sendsms"), Refused("credentials", about=About.ACCOUNT)),
    "403 of a proxy": (reply(403, "<html>"), Refused("forbidden")),
    "no route": (reply(403, "Not routable. Do not try again."), Refused("no_route", about=About.RECIPIENT)),
    "on a black list": (
        reply(400, "Number(s) has/have been denied by white- and/or black-lists."),
        Rejected("blocked", about=About.RECIPIENT),
    ),
    "a field that is not understood": (reply(400, "Validity field misformed, rejected"), Refused("unrecognised")),
    "not the address of sendsms": (reply(404, "Unknown request."), Refused("configuration", about=About.ACCOUNT)),
    "a refusal that speaks of acceptance": (reply(400, "0: Accepted for delivery"), Refused("unrecognised")),
    "a 4xx of the text of a 503": (reply(400, TEMPORAL_FAILURE), Unavailable("temporal_failure")),
    "a redirect": (
        httpx.Response(307, headers={"Location": "http://elsewhere.example"}),
        Refused("configuration", about=About.ACCOUNT),
    ),
    "too fast for a proxy": (httpx.Response(429, headers={"Retry-After": "7"}), Throttled()),
    "it cannot now": (reply(503, TEMPORAL_FAILURE), Unavailable("temporal_failure")),
    "503 of a proxy": (reply(503, "no upstream"), Unknown("http_503")),
    "503 that names a refusal": (reply(503, "Authorization failed for sendsms"), Unknown("http_503")),
    "500": (reply(500, "Sending failed."), Unknown("http_500")),
    "500 of the text of a 503": (reply(500, TEMPORAL_FAILURE), Unknown("http_500")),
    "a status outside of HTTP": (httpx.Response(600), Unknown("http_600")),
}

PINNED: dict[Code, Outcome] = {
    "Authorization failed for sendsms": Refused("credentials", about=About.ACCOUNT),
    "Unknown request.": Refused("configuration", about=About.ACCOUNT),
    "Invalid content-type": Refused("configuration", about=About.ACCOUNT),
    "DLR-URL field misformed, rejected": Refused("configuration", about=About.ACCOUNT),
    "Not routable. Do not try again.": Refused("no_route", about=About.RECIPIENT),
    "Sender missing and no global set, rejected": Refused("sender_not_registered", about=About.SENDER),
    "Number(s) has/have been denied by white- and/or black-lists.": Rejected("blocked", about=About.RECIPIENT),
    "Missing receiver(s) number(s), rejected": Rejected("invalid_number", about=About.RECIPIENT),
    "Empty receiver number not allowed, rejected": Rejected("invalid_number", about=About.RECIPIENT),
    "Charset or body misformed, rejected": Rejected("content_rejected"),
    TEMPORAL_FAILURE: Unavailable("temporal_failure"),
    401: Refused("credentials", about=About.ACCOUNT),
    403: Refused("forbidden"),
    404: Refused("configuration", about=About.ACCOUNT),
    405: Refused("configuration", about=About.ACCOUNT),
    408: Unknown("http_408"),
    409: Unknown("http_409"),
    413: Refused("configuration", about=About.ACCOUNT),
    415: Refused("configuration", about=About.ACCOUNT),
    429: Throttled(),
}


def callback(_account: Account, content: bytes, _at_s: float) -> Callback:
    """A GET: the content is the query."""
    return Callback(b"", {"user-agent": "Kannel/1.4.5"}, {}, f"{URL}?{content.decode('latin-1')}")


def report(status: str, at: str = "1800000000", message_id: str = "ID1", error: str = "") -> bytes:
    return f"status={status}&at={at}&id={message_id}&err={error}".encode()


AT = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
DELIVERED = Receipt(ReceiptStatus.DELIVERED, "ID1", occurred_at=AT)
UNDELIVERED = Receipt(ReceiptStatus.UNDELIVERED, "ID1", occurred_at=AT)

CASE = Case(
    account=ACCOUNT,
    secrets=("password:do-not-show",),
    read=read,
    answers=ANSWERS,
    table=frozenset(TEXTS) | frozenset(STATUSES),
    codes=PINNED,
    code_answer=code_answer,
    unknown_code="Your message is in the wrong mood, rejected",
    read_nobody=read_nobody,
    credentials={
        "no receiver": (reply(400, "Missing receiver(s) number(s), rejected"), None),
        "a wrong password": (
            reply(403, "Authorization failed for sendsms"),
            Refused("credentials", about=About.ACCOUNT),
        ),
        "400 that speaks of something else": (reply(400, "Validity field misformed"), Refused("unrecognised")),
        "black-listed": (
            reply(400, "Number(s) has/have been denied by white- and/or black-lists."),
            Refused("unrecognised"),
        ),
        "not the address of sendsms": (reply(404, "Unknown request."), Refused("configuration", about=About.ACCOUNT)),
        "it cannot now": (reply(503, TEMPORAL_FAILURE), Unavailable("temporal_failure")),
    },
    without_id={
        "nothing": httpx.Response(202),
        "no content": httpx.Response(204),
        "garbage": httpx.Response(202, content=b"\x00\xff<html>"),
        "another answer": reply(202, "1: Perhaps"),
        "a cut answer": reply(202, "0: Acc"),
        "a refusal": reply(200, "Authorization failed for sendsms"),
        "the words somewhere else": reply(200, "<b>0: Accepted for delivery</b>"),
    },
    callback=callback,
    receipts={
        "delivered": (report("1"), DELIVERED),
        "undelivered": (report("2"), UNDELIVERED),
        "kept by the SMSC": (report("4"), replace(DELIVERED, status=ReceiptStatus.SENT)),
        "with the SMSC": (report("8"), replace(DELIVERED, status=ReceiptStatus.SENT)),
        "not taken by the SMSC": (
            report("16", message_id=""),
            replace(DELIVERED, status=ReceiptStatus.FAILED, provider_message_id=None),
        ),
        "a status that nobody knows": (report("32"), replace(DELIVERED, status=ReceiptStatus.UNKNOWN)),
        "an error": (report("2", error="%03%00%01"), replace(UNDELIVERED, provider_code="1")),
        "an error that is no UTF-8": (report("2", error="%03%01%FF"), replace(UNDELIVERED, provider_code="511")),
        "no error": (report("1", error="%03%00%00"), DELIVERED),
        "an error of another size": (report("2", error="001"), replace(UNDELIVERED, provider_code="12337")),
        "an error that is too short": (report("2", error="01"), UNDELIVERED),
        "no time": (report("1", at=""), replace(DELIVERED, occurred_at=None)),
        "a time that is none": (report("1", at="2027-01-15"), replace(DELIVERED, occurred_at=None)),
        "only a status": (b"status=1", Receipt(ReceiptStatus.DELIVERED)),
        "an id that PostgreSQL cannot store": (
            report("1", message_id="ID%00"),
            replace(DELIVERED, provider_message_id=None),
        ),
    },
    forge={},
    unreadable={
        "nothing": b"",
        "no status": b"at=1800000000&id=ID1",
        "an empty status": report(""),
        "a status in words": report("delivered"),
        "a status that Kannel has not filled in": report("%d"),
    },
    words=("status", "at", "id", "err", "1", "2", "32", "1800000000", *ACCEPTED, "Sent. Message splits: 2"),
    signs_time=False,
    proves=lambda outcome, body: (
        outcome == Accepted(None)
        and body.strip().startswith((b"0: Accepted for delivery", b"3: Queued for later delivery", b"Sent."))
    ),
    credential_headers=frozenset({"x-kannel-password"}),
)
