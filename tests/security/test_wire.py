"""Bytes that no honest client sends: requests with two ends, endless heads, callers who take their time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import httpx
import orjson
import pytest

from service.api.connection import MOST_HEAD_BYTES, MOST_HEADERS, MOST_PIPELINED, Connection
from tests.security.wire import LARGE, Server, everything, statuses

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
PLAIN = b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n"


class Hasty(Connection):
    """Gives up after a moment."""

    within_s = 0.3


def _post(*headers: bytes, body: bytes = b"", path: bytes = b"/") -> bytes:
    return b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"Host: x", *headers, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(_post(b"Content-Length: 4", CHUNKED, body=END), id="length and chunks"),
        pytest.param(_post(CHUNKED, b"Content-Length: 4", body=END), id="chunks and length"),
        pytest.param(_post(b"Content-Length: 4", b"Content-Length: 0", body=b"abcd"), id="two lengths"),
        pytest.param(_post(b"Content-Length: 4", b"Content-Length: 4", body=b"abcd"), id="one length twice"),
        pytest.param(_post(b"Content-Length: 4, 4", body=b"abcd"), id="list of lengths"),
        pytest.param(_post(b"Content-Length: +4", body=b"abcd"), id="length with sign"),
        pytest.param(_post(b"Content-Length: -4", body=b"abcd"), id="negative length"),
        pytest.param(_post(b"Content-Length: 0x4", body=b"abcd"), id="hexadecimal length"),
        pytest.param(_post(b"Content-Length: 99999999999999999999999", body=b"abcd"), id="length beyond 64 bits"),
        pytest.param(_post(b"Content-Length:", body=b""), id="empty length"),
        pytest.param(_post(b"Content-Length : 4", body=b"abcd"), id="space before the colon"),
        pytest.param(_post(b"Transfer-Encoding: xchunked", body=END), id="unknown coding"),
        pytest.param(_post(b"Transfer-Encoding: identity", body=b""), id="identity"),
        pytest.param(_post(b"Transfer-Encoding: chunked, identity", body=END), id="chunked is not last"),
        pytest.param(_post(b"Transfer-Encoding: gzip, chunked", body=END), id="a coding we do not undo"),
        pytest.param(_post(CHUNKED, CHUNKED, body=END), id="chunked twice"),
        pytest.param(_post(CHUNKED, b"Transfer-Encoding: identity", body=END), id="chunked, then identity"),
        pytest.param(_post(b"Transfer-Encoding: identity", CHUNKED, body=END), id="identity, then chunked"),
        pytest.param(_post(b"Transfer-Encoding:\x0bchunked", body=END), id="vertical tab"),
        pytest.param(_post(b"X-A: b\r\n Content-Length: 4", body=b"abcd"), id="folded header"),
        pytest.param(_post(b"Transfer-Encoding:\r\n chunked", body=END), id="folded coding"),
        pytest.param(_post(b"X-A: b\rContent-Length: 4", body=b"abcd"), id="bare CR"),
        pytest.param(b"GET / HTTP/1.1\nHost: x\n\n", id="bare LF"),
        pytest.param(_post(b"X-A: b\x00c"), id="NUL in a header"),
        pytest.param(_post(CHUNKED, body=b"4;a\nabcd\r\n" + END), id="chunk extension with a bare LF"),
        pytest.param(_post(CHUNKED, body=b"4\nabcd\n0\n\n"), id="chunks with bare LF"),
        pytest.param(_post(CHUNKED, body=b"0x4\r\nabcd\r\n" + END), id="chunk size with a prefix"),
        pytest.param(_post(CHUNKED, body=b"FFFFFFFFFFFFFFFF0\r\nabcd\r\n" + END), id="chunk size beyond 64 bits"),
        pytest.param(_post(CHUNKED, body=b"2\r\nabcd\r\n" + END), id="chunk longer than it says"),
        pytest.param(_post(CHUNKED, body=b"0\r\nContent-Length: 50\r\n\r\n"), id="length as a trailer"),
        pytest.param(b"CONNECT db:5432 HTTP/1.1\r\nHost: db\r\n\r\n", id="tunnel"),
        pytest.param(_post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 2", body=b"{}"), id="h2c"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n", id="NUL in the path"),
    ],
)
async def test_a_request_that_two_servers_may_read_in_two_ways_is_refused_and_ends_its_connection(
    request_bytes: bytes,
) -> None:
    server = Server()
    async with server.up() as caller:
        answers = await caller.says(request_bytes + SMUGGLED)
    assert statuses(answers) == [400]
    assert orjson.loads(answers.partition(b"\r\n\r\n")[2])["code"] in {"not_http", "upgrade_refused"}
    assert "/smuggled" not in dict(server.seen)


async def test_chunks_may_have_extensions_and_nothing_follows_a_request_that_says_it_is_the_last() -> None:
    server = Server()
    async with server.up() as caller:
        body = b'4;a=b;c="d"\r\nabcd\r\n' + END
        answers = await caller.says(_post(CHUNKED, b"Connection: close", body=body) + SMUGGLED)
    assert statuses(answers) == [200]
    assert server.seen == [("/", 4)]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param([b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"], id="a large header"),
        pytest.param([b"GET / HTTP/1.1\r\nX: ", *[b"a" * 10_000] * 20], id="a header without an end"),
        pytest.param([b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n"], id="a large URL"),
        pytest.param([b"GET /", *[b"a" * 10_000] * 20], id="a URL without an end"),
        pytest.param([_post(*[b"X: 1"] * MOST_HEADERS)], id="too many headers"),
        pytest.param([b"GET / HTTP/1.1\r\n", *[b"X: 1\r\n" * 1000] * 20], id="headers without an end"),
        pytest.param([PLAIN[:-2], b"X: " + b"a" * 40_000 + b"\r\n\r\n"], id="a second part that is large"),
    ],
)
async def test_a_head_above_the_limit_is_refused(head: list[bytes]) -> None:
    server = Server()
    async with server.up() as caller, caller.connected() as (reader, writer):
        for part in head:
            writer.write(part)
            try:
                await writer.drain()
            except ConnectionError:
                break
        answers = await everything(reader)
    # Where more than the limit was under way, the system may have thrown the answer away.
    assert statuses(answers) == [431] or (len(head) > 2 and not answers)
    assert server.seen == []


async def test_what_is_within_the_limits_is_taken() -> None:
    server = Server()
    large = b"X: " + b"a" * (MOST_HEAD_BYTES - 1_000)
    async with server.up() as caller:
        for request in (
            _post(b"Connection: close", *[b"X: 1"] * (MOST_HEADERS - 2)),
            _post(large, b"Connection: close"),
        ):
            assert statuses(await caller.says(request)) == [200]
        body = b"x" * 300_000
        assert statuses(await caller.says(_post(b"Content-Length: 300000", b"Connection: close", body=body))) == [200]
        async with httpx.AsyncClient(base_url=server.url) as http:
            for _ in range(200):  # so many heads together are above the limit
                assert (await http.get("/again", headers={"X": "a" * 500})).status_code == 200
    assert server.seen[2] == ("/", 300_000)


async def test_of_many_requests_in_one_packet_a_few_are_answered() -> None:
    server = Server()
    async with server.up() as caller:
        answers = await caller.says(PLAIN * 5_000)
    assert len(server.seen) == MOST_PIPELINED + 1
    assert statuses(answers) == [200] * (MOST_PIPELINED + 1)


@pytest.mark.parametrize("rest", [b"garbage\r\n\r\n", _post(CHUNKED, body=b"no chunk")])
async def test_a_request_gets_its_own_answer_though_nonsense_follows_it(rest: bytes) -> None:
    """A 400 in its place would say that nothing was stored."""
    server = Server()
    async with server.up(Hasty) as caller:
        answers = await caller.says(PLAIN + PLAIN + rest)
    assert statuses(answers)[:2] == [200, 200]
    assert server.seen[:2] == [("/plain", 0)] * 2


async def _dribble(writer: asyncio.StreamWriter, parts: Iterable[bytes]) -> None:
    """One part each tenth of a second, for longer than the test lasts."""
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"", b"\r\n", id="empty lines"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X: 1\r\n", id="headers"),
        pytest.param(_post(b"Content-Length: 9999", path=b"/early"), b"x", id="a body that nobody waits for"),
        pytest.param(_post(CHUNKED, path=b"/early", body=b"4;"), b"x", id="a chunk extension"),
        pytest.param(_post(b"Content-Length: 9999"), b"x", id="a body"),
        pytest.param(PLAIN, b"\r\n", id="empty lines after a request"),
    ],
)
async def test_a_caller_who_takes_his_time_loses_his_connection(first: bytes, then: bytes) -> None:
    server = Server()
    async with server.up(Hasty) as caller, caller.connected() as (reader, writer):
        dribbling = asyncio.create_task(_dribble(writer, [first, *[then] * 300]))
        answers = await everything(reader)
        dribbling.cancel()
    assert statuses(answers) in ([], [200])


async def test_a_request_in_pieces_that_is_whole_in_time_is_answered() -> None:
    server = Server()
    async with server.up() as caller, caller.connected() as (reader, writer):
        for piece in (b"POST / HT", b"TP/1.1\r\nConnection: close\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd"):
            writer.write(piece)
            await writer.drain()
        assert statuses(await everything(reader)) == [200]
    assert server.seen == [("/", 4)]


class Watched(Hasty):
    """Tells when a connection is gone."""

    within_s = 1.0
    gone = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()


@pytest.mark.parametrize("how", [b"Connection: close", b"Connection: keep-alive"])
async def test_a_caller_who_does_not_read_loses_his_connection(how: bytes) -> None:
    Watched.gone = asyncio.Event()
    server = Server()
    async with server.up(Watched) as caller, caller.connected() as (_, writer):
        writer.write(_post(how, path=b"/large"))
        await asyncio.wait_for(Watched.gone.wait(), 20)


async def test_a_caller_who_reads_gets_a_large_answer_whole() -> None:
    server = Server()
    async with server.up() as caller:
        answer = await caller.says(_post(b"Connection: close", path=b"/large"))
    assert len(answer) > LARGE
