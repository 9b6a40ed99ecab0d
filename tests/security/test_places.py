"""The connections of a process: who has to go when there is one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.connection import Connection
from tests.gateway import serve
from tests.security.wire import Caller, everything

PLAIN = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhal"

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Three(Connection):
    """Three at once."""

    most = 3
    most_heads_bytes = 2_000


class Busy:
    """A server that answers `/busy` when it is told to, and all else at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.changed = asyncio.Condition()
        self.go_on = asyncio.Event()
        self.scopes: list[Any] = []

    async def answer(self, request: Request) -> Response:
        self.scopes.append(request.scope)
        await request.body()
        if request.url.path == "/busy":
            async with self.changed:
                self.inside += 1
                self.changed.notify_all()
            await self.go_on.wait()
        return Response("yes")

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Caller]:
        app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])
        async with serve(app, connection=Three) as url:
            yield Caller(url)

    async def work_on(self, peer: Peer) -> None:
        """Let `peer` send a whole request, and wait until it is worked on."""
        before = self.inside
        peer[1].write(PLAIN.replace(b"/ ", b"/busy "))
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.inside > before)


async def _answered(peer: Peer, request: bytes = PLAIN) -> None:
    peer[1].write(request)
    async with asyncio.timeout(10):
        await peer[0].readuntil(b"yes")


@pytest.mark.parametrize("said", [b"", HALF, b"GET / HT"], ids=["nothing", "half a body", "half a head"])
async def test_of_too_many_connections_the_one_that_has_waited_longest_without_a_whole_request_goes(
    said: bytes,
) -> None:
    server = Busy()
    async with server.up() as caller, AsyncExitStack() as stack:
        busy = await stack.enter_async_context(caller.connected())
        await server.work_on(busy)
        idle = await stack.enter_async_context(caller.connected())
        await _answered(idle)
        stranger = await stack.enter_async_context(caller.connected())
        stranger[1].write(said)
        await _answered(idle)  # so that the stranger waits for longer
        newest = await stack.enter_async_context(caller.connected())
        await _answered(newest)
        assert await everything(stranger[0]) == b""
        await _answered(idle)
        server.go_on.set()
        assert (await busy[0].readuntil(b"yes")).startswith(b"HTTP/1.1 200 ")


async def test_where_all_are_busy_with_a_whole_request_the_newest_goes() -> None:
    server = Busy()
    async with server.up() as caller, AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(caller.connected()) for _ in range(3)]
        for one in busy:
            await server.work_on(one)
        newest = await stack.enter_async_context(caller.connected())
        assert await everything(newest[0]) == b""
        server.go_on.set()
        for one in busy:
            assert (await one[0].readuntil(b"yes")).startswith(b"HTTP/1.1 200 ")
            await _answered(one)


async def test_a_whole_request_that_others_follow_in_half_is_not_closed_upon() -> None:
    server = Busy()
    async with server.up() as caller, AsyncExitStack() as stack:
        peer = await stack.enter_async_context(caller.connected())
        await server.work_on(peer)
        peer[1].write(HALF)
        for _ in range(5):
            other = await stack.enter_async_context(caller.connected())
            await _answered(other)
        server.go_on.set()
        await peer[0].readuntil(b"yes")


async def test_of_unfinished_heads_that_are_too_large_together_the_oldest_goes() -> None:
    """A stranger needs no key for them."""
    server = Busy()
    async with server.up() as caller, AsyncExitStack() as stack:
        idle = await stack.enter_async_context(caller.connected())
        await _answered(idle)
        first, second = [await stack.enter_async_context(caller.connected()) for _ in range(2)]
        first[1].write(b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000)
        await _answered(idle)
        second[1].write(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10)  # ten lines take more than their 60 bytes
        assert await everything(first[0]) == b""
        second[1].write(b"\r\n")
        await _answered(second, b"")
        await _answered(idle)


async def test_a_connection_that_idles_keeps_nothing_of_the_head_of_its_last_request() -> None:
    """A stranger may have thousands of them."""
    server = Busy()
    async with server.up() as caller, AsyncExitStack() as stack:
        peer = await stack.enter_async_context(caller.connected())
        for _ in range(2):
            await _answered(peer, b"GET /?q HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 1_000 + b"\r\n\r\n")
        first = server.scopes[0]
        assert (first["headers"], first["query_string"]) == ([], b"")
        peer[1].write(b"POST /busy HTTP/1.1\r\nHost: x\r\nx: y\r\nContent-Length: 1\r\n\r\nz")
        async with asyncio.timeout(10), server.changed:
            await server.changed.wait_for(lambda: server.inside == 1)
        assert dict(server.scopes[2]["headers"])[b"x"] == b"y", "as long as it is worked on"
        server.go_on.set()
        await peer[0].readuntil(b"yes")
