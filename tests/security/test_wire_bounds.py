"""What comes with a body and is none of it, and what comes after an answer."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from service.api.connection import MOST_DISCARDED_BYTES, MOST_HEADERS, Connection
from tests.gateway import serve
from tests.security.wire import Caller, Server, everything, statuses

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
END = b"0\r\n\r\n"


async def _told(head: bytes, parts: list[bytes], connection: type[Connection] = Connection) -> tuple[bytes, Server]:
    """What is answered to a request that comes in parts, each in a packet of its own once the one before was read."""
    server = Server()
    async with server.up(connection) as caller, caller.connected() as (reader, writer):
        for part in [head, *parts]:
            writer.write(part)
            try:
                await writer.drain()
            except ConnectionError:
                break
        return await everything(reader), server


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([b"0\r\n" + b"a:b\r\n" * (MOST_HEADERS + 2)], id="trailers in one packet"),
        pytest.param([b"0\r\n", *[b"a:b\r\n" * 10_000] * 200], id="trailers without end"),
        pytest.param([b"0\r\na:", *[b"b" * 50_000] * 200], id="a trailer without end"),
        pytest.param([b"1;", *[b"b" * 50_000] * 200], id="an extension without end"),
        pytest.param([b"1;" + b"b" * 1_000 + b"\r\nx\r\n"] * 20_000, id="extensions without end"),
        pytest.param([b"100000\r\n" + b"x" * 0x100000 + b"\r\n0\r\na:", *[b"b" * 50_000] * 100], id="after a body"),
    ],
)
async def test_what_is_no_body_is_bounded(parts: list[bytes]) -> None:
    answers, server = await _told(HEAD, parts)
    assert statuses(answers) == [400]
    assert orjson.loads(answers.partition(b"\r\n\r\n")[2])["code"] == "framing_too_large"
    assert server.seen == []


async def test_the_smallest_chunks_and_a_few_trailers_are_taken() -> None:
    parts = [b"1\r\nx\r\n" * 50_000] * 4 + [b"0004;ext=12345678\r\nbody\r\n" * 5_000]
    end = b"0\r\n" + b"X-Checksum: abc\r\n" * 50 + b"\r\n" + PLAIN
    answers, server = await _told(HEAD, [*parts, end])
    assert statuses(answers) == [200, 200]
    assert server.seen == [("/", 220_000), ("/plain", 0)]


async def test_a_trailer_is_never_a_header() -> None:
    seen: list[dict[str, Any]] = []

    async def answer(request: Request) -> JSONResponse:
        await request.body()
        named = {name.decode(): value.decode() for name, value in request.scope["named_headers"].items()}
        seen.append({"headers": dict(request.headers), "named": named})
        return JSONResponse({})

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    async with serve(app) as url, Caller(url).connected() as (reader, writer):
        writer.write(HEAD.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"2\r\n{}\r\n0\r\n")
        await writer.drain()
        writer.write(b"X-Twilio-Signature: s\r\nHost: y\r\nExpect: 100-continue\r\n\r\n")
        assert statuses(await everything(reader)) == [200]
    expected = {"host": "x", "connection": "close", "transfer-encoding": "chunked"}
    assert seen == [{"headers": expected, "named": expected}]


class Noting(Connection):
    """Notes what its parser is given."""

    parsed = 0
    gone = asyncio.Event()

    def on_body(self, body: bytes) -> None:
        type(self).parsed += len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()


@pytest.fixture
def noting() -> type[Noting]:
    return type("Fresh", (Noting,), {"parsed": 0, "gone": asyncio.Event(), "lingers_s": 60.0})


EARLY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"


async def test_an_answer_before_the_request_was_whole_ends_the_connection_and_is_read_by_who_writes_on(
    noting: type[Noting],
) -> None:
    server = Server()
    async with server.up(noting) as caller, caller.connected() as (reader, writer):
        writer.write(EARLY)
        answer = await everything(reader)  # whose end comes before that of the request
        assert b"\r\nconnection: close\r\n" in answer
        writer.write(b"x" * 5_000_000)
        await writer.drain()
        assert not noting.gone.is_set()
        writer.close()
        await asyncio.wait_for(noting.gone.wait(), 10)
    assert statuses(answer) == [200]
    assert noting.parsed == 0


async def _write_on(writer: asyncio.StreamWriter) -> None:
    for _ in range(MOST_DISCARDED_BYTES // 1_000_000 + 40):
        writer.write(b"x" * 1_000_000)
        await writer.drain()


async def test_who_writes_on_without_end_is_cut_off(noting: type[Noting]) -> None:
    server = Server()
    async with server.up(noting) as caller, caller.connected() as (reader, writer):
        writer.write(EARLY)
        assert statuses(await everything(reader)) == [200]
        with pytest.raises(ConnectionError):
            await _write_on(writer)
        await asyncio.wait_for(noting.gone.wait(), 10)


async def test_who_does_not_leave_is_cut_off(noting: type[Noting]) -> None:
    noting.lingers_s = 0.05
    server = Server()
    async with server.up(noting) as caller, caller.connected() as (reader, writer):
        writer.write(EARLY)
        assert statuses(await everything(reader)) == [200]
        await asyncio.wait_for(noting.gone.wait(), 10)


@pytest.mark.parametrize("head", [EARLY, EARLY.replace(b"Host: x", b"Host: x\r\nConnection: close")])
async def test_the_answer_reaches_a_caller_who_writes_before_he_reads(head: bytes, noting: type[Noting]) -> None:
    server = Server()
    async with server.up(noting) as caller, caller.connected() as (reader, writer):
        for part in [head, *[b"x" * 100_000] * 50]:
            writer.write(part)
            await writer.drain()
        assert statuses(await everything(reader)) == [200]


@pytest.mark.parametrize("refused", [b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n", b"nonsense\r\n\r\n"])
async def test_a_refusal_reaches_a_caller_who_writes_before_he_reads(refused: bytes, noting: type[Noting]) -> None:
    server = Server()
    async with server.up(noting) as caller, caller.connected() as (reader, writer):
        for part in [refused, *[b"x" * 100_000] * 50]:
            writer.write(part)
            await writer.drain()
        assert statuses(await everything(reader))[0] in {400, 431}


async def test_a_connection_goes_on_after_a_body_that_was_not_looked_at_and_was_whole() -> None:
    server = Server()
    async with server.up() as caller:
        early = EARLY.replace(b"100000000", b"4") + b"body"
        assert statuses(await caller.says(early * 3 + PLAIN)) == [200] * 4


async def test_a_refused_body_frees_its_handler_at_once(noting: type[Noting]) -> None:
    """Though the connection is there for a while, for the caller to read why."""
    left = asyncio.Event()

    async def answer(request: Request) -> JSONResponse:
        try:
            await request.body()
        finally:
            left.set()
        return JSONResponse({})

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    async with serve(app, connection=noting) as url, Caller(url).connected() as (reader, writer):
        writer.write(HEAD + b"5\r\nhello\r\n")
        await writer.drain()
        writer.write(b"no chunk")
        assert statuses(await everything(reader)) == [400]
        await asyncio.wait_for(left.wait(), 10)
        assert not noting.gone.is_set()


async def test_who_has_not_left_after_his_refusal_does_not_hold_up_the_end_of_the_server(noting: type[Noting]) -> None:
    ended: list[bool] = []

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    async with AsyncExitStack() as stack, serve(app, connection=noting) as url:
        reader, writer = await stack.enter_async_context(Caller(url).connected())
        writer.write(HEAD + b"5\r\nhello\r\n")
        await writer.drain()
        writer.write(b"no chunk")
        assert statuses(await everything(reader)) == [400]
        stack.callback(lambda: ended.append(noting.gone.is_set()))
    assert ended == [True]
