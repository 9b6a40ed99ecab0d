"""A real HTTP server on loopback that keeps every request and can answer, say nothing, or break off."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request. `headers` have lower-case names, `path` is as it was sent and holds the query too."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Recorder:
    """Answers each request with `status` and `json`; cuts the reply when `breaks`; is `silent` until it is stopped."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.status = 201
        self.json: Any = {}
        self.silent = False
        self.breaks = False
        self._arrived = asyncio.Condition()
        self._runner = web.ServerRunner(
            web.Server(self._answer, access_log=None, handler_cancellation=True), shutdown_timeout=0.1
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def wait_for(self, n: int, timeout_s: float = 60) -> None:
        """Until there are at least `n` requests."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= n)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        recorded = Recorded(request.method, request.raw_path, headers, await request.read())
        async with self._arrived:
            self.requests.append(recorded)
            self._arrived.notify_all()
        if self.silent:
            await asyncio.Event().wait()
        if not self.breaks:
            return web.json_response(self.json, status=self.status)
        reply = web.StreamResponse(status=200, headers={"Content-Length": "1000"})
        await reply.prepare(request)
        await reply.write(b'{"message_id": "msg_7", "sid": "SM7"}')
        assert request.transport is not None
        request.transport.abort()
        return reply
