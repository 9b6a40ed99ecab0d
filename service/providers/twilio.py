"""Twilio Programmable Messaging, API 2010-04-01 (https://www.twilio.com/docs/messaging/api/message-resource).

It knows no idempotency key, so an unknown outcome is never repeated to it. Twilio asks not to rely on its error codes,
because they change: so they are data here, and of a code that is not in the table only the HTTP status counts. A code
that is in the table counts more than its status, a 429 too: the rate may be that of one sender or of one pair.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import orjson

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.errors import ConfigurationError, ForgedReceipt, UnreadableReceipt
from service.providers.adapter import Account, Callback, Capabilities, Doubt, Submission, doubt

# What an error code means when a send is answered with it, and of whom else it speaks: from its pages
# twilio.com/docs/api/errors/CODE, as of 2026. Receipts carry the same codes: of those only the GSM MAP error is taken.
CODES: Final[Mapping[str, Outcome]] = {
    # the recipient
    "21211": Rejected("invalid_number", about=About.RECIPIENT),
    "21214": Rejected("invalid_number", about=About.RECIPIENT),
    "21217": Rejected("invalid_number", about=About.RECIPIENT),
    "21265": Rejected("invalid_number", about=About.RECIPIENT),  # a short code
    "21266": Rejected("invalid_number", about=About.PAIR),  # the sender itself
    "21401": Rejected("invalid_number", about=About.RECIPIENT),
    "21614": Rejected("invalid_number", about=About.RECIPIENT),  # not a mobile
    "21635": Rejected("invalid_number", about=About.RECIPIENT),  # a landline
    "30003": Rejected("absent_subscriber", error_code=27, about=About.RECIPIENT),
    "30005": Rejected("unknown_subscriber", error_code=1, about=About.RECIPIENT),
    "30006": Rejected("invalid_number", about=About.RECIPIENT),  # a landline, or a carrier out of reach
    # not reachable from this sender, which other providers may know to do
    "21612": Refused("no_route", about=About.PAIR),
    # consent
    "21610": Rejected("opted_out", about=About.PAIR),
    "30004": Rejected("blocked", about=About.RECIPIENT),
    # going round it by another provider would break the same law
    "30610": Rejected("quiet_hours", about=About.RECIPIENT),
    "30640": Rejected("blocked", about=About.RECIPIENT),  # a known litigator
    # the content
    "21602": Rejected("content_rejected"),
    "21617": Rejected("message_too_long"),
    "21618": Rejected("content_rejected"),
    "21619": Rejected("content_rejected"),
    "21620": Rejected("content_rejected"),
    "30007": Rejected("content_rejected"),
    "30019": Rejected("message_too_long"),
    # the sender and its registration, which some networks want and others do not (`PAIR`)
    "21212": Refused("sender_not_registered", about=About.SENDER),
    "21601": Refused("sender_not_registered", about=About.SENDER),
    "21603": Refused("sender_not_registered", about=About.SENDER),
    "21606": Refused("sender_not_registered", about=About.SENDER),
    "21701": Refused("sender_not_registered", about=About.SENDER),
    "21703": Refused("sender_not_registered", about=About.SENDER),
    "21704": Refused("sender_not_registered", about=About.SENDER),
    "21705": Refused("sender_not_registered", about=About.SENDER),
    "30018": Refused("sender_not_registered", about=About.PAIR),
    "30024": Refused("sender_not_registered", about=About.PAIR),
    "30032": Refused("sender_not_registered", about=About.SENDER),  # toll-free, not verified
    "30033": Refused("sender_not_registered", about=About.BRAND),  # its 10DLC campaign is suspended
    "30034": Refused("sender_not_registered", about=About.SENDER),  # not on a 10DLC campaign
    "30035": Refused("sender_not_registered", about=About.SENDER),  # not yet ready
    "21408": Refused("forbidden", about=About.RECIPIENT),  # the account may not send to this country
    "21608": Refused("forbidden", about=About.RECIPIENT),  # a trial account sends to verified numbers only
    "30450": Refused("forbidden", about=About.RECIPIENT),  # taken for SMS pumping
    # the account
    "20003": Refused("credentials", about=About.ACCOUNT),
    "30002": Refused("suspended", about=About.ACCOUNT),
    "21609": Refused(
        "configuration", about=About.ACCOUNT
    ),  # our public URL: no underscore in its host, 4,000 characters
    # the rate
    "20429": Throttled(about=About.ACCOUNT),
    "14107": Throttled(30.0, About.PAIR),  # a loop of messages between two numbers: they rest for 30 s
    "21611": Throttled(about=About.SENDER),  # 10 hours of its rate are queued
    "30001": Throttled(about=About.SENDER),  # the same, of the sender in the pool of a messaging service
    "30017": Throttled(about=About.RECIPIENT),  # its network is congested
    "30022": Throttled(about=About.BRAND),  # the rate of its 10DLC campaign
    # the day's volume: until midnight there is no use in waiting. T-Mobile counts a brand, Twilio the account.
    "30023": Refused("daily_limit", about=About.BRAND),
    "30025": Refused("daily_limit", about=About.BRAND),
    "30026": Refused("daily_limit", about=About.BRAND),
    "30027": Refused("daily_limit", about=About.BRAND),
    "63038": Refused("daily_limit", about=About.ACCOUNT),
    # certainly not sent, but nobody says why
    "30008": Refused("unrecognised"),
    "30036": Refused("expired"),  # its validity ran out at Twilio
    # Twilio itself
    "20500": Unknown("20500"),
    "20503": Unknown("20503"),
}

# What a 4xx means when its code is not in the table. Any other 4xx still says "not accepted": `unrecognised`.
STATUSES: Final[Mapping[int, Outcome]] = {
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

# How a form that lacks something is refused.
INVALID: Final = 400

# The states in which a message can be born dead: no callback will come for what the answer has said already.
BORN_DEAD: Final = frozenset({"failed", "undelivered", "canceled"})

# The first four come before the carrier has it. They count as `sent` because they prove that Twilio has accepted.
RECEIPT_STATUSES: Final[Mapping[str, ReceiptStatus]] = {
    "queued": ReceiptStatus.SENT,
    "accepted": ReceiptStatus.SENT,
    "scheduled": ReceiptStatus.SENT,
    "sending": ReceiptStatus.SENT,
    "sent": ReceiptStatus.SENT,
    "delivered": ReceiptStatus.DELIVERED,
    "read": ReceiptStatus.DELIVERED,
    "undelivered": ReceiptStatus.UNDELIVERED,
    "failed": ReceiptStatus.FAILED,
    "canceled": ReceiptStatus.FAILED,
}

ALGORITHMS: Final = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}

MAX_VALIDITY_S: Final = 36_000
MAX_RETRY_AFTER_S: Final = 86_400

_CREDENTIALS: Final = re.compile(r"(AC[0-9a-fA-F]{32}):(?:(SK[0-9a-fA-F]{32}):)?([\x21-\x39\x3b-\x7e]+)")
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_CODE: Final = re.compile(r"[0-9]{1,6}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")


class Twilio:
    """One account at Twilio. See `service.providers.adapter.Adapter` for the contract of each method.

    `api_key` is `AC...:auth token` or `AC...:SK...:secret`. `webhook_secret` is what Twilio signs callbacks with: the
    account's auth token, or the secret of a shared key.

    Raises:
        ConfigurationError: the API key has neither form, or the webhook secret is empty.
    """

    capabilities = Capabilities(validity_period=True)

    def __init__(self, account: Account) -> None:
        credentials = _CREDENTIALS.fullmatch(account.api_key)
        if credentials is None:
            raise ConfigurationError(
                f"provider account {account.name}: `api_key` must be `AC...:auth token` or `AC...:SK...:secret`"
            )
        if account.webhook_secret == "":
            raise ConfigurationError(f"provider account {account.name}: `webhook_secret` must not be empty")
        sid, key_sid, secret = credentials.groups()
        self._url = f"{account.base_url.rstrip('/')}/2010-04-01/Accounts/{sid}/Messages.json"
        basic = b64encode(f"{key_sid or sid}:{secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}", "Accept": "application/json"}
        self._secret = account.webhook_secret

    def send_request(self, submission: Submission) -> httpx.Request:
        """`POST Messages.json`, as a form: Twilio takes no JSON here."""
        form = {
            "To": submission.to,
            "From": submission.sender,
            "Body": submission.text,
            "ValidityPeriod": str(min(submission.validity_s, MAX_VALIDITY_S)),
        }
        if submission.callback_url is not None:
            form["StatusCallback"] = submission.callback_url
        return httpx.Request("POST", self._url, headers=self._headers, data=form)

    def send_outcome(self, response: httpx.Response) -> Outcome:
        """A 2xx is accepted only with a `sid`, and not when the message is dead already."""
        reply = _object(response.content)
        if not response.is_success:
            return _problem(response, _code(reply.get("code")))
        if str(reply.get("status")) in BORN_DEAD:
            return _by_code(_code(reply.get("error_code")), Refused("unrecognised"))
        sid = reply.get("sid")
        return Accepted(sid) if isinstance(sid, str) and _ID.fullmatch(sid) else Unknown("unreadable_reply")

    def credentials_request(self) -> httpx.Request:
        """`POST Messages.json` to nobody. Not `GET` of the account: Standard and Restricted keys may not."""
        return httpx.Request("POST", self._url, headers=self._headers, data={"To": ""})

    def credentials_verdict(self, response: httpx.Response) -> Doubt | None:
        """A 400 with a code. Which code it is may change, like all of them."""
        match self.send_outcome(response):
            case Rejected(code=str()) | Refused(code=str()) as outcome if (
                response.status_code == INVALID and outcome.about is not About.ACCOUNT
            ):
                return None
            case outcome:
                return doubt(outcome)

    def receipts(self, callback: Callback, now_s: float) -> list[Receipt]:  # noqa: ARG002 - nothing in it tells its age
        """One receipt a callback. Its only time has no time zone, so none is taken from it.

        Twilio signs no time either, so a callback can be replayed. That is harmless: a receipt counts once.
        """
        fields = _fields(callback)
        if self._secret is not None:
            _verify(self._secret, callback, fields)
        body = dict(fields)
        message_id, status, code = body.get("MessageSid", ""), body.get("MessageStatus"), body.get("ErrorCode", "")
        if not _ID.fullmatch(message_id) or not status:
            raise UnreadableReceipt("the callback has no MessageSid or no MessageStatus")
        return [
            Receipt(
                status=RECEIPT_STATUSES.get(status, ReceiptStatus.UNKNOWN),
                provider_message_id=message_id,
                error_code=getattr(CODES.get(code), "error_code", None),
                provider_code=code if _CODE.fullmatch(code) else None,
            )
        ]


def _problem(response: httpx.Response, code: str | None) -> Outcome:
    """What an answer other than a 2xx means."""
    status = response.status_code
    if 400 <= status < 500:  # noqa: PLR2004 - the classes of HTTP status
        outcome = _by_code(code, STATUSES.get(status, Refused("unrecognised")))
        asked_s = _retry_after_s(response)
        return (
            outcome
            if asked_s is None or not isinstance(outcome, Throttled)
            else replace(outcome, retry_after_s=asked_s)
        )
    if response.is_redirect:
        return Refused("configuration", about=About.ACCOUNT)
    return Unknown(f"http_{status}")


def _by_code(code: str | None, otherwise: Outcome) -> Outcome:
    """The outcome with Twilio's code kept beside our reason."""
    outcome = CODES.get(code or "", otherwise)
    return replace(outcome, code=code) if isinstance(outcome, Rejected | Refused) else outcome


def _code(value: object) -> str | None:
    """JSON has it as a number. Note that JSON's `true` is an int in Python."""
    return str(value) if type(value) is int and _CODE.fullmatch(str(value)) else None


def _retry_after_s(response: httpx.Response) -> float | None:
    """Whole seconds only. The other form of RFC 9110, a date, would need a clock; Twilio documents neither."""
    value = response.headers.get("Retry-After", "")
    return float(min(int(value), MAX_RETRY_AFTER_S)) if _DIGITS.fullmatch(value) else None


def _fields(callback: Callback) -> list[tuple[str, str]]:
    """The fields of a callback. Twilio sends a form; a JSON body is what its validator allows besides."""
    if _is_json(callback):
        return [(name, value) for name, value in _object(callback.body).items() if isinstance(value, str)]
    try:
        # An empty field is signed by its name, so it must not be dropped.
        return parse_qsl(callback.body.decode(), keep_blank_values=True)
    except ValueError:
        raise ForgedReceipt("the callback is no form") from None


def _is_json(callback: Callback) -> bool:
    return callback.headers.get("content-type", "").startswith("application/json")


def _verify(secret: str, callback: Callback, fields: list[tuple[str, str]]) -> None:
    """Check the signature over the public URL and the fields, as Twilio's own `RequestValidator` does.

    The header that names the algorithm came later; without it the signature is HMAC-SHA1. The body of a JSON callback
    is signed by its hash in the URL.
    """
    algorithm = ALGORITHMS.get(_algorithm(callback.headers.get("x-twilio-webhooks-signature-settings", "")))
    if algorithm is None:
        raise ForgedReceipt("the signature's algorithm is not known")
    if _is_json(callback):
        named = parse_qs(urlsplit(callback.url).query).get("bodySHA256", [""])[0]
        if not _same(hashlib.sha256(callback.body).hexdigest(), named):
            raise ForgedReceipt("the hash of the body is missing or wrong")
        fields = []
    signed = "".join(name + value for name, value in sorted(set(fields)))
    given = callback.headers.get("x-twilio-signature", "")
    for url in _urls(callback.url):
        digest = hmac.digest(secret.encode(), (url + signed).encode(), algorithm)
        if _same(b64encode(digest).decode(), given):
            return
    raise ForgedReceipt("no x-twilio-signature matches")


def _algorithm(settings: str) -> str:
    """The `algorithm` of `key=...,algorithm=HMAC_SHA256`."""
    pairs = (part.partition("=") for part in settings.split(","))
    named = [value.strip() for name, _, value in pairs if name.strip() == "algorithm" and value.strip()]
    return named[0].upper() if named else "HMAC_SHA1"


def _urls(url: str) -> tuple[str, str]:
    """The URL without its port and with it: Twilio signs now the one, now the other."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.netloc.removesuffix(f":{port}")
    return parts._replace(netloc=host).geturl(), parts._replace(netloc=f"{host}:{port}").geturl()


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode(errors="surrogatepass"))


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty one when it holds anything else."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
