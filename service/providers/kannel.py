"""Kannel's `sendsms` and `dlr-url` (https://www.kannel.org, user guide, chapter 6), as of version 1.4.

Kannel is a gateway that an operator runs in front of SMPP links. It names no message, knows no idempotency key and
signs nothing: what a receipt belongs to, and that it is genuine, stands in the URL that it was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import httpx

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.domain.segments import measure
from service.errors import ConfigurationError, UnreadableReceipt
from service.providers.adapter import Account, Callback, Capabilities, Doubt, Submission, doubt

# How the body of a 2xx begins. The last is said when `immediate-sendsms-reply` is set.
ACCEPTED: Final = ("0: Accepted for delivery", "3: Queued for later delivery", "Sent.")

# What the text of a refusal means, and of whom else it speaks. Kannel has no codes: the texts are those of its
# smsbox 1.4. A queue that is full is the bearerbox's, so that of all who send through it.
TEXTS: Final[Mapping[str, Outcome]] = {
    "Authorization failed for sendsms": Refused("credentials", about=About.ACCOUNT),
    "Unknown request.": Refused("configuration", about=About.ACCOUNT),
    "Invalid content-type": Refused("configuration", about=About.ACCOUNT),
    "DLR-URL field misformed, rejected": Refused("configuration", about=About.ACCOUNT),
    "Not routable. Do not try again.": Refused("no_route", about=About.RECIPIENT),
    "Sender missing and no global set, rejected": Refused("sender_not_registered", about=About.SENDER),
    # Said of a number with odd characters too. Whoever made the lists wants this number left alone.
    "Number(s) has/have been denied by white- and/or black-lists.": Rejected("blocked", about=About.RECIPIENT),
    "Missing receiver(s) number(s), rejected": Rejected("invalid_number", about=About.RECIPIENT),
    "Empty receiver number not allowed, rejected": Rejected("invalid_number", about=About.RECIPIENT),
    "Charset or body misformed, rejected": Rejected("content_rejected"),
    # The queue of the bearerbox is full, or it could not store the message.
    "Temporal failure, try again later.": Unavailable("temporal_failure"),
}

# What a 4xx means when its text is not in the table. Any other 4xx still says "not accepted": `unrecognised`.
STATUSES: Final[Mapping[int, Outcome]] = {
    401: Refused("credentials", about=About.ACCOUNT),
    403: Refused("forbidden"),
    404: Refused("configuration", about=About.ACCOUNT),
    405: Refused("configuration", about=About.ACCOUNT),
    408: Unknown("http_408"),
    409: Unknown("http_409"),
    413: Refused("configuration", about=About.ACCOUNT),
    415: Refused("configuration", about=About.ACCOUNT),
    429: Throttled(),  # said by a proxy before it
}

# The values of `%d`. 4 and 8: the SMSC keeps it for later, the SMSC has it. 16: the SMSC did not take it.
RECEIPT_STATUSES: Final[Mapping[str, ReceiptStatus]] = {
    "1": ReceiptStatus.DELIVERED,
    "2": ReceiptStatus.UNDELIVERED,
    "4": ReceiptStatus.SENT,
    "8": ReceiptStatus.SENT,
    "16": ReceiptStatus.FAILED,
}

# Kannel fills these in: the status, when it heard of it, the SMSC's id of the message, the SMSC's error. Not `%A`, the
# receipt as the SMSC sent it: it repeats 20 characters of the message, and one-time passwords are not for logs of URLs.
_REPORT: Final = "status=%d&at=%T&id=%F&err=%#smpp#dlr_err#"
_EVERY_STATUS: Final = str(sum(map(int, RECEIPT_STATUSES)))

_CREDENTIALS: Final = re.compile(r"([\x21-\x39\x3b-\x7e]+):([\x21-\x7e]+)")
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_STATUS: Final = re.compile(r"[0-9]{1,3}")
_SECONDS: Final = re.compile(r"[0-9]{1,11}")


class Kannel:
    """One user of one smsbox. See `service.providers.adapter.Adapter` for the contract of each method.

    `api_key` is `username:password` of a `sendsms-user`. Kannel signs nothing, so there is no `webhook_secret`.

    Raises:
        ConfigurationError: the API key has another form, or there is a webhook secret.
    """

    capabilities = Capabilities(validity_period=True)

    def __init__(self, account: Account) -> None:
        credentials = _CREDENTIALS.fullmatch(account.api_key)
        if credentials is None:
            raise ConfigurationError(f"provider account {account.name}: `api_key` must be `username:password`")
        if account.webhook_secret is not None:
            raise ConfigurationError(
                f"provider account {account.name}: remove `webhook_secret`, because Kannel signs nothing"
            )
        self._url = account.base_url.rstrip("/") + "/cgi-bin/sendsms"
        self._username, self._password = credentials.groups()

    def send_request(self, submission: Submission) -> httpx.Request:
        """`POST sendsms`: the text is the body, all else is in headers. Kannel takes no form.

        A GET would do as well, but leave text and password in the logs of whatever is on the way.
        """
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-Kannel-Username": self._username,
            "X-Kannel-Password": self._password,
            "X-Kannel-From": submission.sender,
            "X-Kannel-To": submission.to,
            "X-Kannel-Coding": "0" if measure(submission.text).encoding == "gsm-7" else "2",
            "X-Kannel-Validity": str(-(-submission.validity_s // 60)),  # in minutes
        }
        if submission.callback_url is not None:
            headers["X-Kannel-DLR-Mask"] = _EVERY_STATUS
            # A percent sign of the URL itself is doubled, or Kannel would fill something in for it.
            headers["X-Kannel-DLR-Url"] = f"{submission.callback_url.replace('%', '%%')}?{_REPORT}"
        utf8 = httpx.Headers(headers, encoding="utf-8")  # for senders like "Café"
        return httpx.Request("POST", self._url, headers=utf8, content=submission.text.encode())

    def send_outcome(self, response: httpx.Response) -> Outcome:
        """Accepted without an id, because Kannel gives none."""
        text = response.content[:256].decode(errors="replace").strip()
        if response.is_success:
            return Accepted(None) if text.startswith(ACCEPTED) else Unknown("unreadable_reply")
        status = response.status_code
        known = TEXTS.get(text)
        if 400 <= status < 500:  # noqa: PLR2004 - the classes of HTTP status
            return known or STATUSES.get(status) or Refused("unrecognised")
        if status == httpx.codes.SERVICE_UNAVAILABLE and isinstance(known, Unavailable):
            return known
        if response.is_redirect:
            return Refused("configuration", about=About.ACCOUNT)
        return Unknown(f"http_{status}")

    def credentials_request(self) -> httpx.Request:
        """`POST sendsms` without a receiver. Kannel looks at the password first."""
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-Kannel-Username": self._username,
            "X-Kannel-Password": self._password,
        }
        return httpx.Request("POST", self._url, headers=headers)

    def credentials_verdict(self, response: httpx.Response) -> Doubt | None:
        """The refusal that misses the receiver."""
        outcome = self.send_outcome(response)
        return None if isinstance(outcome, Rejected) and outcome.reason == "invalid_number" else doubt(outcome)

    def receipts(self, callback: Callback, now_s: float) -> list[Receipt]:  # noqa: ARG002 - nothing is signed
        """One receipt a callback, which is a GET: all is in the query. The token in its path is the only proof.

        The error is kept as it is: each SMSC numbers its errors in its own way, so none of them is surely of GSM MAP.
        """
        # The error comes as raw bytes, which `callback.query` has lost by taking them for UTF-8.
        query = dict(parse_qsl(urlsplit(callback.url).query, encoding="latin-1"))
        status, message_id = query.get("status", ""), query.get("id", "")
        if not _STATUS.fullmatch(status):
            raise UnreadableReceipt("the callback has no status")
        return [
            Receipt(
                status=RECEIPT_STATUSES.get(status, ReceiptStatus.UNKNOWN),
                provider_message_id=message_id if _ID.fullmatch(message_id) else None,
                provider_code=_error(query.get("err", "").encode("latin-1", errors="replace")),
                occurred_at=_time(query.get("at", "")),
            )
        ]


def _error(value: bytes) -> str | None:
    """The number in an SMPP `network_error_code`: a byte for the kind of network, two for the error. 0 is no error."""
    number = int.from_bytes(value[1:])
    return str(number) if len(value) == 3 and number else None  # noqa: PLR2004 - its size


def _time(text: str) -> datetime | None:
    """A Unix time; None when it is none."""
    return datetime.fromtimestamp(int(text), UTC) if _SECONDS.fullmatch(text) else None
