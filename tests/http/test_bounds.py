"""How much is read of a reply: of anybody's, of a provider's, of a webhook's receiver."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.errors import MaybeSent
from service.http import PROVIDER_REPLY, WEBHOOK_REPLY, Transport
from service.targets import TargetPolicy
from service.wire import Bounds
from tests.http.raw_server import OK, Connection, hang, opened, post, serving, writes

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PATIENT = Bounds(WEBHOOK_REPLY.head_bytes, WEBHOOK_REPLY.body_bytes, rest_within_s=60.0)
"""So that no test passes only because the patience was over."""


@asynccontextmanager
async def within(bounds: Bounds) -> AsyncIterator[Transport]:
    transport = Transport(TargetPolicy.trusting(), bounds=bounds)
    try:
        yield transport
    finally:
        await transport.aclose()


def pours(first: bytes, then: bytes) -> Connection:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not reader.at_eof():
            writer.write(then)
            await writer.drain()

    return pour


async def test_a_trailer_is_never_a_header() -> None:
    reply = CHUNKED + b"2\r\n{}\r\n0\r\nContent-Encoding: gzip\r\nRetry-After: 9\r\nX: y\r\n\r\n"
    async with serving(reply, OK) as server, opened() as transport:
        response = await transport.send(post(server.url), timeout_s=5)
        assert response.json() == {}
        assert list(response.headers) == ["transfer-encoding", "content-length"]  # httpx adds the latter
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"ok"
        assert server.connections == 1


ENDLESS = [
    pytest.param(CHUNKED + b"0\r\n", b"a:b\r\n" * 20_000, id="trailers"),
    pytest.param(CHUNKED + b"0\r\na:", b"b" * 100_000, id="a trailer"),
    pytest.param(CHUNKED + b"1;", b"b" * 100_000, id="an extension"),
    pytest.param(CHUNKED, b"1;" + b"b" * 1_000 + b"\r\nx\r\n", id="extensions"),
]


@pytest.mark.parametrize(("first", "then"), ENDLESS)
async def test_what_is_no_body_is_not_read_on(first: bytes, then: bytes) -> None:
    async with serving(then=pours(first, then)) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(post(server.url), timeout_s=30)


@pytest.mark.parametrize("lines", [b"X: y\r\n" * 300, b"HTTP/1.1 100 Go on\r\n\r\n" * 300], ids=["headers", "100"])
async def test_a_head_of_too_many_lines_is_not_read_on(lines: bytes) -> None:
    start = b"HTTP/1.1 200 OK\r\n" if lines.startswith(b"X") else b""
    async with serving(then=writes(start + lines, then=hang)) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(post(server.url), timeout_s=30)


async def test_the_smallest_chunks_and_a_few_trailers_are_taken() -> None:
    reply = CHUNKED + b"1\r\nx\r\n" * 200_000 + b"0\r\n" + b"X: y\r\n" * 100 + b"\r\n"
    async with serving(reply) as server, opened() as transport:
        assert len((await transport.send(post(server.url), timeout_s=30)).content) == 200_000


async def test_of_a_provider_less_is_read() -> None:
    for size, fits in [(256 * 1024, True), (256 * 1024 + 1, False)]:
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        async with serving(reply) as server, within(PROVIDER_REPLY) as transport:
            if fits:
                assert len((await transport.send(post(server.url), timeout_s=30)).content) == size
            else:
                with pytest.raises(MaybeSent, match="ReplyTooLarge"):
                    await transport.send(post(server.url), timeout_s=30)


async def test_what_a_provider_packs_is_no_larger_unpacked() -> None:
    body = gzip.compress(bytes(PROVIDER_REPLY.body_bytes + 1))
    reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with serving(reply) as server, within(PROVIDER_REPLY) as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(post(server.url), timeout_s=30)


# A webhook's receiver.

HEAD = b"HTTP/1.1 503 Later\r\nRetry-After: 7\r\nContent-Encoding: gzip\r\n"


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(pours(HEAD + b"\r\n", b"x" * 100_000), id="no end"),
        pytest.param(writes(HEAD + b"Content-Length: 20000\r\n\r\n" + b"x" * 17_000, then=hang), id="too long"),
        pytest.param(writes(HEAD + b"Content-Length: 9\r\n\r\nx"), id="cut"),
        pytest.param(writes(HEAD + b"Transfer-Encoding: chunked\r\n\r\nno chunk", then=hang), id="no chunks"),
        *(
            pytest.param(pours(HEAD + first.partition(b"\r\n")[2], then), id=str(case.id))
            for case in ENDLESS
            for first, then in [(case.values[0], case.values[1])]
            if isinstance(first, bytes) and isinstance(then, bytes)
        ),
    ],
)
async def test_the_head_decides_whatever_becomes_of_the_rest(behaviour: Connection) -> None:
    async with serving(then=behaviour) as server, within(PATIENT) as transport:
        response = await transport.send(post(server.url), timeout_s=30)
        assert (response.status_code, response.headers["retry-after"], response.content) == (503, "7", b"")
        server.replies, server.answer = (OK,), server.tell
        assert (await transport.send(post(server.url), timeout_s=30)).status_code == 200
        assert server.connections == 2


async def test_a_rest_that_trickles_is_not_waited_for() -> None:
    trickles = writes(HEAD + b"Content-Length: 9\r\n\r\nx", then=hang)
    async with serving(then=trickles) as server, within(Bounds(rest_within_s=0.05)) as transport:
        response = await transport.send(post(server.url), timeout_s=30)
    assert response.status_code == 503


async def test_after_a_short_reply_the_connection_is_used_again() -> None:
    packed = HEAD + b"Content-Length: 4\r\n\r\nnope"
    async with serving(packed, OK, b"HTTP/1.1 204 Done\r\n\r\n") as server, within(PATIENT) as transport:
        replies = [await transport.send(post(server.url), timeout_s=5) for _ in range(3)]
        assert [(reply.status_code, reply.content) for reply in replies] == [(503, b""), (200, b""), (204, b"")]
        assert server.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", id="a large head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="another head is to come"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", id="another protocol"),
    ],
)
async def test_without_a_head_there_is_no_status(reply: bytes) -> None:
    async with serving(then=writes(reply)) as server, within(PATIENT) as transport:
        with pytest.raises(MaybeSent):
            await transport.send(post(server.url), timeout_s=5)
