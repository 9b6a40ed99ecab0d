"""One call: what to ask, and how often. It does no I/O: it yields requests and is sent their answers."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias, TypeVar

import httpx

from sms_gateway_client.errors import UnexpectedAnswer, failure
from sms_gateway_client.reading import Unreadable, read

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0
_SHORTEST_TRY_S: Final = 0.5
"""With less time left than that, a further try would only raise doubts."""
_LONGEST_KEY: Final = 255


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and what its answer is read as. With a `key` it is a send, and may be repeated as any other."""

    method: str
    path: str
    answer: type[T]
    params: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those of this call only."""
        return {"Idempotency-Key": self.key} if self.key else {}


@dataclass(frozen=True, slots=True)
class Try:
    """Wait `after_s`, then ask, and answer with the response, or with the error that came instead."""

    call: Call[Any]
    after_s: float
    timeout_s: float


Steps: TypeAlias = Generator[Try, httpx.Response | httpx.RequestError, T]
"""What a shell drives: it does each `Try`, and gets a `T` at the end."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often.

    Attributes:
        deadline_s: for a call with all its tries and pauses. Nothing is begun after it.
        timeout_s: for each step of one try: connecting, writing, each piece that is read.
        retry: whether there is a second try at all.
        monotonic, jitter: seconds, and a number from 0 to 1; given by tests.
    """

    deadline_s: float
    timeout_s: float
    retry: bool
    monotonic: Callable[[], float]
    jitter: Callable[[], float] = random.random


def exchange(call: Call[T], patience: Patience, after_s: float = 0.0) -> Steps[T]:
    """The call's answer. What came to nothing on the way, 429, 502, 503 and 504 are tried again, with the same key.

    A pause is as long as `Retry-After` says, and on top of that a random part of a time that doubles.

    Raises:
        SmsGatewayError: refused, or the deadline leaves no time for another try.
    """
    ends_at = patience.monotonic() + after_s + patience.deadline_s
    pause_s, backoff_s, doubt = after_s, _FIRST_PAUSE_S, False
    while True:
        left_s = ends_at - patience.monotonic() - pause_s
        answer = yield Try(call, pause_s, min(patience.timeout_s, left_s))
        if isinstance(answer, httpx.Response) and answer.is_success:
            return _read(call, answer)
        error = failure(answer)
        doubt = doubt or error.may_be_stored
        error.idempotency_key, error.may_be_stored = call.key, call.key is not None and doubt
        pause_s = error.retry_after_s + patience.jitter() * backoff_s
        backoff_s = min(2 * backoff_s, _LONGEST_PAUSE_S)
        enough = patience.monotonic() + pause_s + _SHORTEST_TRY_S <= ends_at
        if not (patience.retry and error.retryable and enough):
            raise error from (answer if isinstance(answer, httpx.RequestError) else None)


def idempotency_key(given: str | None) -> str:
    """The key that was given, or a new one.

    Raises:
        ValueError: no such key can be sent.
    """
    if given is None:
        return secrets.token_urlsafe(16)
    if not 0 < len(given) <= _LONGEST_KEY or any(not "!" <= character <= "~" for character in given):
        raise ValueError(f"An idempotency key is 1 to {_LONGEST_KEY} visible ASCII characters.")
    return given


def _read(call: Call[T], answer: httpx.Response) -> T:
    try:
        return read(call.answer, answer.json())
    except (ValueError, Unreadable) as unread:
        error = UnexpectedAnswer(f"The answer is not understood: {unread}. Look at the base URL and the versions.")
        error.idempotency_key, error.may_be_stored = call.key, call.key is not None
        raise error from unread
