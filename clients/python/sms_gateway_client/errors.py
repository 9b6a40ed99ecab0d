"""Every error of the client, as one tree.

::

    SmsGatewayError
    ├── Refused                the gateway said why (RFC 9457): status, code, detail, errors, request_id. 500: its fault
    │   ├── InvalidRequest     400, 405, 413, 415, 422: correct the request
    │   ├── Unauthorized       401: no or wrong API key
    │   ├── Forbidden          403: this key may not
    │   ├── NotFound           404
    │   ├── Conflict           409: a message that cannot be cancelled any more
    │   ├── RateLimited        429, for longer than the deadline
    │   └── Unavailable        502, 503, 504, for longer than the deadline
    ├── NoAnswer               the gateway was not reached, or did not answer, for as long as the deadline
    ├── UnexpectedAnswer       what answered is not this gateway, or one of another version
    ├── NotEnded               a message has not ended in the time that was given
    └── ForgedWebhook          a webhook's signature or time is wrong
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httpx

from sms_gateway_client.models import BulkResult, FieldProblem, Message
from sms_gateway_client.reading import Unreadable, read

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_PROXY: Final = "proxy"
"""The code of what the gateway itself did not answer."""
_LONGEST_TOLD: Final = 9
"""Digits of a `Retry-After` that is believed."""


class SmsGatewayError(Exception):
    """Root of the tree.

    Attributes:
        idempotency_key: the key that the request had. The same call with this key sends at most once, whatever
            became of this one. None: the request was no send.
        may_be_stored: whether the gateway may have accepted the send all the same. It never becomes False again by
            a later try that surely was not accepted.
        bulk: what a bulk had done before this stopped it. None: it was no bulk.
    """

    idempotency_key: str | None = None
    may_be_stored: bool = False
    bulk: BulkResult | None = None

    retryable: bool = False
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Problem:
    status: int
    code: str
    detail: str
    errors: tuple[FieldProblem, ...]
    request_id: str | None


class Refused(SmsGatewayError):
    """The gateway refused. `code` is for programs, `detail` says what to do, `request_id` is for its operator."""

    def __init__(self, problem: _Problem) -> None:
        where = f" [{problem.request_id}]" if problem.request_id else ""
        details = "; ".join(f"{error.field}: {error.detail}" for error in problem.errors) or problem.detail
        super().__init__(f"{problem.status} {problem.code}: {details}{where}")
        self.status = problem.status
        self.code = problem.code
        self.detail = problem.detail
        self.errors = problem.errors
        self.request_id = problem.request_id


class InvalidRequest(Refused):
    """Correct the request as `errors` says."""


class Unauthorized(Refused):
    """The API key is missing or wrong."""


class Forbidden(Refused):
    """This key may not do that."""


class NotFound(Refused):
    """This client has nothing of that id."""


class Conflict(Refused):
    """The message is under way, or has ended: it cannot be cancelled any more."""


class RateLimited(Refused):
    """Too much, for longer than the deadline allows to wait: come again in `retry_after_s`. Nothing was stored."""

    retryable = True


class Unavailable(Refused):
    """The gateway cannot store anything now (`overloaded`), or does not know whether it did (`commit_unknown`)."""

    retryable = True


class NoAnswer(SmsGatewayError):
    """The gateway was not reached or did not answer."""

    retryable = True


class UnexpectedAnswer(SmsGatewayError):
    """What answered is not the gateway, or one whose answers this client does not understand."""


class NotEnded(SmsGatewayError):
    """The message has not ended in time. `message` is how it stands."""

    def __init__(self, message: Message) -> None:
        super().__init__(f"The message is still {message.status} ({message.reason or 'no reason is given'}).")
        self.message = message


class ForgedWebhook(SmsGatewayError):
    """Not signed with this secret, changed on the way, or older than five minutes: answer 400 and forget it."""


_BY_STATUS: Final[dict[int, type[Refused]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
    502: Unavailable,  # of a proxy before the gateway
    503: Unavailable,
    504: Unavailable,
}


def failure(answer: httpx.Response | httpx.RequestError) -> SmsGatewayError:
    """What went wrong, of an answer that is no success. `may_be_stored` tells of this one try."""
    if isinstance(answer, httpx.RequestError):
        error: SmsGatewayError = NoAnswer(f"The gateway does not answer: {type(answer).__name__} {answer}".rstrip())
        error.may_be_stored = not isinstance(answer, _NOT_SENT)
        return error
    others = {4: InvalidRequest, 5: Refused}
    refusal = _BY_STATUS.get(answer.status_code, others.get(answer.status_code // 100))
    try:
        problem = read(_Problem, answer.json())
    except (ValueError, Unreadable):
        problem = None
    if problem is None and refusal in {RateLimited, Unavailable}:
        problem = _Problem(answer.status_code, _PROXY, "A proxy before the gateway refused.", (), None)
    if refusal is None or problem is None:
        error = UnexpectedAnswer(f"HTTP {answer.status_code} is no answer of the gateway. Look at the base URL.")
    else:
        error = refusal(problem)
    error.may_be_stored = answer.is_server_error and (problem is None or problem.code != "overloaded")
    told = answer.headers.get("Retry-After", "")
    error.retry_after_s = float(told) if told.isdecimal() and len(told) <= _LONGEST_TOLD else 0.0
    return error
