"""The client for asyncio. Its methods are those of `SmsGateway`, to be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
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


class AsyncSmsGateway:
    """As `SmsGateway`, for asyncio. Keep one for the whole process."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        deadline_s: float = 60.0,
        timeout_s: float = 30.0,
        retry: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.AsyncClient(**connection(base_url, api_key))
        self._core = Core(Patience(deadline_s, timeout_s, retry, monotonic))
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(
        self,
        to: str,
        message: str,
        *,
        sender: str,
        idempotency_key: str | None = None,
        **options: Unpack[MessageOptions],
    ) -> Sent:
        """As `SmsGateway.send`."""
        return await self._run(self._core.send(to, message, sender, idempotency_key, options))

    async def bulk(
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
        """As `SmsGateway.bulk`."""
        steps = self._core.bulk(
            recipients, message, sender, idempotency_key, chunk_size=chunk_size, progress=progress, options=options
        )
        return await self._run(steps)

    async def batch(self, batch_id: str) -> Batch:
        """As `SmsGateway.batch`."""
        return await self._run(self._core.batch(batch_id))

    async def preview(self, to: str, message: str, *, sender: str, **options: Unpack[MessageOptions]) -> Preview:
        """As `SmsGateway.preview`."""
        return await self._run(self._core.preview(to, message, sender, options))

    async def message(self, message_id: str) -> Message:
        """As `SmsGateway.message`."""
        return await self._run(self._core.message(message_id))

    async def wait_until_ended(self, message_id: str, *, timeout_s: float = 60.0) -> Message:
        """As `SmsGateway.wait_until_ended`."""
        return await self._run(self._core.wait_until_ended(message_id, timeout_s))

    async def list(self, *, cursor: str | None = None, **filters: Unpack[MessageFilters]) -> MessageList:
        """As `SmsGateway.list`."""
        return await self._run(self._core.list(cursor, filters))

    async def list_all(self, **filters: Unpack[MessageFilters]) -> AsyncIterator[MessageSummary]:
        """As `SmsGateway.list_all`."""
        page = await self.list(**filters)
        for message in page.messages:
            yield message
        while page.next_cursor is not None:
            page = await self.list(cursor=page.next_cursor, **filters)
            for message in page.messages:
                yield message

    async def cancel(self, message_id: str) -> MessageSummary:
        """As `SmsGateway.cancel`."""
        return await self._run(self._core.cancel(message_id))

    async def hlr(self, number: str, *, max_age: int | None = None) -> Hlr:
        """As `SmsGateway.hlr`."""
        return await self._run(self._core.hlr(number, max_age))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._do(step))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Try) -> httpx.Response | httpx.RequestError:
        if step.after_s > 0:
            await self._sleep(step.after_s)
        call = step.call
        try:
            return await self._http.request(
                call.method,
                call.path,
                params=call.params,
                json=call.body,
                headers=call.headers,
                timeout=step.timeout_s,
            )
        except httpx.RequestError as error:
            return error
