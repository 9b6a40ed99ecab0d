"""The smsroute API (https://api.smsroute.cc), the wire format that this gateway speaks itself.

So an account can also point at another gateway, or at the simulator. Read the tables first: they are the adapter. The
rest builds two requests and looks answers up. A new provider imitates this file: see docs/adding-a-provider.md.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import orjson
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.errors import ConfigurationError, ForgedReceipt, UnreadableReceipt
from service.providers.adapter import Account, Callback, Capabilities, Doubt, Submission, doubt

# What a problem's `code` means, with any 4xx and as the error of one bulk recipient, and of whom else it speaks. These
# are the codes of this gateway's own API (openapi/openapi.json), so they change with it.
CODES: Final[Mapping[str, Outcome]] = {
    "invalid_number": Rejected("invalid_number", about=About.RECIPIENT),
    "number_missing_plus": Rejected("invalid_number", about=About.RECIPIENT),
    "number_bad_characters": Rejected("invalid_number", about=About.RECIPIENT),
    "number_unknown_country_code": Rejected("invalid_number", about=About.RECIPIENT),
    "number_too_short": Rejected("invalid_number", about=About.RECIPIENT),
    "number_too_long": Rejected("invalid_number", about=About.RECIPIENT),
    "recipient_opted_out": Rejected("opted_out", about=About.RECIPIENT),
    "content_rejected": Rejected("content_rejected"),
    "message_too_long": Rejected("message_too_long"),
    "duplicate_recipient": Rejected("duplicate_recipient"),
    "no_valid_recipients": Rejected("invalid_number"),
    "unknown_sender": Refused("sender_not_registered", about=About.SENDER),
    "sender_not_registered": Refused("sender_not_registered", about=About.SENDER),
    "traffic_mismatch": Refused("sender_not_registered", about=About.SENDER),
    "insufficient_funds": Refused("funds", about=About.ACCOUNT),
    # An earlier call with our key got in, with a body that is not this one.
    "idempotency_key_reused": Unknown("idempotency_key_reused"),
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
    # No message that the gateway accepts is this large or of another type, so something on the way is set up wrong.
    413: Refused("configuration", about=About.ACCOUNT),
    415: Refused("configuration", about=About.ACCOUNT),
    429: Throttled(),
}

# How a body that lacks something is refused.
INVALID: Final = frozenset({400, 422})

# The only codes of a 503 that prove that nothing was stored.
NOTHING_STORED: Final = frozenset({"overloaded"})

RECEIPT_STATUSES: Final[Mapping[str, ReceiptStatus]] = {
    "delivered": ReceiptStatus.DELIVERED,
    "undelivered": ReceiptStatus.UNDELIVERED,
    "failed": ReceiptStatus.FAILED,
}

MAX_RETRY_AFTER_S: Final = 86_400
SIGNATURE_AGE_S: Final = 300

_KEY: Final = re.compile(r"[\x21-\x7e]+")
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")


class SmsRoute:
    """One account at smsroute. See `service.providers.adapter.Adapter` for the contract of each method.

    Raises:
        ConfigurationError: the API key cannot be a header, or the webhook secret is not one of Standard Webhooks.
    """

    capabilities = Capabilities(idempotency_key=True, bulk_size=10_000, validity_period=True, callback_per_message=True)

    def __init__(self, account: Account) -> None:
        if not _KEY.fullmatch(account.api_key):
            raise ConfigurationError(f"provider account {account.name}: `api_key` must be visible ASCII, no spaces")
        base_url = account.base_url.rstrip("/")
        self._send_url, self._bulk_url = httpx.URL(f"{base_url}/v1/send"), httpx.URL(f"{base_url}/v1/send/bulk")
        self._headers = {"Authorization": f"Bearer {account.api_key}", "Content-Type": "application/json"}
        self._webhook = _webhook(account)

    def send_request(self, submission: Submission) -> httpx.Request:
        """`POST /v1/send`. No `traffic`: smsroute does not document it."""
        return self._post(self._send_url, {"to": submission.to}, submission, submission.idempotency_key)

    def send_outcome(self, response: httpx.Response) -> Outcome:
        """A 2xx is accepted only with a `message_id`; everything else is looked up."""
        if not response.is_success:
            return _problem(response)
        return _accepted(_object(response.content))

    def bulk_request(self, submissions: Sequence[Submission], idempotency_key: str) -> httpx.Request:
        """`POST /v1/send/bulk`. smsroute sends a number given twice once, so a repeated recipient is refused here."""
        if not 1 <= len(submissions) <= self.capabilities.bulk_size:
            raise ValueError(f"a bulk takes 1 to {self.capabilities.bulk_size} submissions")
        if len({(s.sender, s.text, s.traffic, s.validity_s, s.callback_url) for s in submissions}) != 1:
            raise ValueError("submissions of one bulk must share sender, text, traffic, validity and callback URL")
        recipients = [submission.to for submission in submissions]
        if len(set(recipients)) != len(recipients):
            raise ValueError("submissions of one bulk must not repeat a recipient")
        return self._post(self._bulk_url, {"recipients": recipients}, submissions[0], idempotency_key)

    def bulk_outcomes(self, submissions: Sequence[Submission], response: httpx.Response) -> list[Outcome]:
        """`results` must name our recipients in our order; if not, nothing is known of any of them."""
        if not response.is_success:
            return _bulk_problem(len(submissions), response)
        results = _object(response.content).get("results")
        if not isinstance(results, list) or [_recipient(item) for item in results] != [s.to for s in submissions]:
            return [Unknown("unreadable_reply")] * len(submissions)
        return [_bulk_result(item) for item in results]

    def credentials_request(self) -> httpx.Request:
        """`POST /v1/send` of an empty object."""
        return httpx.Request("POST", self._send_url, headers=self._headers, content=b"{}")

    def credentials_verdict(self, response: httpx.Response) -> Doubt | None:
        """A 400 or 422 with a code: the key is asked for before the body is looked at."""
        match self.send_outcome(response):
            case Rejected(code=str()) | Refused(code=str()) as outcome if (
                response.status_code in INVALID and outcome.about is not About.ACCOUNT
            ):
                return None
            case outcome:
                return doubt(outcome)

    def receipts(self, callback: Callback, now_s: float) -> list[Receipt]:
        """One receipt a callback, signed as Standard Webhooks when the account has a secret."""
        if self._webhook is not None:
            _verify(self._webhook, callback, now_s)
        body = _object(callback.body)
        message_id, status = _text(_ID, body.get("message_id")), body.get("status")
        if message_id is None or not isinstance(status, str):
            raise UnreadableReceipt("the callback has no message_id or no status")
        return [
            Receipt(
                status=RECEIPT_STATUSES.get(status, ReceiptStatus.UNKNOWN),
                provider_message_id=message_id,
                error_code=_map_error(body.get("error_code")),
                provider_code=_text(_CODE, body.get("reason")),
                occurred_at=_time(body.get("delivered_at")),
            )
        ]

    def _post(self, url: httpx.URL, to: dict[str, Any], submission: Submission, idempotency_key: str) -> httpx.Request:
        body = to | {
            "from": submission.sender,
            "message": submission.text,
            "validity_period": submission.validity_s,
        }
        if submission.callback_url is not None:
            body["callback_url"] = submission.callback_url
        headers = self._headers | {"Idempotency-Key": idempotency_key}
        return httpx.Request("POST", url, headers=headers, content=orjson.dumps(body))


def _problem(response: httpx.Response) -> Outcome:
    """What an answer other than a 2xx means."""
    status, code = response.status_code, _text(_CODE, _object(response.content).get("code"))
    if 400 <= status < 500:  # noqa: PLR2004 - the classes of HTTP status
        outcome = CODES.get(code or "") or STATUSES.get(status) or Refused("unrecognised")
        if isinstance(outcome, Throttled):
            return replace(outcome, retry_after_s=_retry_after_s(response))
        return _named(outcome, code)
    if status == httpx.codes.SERVICE_UNAVAILABLE and code in NOTHING_STORED:
        return Unavailable(code)
    if response.is_redirect:
        return Refused("configuration", about=About.ACCOUNT)
    return Unknown(f"http_{status}")


def _named(outcome: Outcome, code: str | None) -> Outcome:
    """The outcome with the provider's own code kept beside our reason."""
    return replace(outcome, code=code) if isinstance(outcome, Rejected | Refused) else outcome


def _accepted(reply: dict[str, Any]) -> Outcome:
    message_id = _text(_ID, reply.get("message_id"))
    return Accepted(message_id) if message_id else Unknown("unreadable_reply")


def _recipient(item: object) -> object:
    return item.get("to") if isinstance(item, dict) else None


def _bulk_problem(size: int, response: httpx.Response) -> list[Outcome]:
    """The same for each submission, but for those that `errors` names: `recipients.0`, `recipients.1` ..."""
    errors = _object(response.content).get("errors")
    whole, by_field = _problem(response), {}
    if isinstance(whole, Rejected) and isinstance(errors, list):
        by_field = {e["field"]: e for e in errors if isinstance(e, dict) and isinstance(e.get("field"), str)}
    return [_error(by_field.get(f"recipients.{index}")) or whole for index in range(size)]


def _bulk_result(item: dict[str, Any]) -> Outcome:
    if "error" not in item:
        return _accepted(item)
    outcome = None if "message_id" in item else _error(item["error"])
    return outcome or Unknown("unreadable_reply")


def _error(error: object) -> Outcome | None:
    """What the error of one recipient means; None when it names no code."""
    code = _text(_CODE, error.get("code")) if isinstance(error, dict) else None
    return _named(CODES.get(code) or Refused("unrecognised"), code) if code else None


def _retry_after_s(response: httpx.Response) -> float | None:
    """Whole seconds only. The other form of RFC 9110, a date, would need a clock; smsroute does not send it."""
    value = _text(_DIGITS, response.headers.get("Retry-After"))
    return float(min(int(value), MAX_RETRY_AFTER_S)) if value else None


def _webhook(account: Account) -> Webhook | None:
    if account.webhook_secret is None:
        return None
    try:
        return Webhook(account.webhook_secret)
    except (ValueError, EmptyWebhookSecretError):
        raise ConfigurationError(
            f"provider account {account.name}: `webhook_secret` must be `whsec_` and base64, as smsroute shows it"
        ) from None


def _verify(webhook: Webhook, callback: Callback, now_s: float) -> None:
    """Check the signature with the library's `sign`, because its `verify` reads the wall clock itself."""
    timestamp = _text(_DIGITS, callback.headers.get("webhook-timestamp"))
    if timestamp is None or abs(now_s - int(timestamp)) > SIGNATURE_AGE_S:
        raise ForgedReceipt("the webhook-timestamp is missing or not within 5 minutes of now")
    try:
        expected = webhook.sign(
            callback.headers.get("webhook-id", ""), datetime.fromtimestamp(int(timestamp), UTC), callback.body.decode()
        ).encode()
        signatures = callback.headers.get("webhook-signature", "").encode().split(b" ")
    except UnicodeError:
        raise ForgedReceipt("the callback is not UTF-8, which no signature of Standard Webhooks covers") from None
    if not any(hmac.compare_digest(expected, signature) for signature in signatures):
        raise ForgedReceipt("no webhook-signature matches")


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty one when it holds anything else."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _map_error(value: object) -> int | None:
    """A GSM MAP error is one byte. Note that JSON's `true` is an int in Python."""
    return value if type(value) is int and 0 <= value <= 255 else None  # noqa: PLR2004 - one byte


def _time(value: object) -> datetime | None:
    """An RFC 3339 time in UTC; None when absent or not aware, because a time zone is never guessed."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
