"""A caller who writes bytes, and a server that notes which requests it saw."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.connection import Connection
from tests.gateway import serve

LARGE = 20_000_000
"""More than the buffers of two sockets hold."""


class Server:
    """Takes every request, and notes its path and how long its body was."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.url = ""

    async def answer(self, request: Request) -> Response:
        if request.url.path == "/early":  # without a look at the body
            return Response("no")
        self.seen.append((request.url.path, len(await request.body())))
        return Response(b"x" * LARGE if request.url.path == "/large" else "yes")

    @asynccontextmanager
    async def up(self, connection: type[Connection] = Connection) -> AsyncIterator[Caller]:
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST", "OPTIONS"])])
        async with serve(app, connection=connection) as self.url:
            yield Caller(self.url)


class Caller:
    """Opens connections to a base URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = str(parts.hostname), int(parts.port or 0)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            yield reader, writer
        finally:
            writer.close()
            await asyncio.wait([asyncio.create_task(writer.wait_closed())])

    async def says(self, raw: bytes) -> bytes:
        """Whatever comes back until the server closes."""
        async with self.connected() as (reader, writer):
            writer.write(raw)
            return await everything(reader)


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes, which it must do."""
    answer = b""
    async with asyncio.timeout(60):
        while some := await _some(reader):
            answer += some
    return answer


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:  # it closed before it had read all
        return b""


def statuses(answers: bytes) -> list[int]:
    """The status of each answer in what came back."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]
