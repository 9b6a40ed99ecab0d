"""A real HTTP server on loopback that keeps what is posted to it: the target of webhooks and receipts in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Received:
    """One request. `headers` have lower-case names, `path` is as it was sent and holds the query too."""

    headers: Mapping[str, str]
    body: bytes
    path: str

    def json(self) -> Any:
        return orjson.loads(self.body)


class Listener:
    """Answers each request with `reply_status` and `reply_headers`, `delay` seconds after it was received."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.reply_status = 204
        self.reply_headers: dict[str, str] = {}
        self.delay = 0.0
        self._arrived = asyncio.Condition()
        self._port = 0
        self._runner = web.ServerRunner(
            web.Server(self._receive, access_log=None, handler_cancellation=True), shutdown_timeout=0.1
        )

    @property
    def url(self) -> str:
        """Any path may be appended; it is kept in `Received.path`."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def wait_for(self, n: int, timeout_s: float = 60) -> list[Received]:
        """Everything received, once there are at least `n`."""
        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: len(self.received) >= n)
        except TimeoutError:
            message = f"{len(self.received)} of {n} requests in {timeout_s} s"
            raise TimeoutError(message) from None
        return list(self.received)

    async def _receive(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(headers, await request.read(), request.raw_path)
        # Taken now, so that a test that saw this request may change what the next one gets.
        reply, delay = web.Response(status=self.reply_status, headers=self.reply_headers), self.delay
        async with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
        await asyncio.sleep(delay)
        return reply
