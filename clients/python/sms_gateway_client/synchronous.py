"""The client for ordinary code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar, Unpack

import httpx

from sms_gateway_client.connection import connection
from sms_gateway_client.core import LARGEST_CHUNK, Core, MessageFilters, MessageOptions
from sms_gateway_client.exchange import Patience, Steps, Try
from sms_gateway_client.models import (
    Batch,
    BulkProgress,
    BulkResult,
    Hlr,
    Message,
    MessageList,
    MessageSummary,
    Preview,
    Sent,
)

T = TypeVar("T")


class SmsGateway:
    """Calls one gateway. Keep one for the whole process; it may be used by several threads.

    What fails on the way, 429 and 503 are tried again until `deadline_s` is over, as `Retry-After` says. That never
    sends twice: each send has an idempotency key, and keeps it. Every method raises `SmsGatewayError` (see `errors`)
    where that did not help, and ValueError for what cannot be sent at all.

    Args:
        base_url: where the gateway is. Default: the environment's `SMS_URL`.
        api_key: default: the environment's `SMS_API_KEY`.
        deadline_s: for a call with all its tries and pauses. A bulk has it anew for each chunk.
        timeout_s: for each step of one try: connecting, writing, each piece that is read.
        retry: False tries once.
        sleep, monotonic: for tests, which need not wait.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        deadline_s: float = 60.0,
        timeout_s: float = 30.0,
        retry: bool = True,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(**connection(base_url, api_key))
        self._core = Core(Patience(deadline_s, timeout_s, retry, monotonic))
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(
        self,
        to: str,
        message: str,
        *,
        sender: str,
        idempotency_key: str | None = None,
        **options: Unpack[MessageOptions],
    ) -> Sent:
        """Send one message. It is on disk when this returns; `wait_until_ended` or a webhook tells the rest.

        Give an `idempotency_key` that comes from your own data (an order, a login) where the send may be asked for
        again by another process or after a restart. Without one, a new one is made for this call and all its tries.
        """
        return self._run(self._core.send(to, message, sender, idempotency_key, options))

    def bulk(
        self,
        recipients: Iterable[str],
        message: str,
        *,
        sender: str,
        idempotency_key: str | None = None,
        chunk_size: int = LARGEST_CHUNK,
        progress: Callable[[BulkProgress], None] | None = None,
        **options: Unpack[MessageOptions],
    ) -> BulkResult:
        """Send one text to many. Bad numbers do not raise: see `rejected` of the result.

        `progress` is called after each chunk. An error carries `bulk`, what was done, and `idempotency_key`: call again
        with that key, the same recipients and `chunk_size`, and it goes on where it was, sending nothing twice.
        """
        steps = self._core.bulk(
            recipients, message, sender, idempotency_key, chunk_size=chunk_size, progress=progress, options=options
        )
        return self._run(steps)

    def batch(self, batch_id: str) -> Batch:
        """How far one chunk of a bulk is: counts by status."""
        return self._run(self._core.batch(batch_id))

    def preview(self, to: str, message: str, *, sender: str, **options: Unpack[MessageOptions]) -> Preview:
        """What a send would come to. It spends nothing."""
        return self._run(self._core.preview(to, message, sender, options))

    def message(self, message_id: str) -> Message:
        """How a message stands, with every attempt and receipt."""
        return self._run(self._core.message(message_id))

    def wait_until_ended(self, message_id: str, *, timeout_s: float = 60.0) -> Message:
        """The message once it is delivered, undelivered, failed or cancelled. Where many are sent, use webhooks.

        Raises:
            NotEnded: it is still under way after `timeout_s`.
        """
        return self._run(self._core.wait_until_ended(message_id, timeout_s))

    def list(self, *, cursor: str | None = None, **filters: Unpack[MessageFilters]) -> MessageList:
        """One page of messages, newest first; the last 24 hours, unless `created_after` says otherwise."""
        return self._run(self._core.list(cursor, filters))

    def list_all(self, **filters: Unpack[MessageFilters]) -> Iterator[MessageSummary]:
        """The messages of every page."""
        page = self.list(**filters)
        yield from page.messages
        while page.next_cursor is not None:
            page = self.list(cursor=page.next_cursor, **filters)
            yield from page.messages

    def cancel(self, message_id: str) -> MessageSummary:
        """Take a queued message back.

        Raises:
            Conflict: it is under way, or has ended.
        """
        return self._run(self._core.cancel(message_id))

    def hlr(self, number: str, *, max_age: int | None = None) -> Hlr:
        """Look a number up. `max_age`: how old a cached answer may be, in seconds; 0 asks (and pays) anew."""
        return self._run(self._core.hlr(number, max_age))

    def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                step = steps.send(self._do(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Try) -> httpx.Response | httpx.RequestError:
        if step.after_s > 0:
            self._sleep(step.after_s)
        call = step.call
        try:
            return self._http.request(
                call.method,
                call.path,
                params=call.params,
                json=call.body,
                headers=call.headers,
                timeout=step.timeout_s,
            )
        except httpx.RequestError as error:
            return error
