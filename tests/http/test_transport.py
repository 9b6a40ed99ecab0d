from __future__ import annotations

import asyncio
import gzip
import socket
import traceback
import zlib
from collections.abc import Callable

import httpx
import pytest

from service.errors import HttpError, MaybeSent, NotSent
from service.http import Transport
from service.targets import TargetPolicy
from service.wire import ANY_REPLY
from tests.http.raw_server import (
    OK,
    Connection,
    SelfSigned,
    close,
    hang,
    hanging_names,
    names,
    no_names,
    opened,
    post,
    reset,
    serving,
    writes,
)


async def test_a_request_goes_out_as_built_and_the_reply_comes_back_whole() -> None:
    reply = b"HTTP/1.1 202 Accepted\r\nX-Request: 7\r\nContent-Length: 5\r\n\r\nhello"
    async with serving(reply) as server, opened() as transport:
        request = httpx.Request("POST", f"{server.url}/v1/send?a=%2B1", headers={"X-Key": "k"}, json={"to": "+1"})
        response = await transport.send(request, timeout_s=5)
    assert (response.status_code, response.content, response.headers["x-request"]) == (202, b"hello", "7")
    assert response.request is request
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/send?a=%2B1 HTTP/1.1\r\n")
    assert body == b'{"to":"+1"}'
    names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {b"host", b"x-key", b"content-length", b"content-type", b"accept-encoding"}


async def test_what_a_request_says_of_codings_stands() -> None:
    async with serving(OK) as server, opened() as transport:
        request = httpx.Request("GET", server.url, headers={"Accept-Encoding": "gzip"})
        await transport.send(request, timeout_s=5)
    assert server.requests[0].lower().count(b"accept-encoding") == 1


async def test_a_connection_is_used_again() -> None:
    async with serving(OK, OK) as server, opened() as transport:
        for _ in range(2):
            assert (await transport.send(post(server.url), timeout_s=5)).content == b"ok"
        assert server.connections == 1


def _packed(coding: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _headless(body: bytes) -> bytes:
    return zlib.compress(body, wbits=-zlib.MAX_WBITS)


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", _headless),
        ("UTF-8", bytes),
        ("br", bytes),
        ("gzip, x", bytes),
        ("identity", bytes),
    ],
)
async def test_a_reply_is_unpacked_once_where_it_is_known_how(coding: str, pack: Callable[[bytes], bytes]) -> None:
    async with serving(_packed(coding, pack(b'{"status":"queued"}'))) as server, opened() as transport:
        response = await transport.send(post(server.url), timeout_s=5)
    assert response.json() == {"status": "queued"}


async def test_a_redirect_is_not_followed() -> None:
    reply = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with serving(reply, OK) as server, opened() as transport:
        response = await transport.send(post(server.url), timeout_s=5)
    assert response.status_code == 302
    assert len(server.requests) == 1


async def test_cookies_are_not_kept() -> None:
    reply = b"HTTP/1.1 200 OK\r\nSet-Cookie: id=7\r\nContent-Length: 0\r\n\r\n"
    async with serving(reply, OK) as server, opened() as transport:
        await transport.send(post(server.url), timeout_s=5)
        await transport.send(post(server.url), timeout_s=5)
    assert b"cookie" not in server.requests[1].lower()


async def test_a_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(OK) as server, opened() as transport:
        assert (await transport.send(post(server.url), timeout_s=5)).status_code == 200


# Nothing was sent.


async def test_a_refused_connection_is_not_sent(unused_port: int) -> None:
    async with opened() as transport:
        with pytest.raises(NotSent, match="ConnectionRefusedError"):
            await transport.send(post(f"http://127.0.0.1:{unused_port}"), timeout_s=5)


async def test_a_name_that_is_not_found_is_not_sent() -> None:
    async with opened(resolve=no_names) as transport:
        with pytest.raises(NotSent, match="gaierror"):
            await transport.send(post("http://provider.example"), timeout_s=5)


async def test_a_name_without_addresses_is_not_sent() -> None:
    async with opened(resolve=names([])) as transport:
        with pytest.raises(NotSent, match="gaierror"):
            await transport.send(post("http://provider.example"), timeout_s=5)


async def test_a_server_that_speaks_no_tls_is_not_sent_to() -> None:
    async with serving(then=hang) as server, opened() as transport:
        server.answer = writes(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(NotSent, match="SSLError"):
            await transport.send(post(f"https://127.0.0.1:{server.port}"), timeout_s=5)


async def test_a_certificate_that_nobody_signed_is_not_sent_to(self_signed: SelfSigned) -> None:
    async with serving(OK, tls=self_signed.context) as server, opened() as transport:
        with pytest.raises(NotSent, match="SSLCertVerificationError"):
            await transport.send(post(f"https://127.0.0.1:{server.port}"), timeout_s=5)
    assert server.requests == []


async def test_a_certificate_for_another_name_is_not_sent_to(self_signed: SelfSigned) -> None:
    transport = Transport(TargetPolicy.trusting(), ca_file=self_signed.ca_file, resolve=names(["127.0.0.1"]))
    try:
        async with serving(OK, tls=self_signed.context) as server:
            with pytest.raises(NotSent, match="SSLCertVerificationError"):
                await transport.send(post(f"https://provider.example:{server.port}"), timeout_s=5)
        assert server.requests == []
    finally:
        await transport.aclose()


async def test_a_server_with_a_certificate_that_is_trusted_is_sent_to(self_signed: SelfSigned) -> None:
    transport = Transport(TargetPolicy.trusting(), ca_file=self_signed.ca_file)
    try:
        async with serving(OK, OK, tls=self_signed.context) as server:
            for _ in range(2):
                response = await transport.send(post(f"https://127.0.0.1:{server.port}"), timeout_s=5)
                assert response.content == b"ok"
            assert server.connections == 1
    finally:
        await transport.aclose()


async def test_a_slow_connect_is_not_sent() -> None:
    async with opened(resolve=hanging_names) as transport:
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(post("http://provider.example"), timeout_s=5, connect_timeout_s=0.05)


async def test_a_deadline_that_passes_before_the_connection_is_not_sent() -> None:
    async with opened(resolve=hanging_names) as transport:
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(post("http://provider.example"), timeout_s=0.05)


async def test_a_request_that_got_no_connection_of_the_pool_is_not_sent() -> None:
    async with serving(then=hang) as server, opened(max_connections=1) as transport:
        first = asyncio.create_task(transport.send(post(server.url), timeout_s=5))
        await asyncio.wait_for(server.requested.wait(), 5)
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(post(server.url), timeout_s=5, connect_timeout_s=0.05)
        first.cancel()
        await asyncio.wait([first])
    assert len(server.requests) == 1


async def test_a_closed_transport_sends_nothing() -> None:
    async with serving(OK) as server, opened() as transport:
        await transport.aclose()
        with pytest.raises(NotSent):
            await transport.send(post(server.url), timeout_s=5)
        assert server.connections == 0


# Something may have been sent.


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(close, id="closed before the reply"),
        pytest.param(reset, id="reset before the reply"),
        pytest.param(hang, id="no reply"),
        pytest.param(writes(b"HTTP/1.1 200 OK\r\nContent-Le"), id="cut in the head"),
        pytest.param(writes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"), id="cut in the body"),
        pytest.param(writes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"), id="cut in a chunk"),
        pytest.param(writes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal", then=hang), id="stuck in the body"),
        pytest.param(writes(b"SMTP ready\r\n\r\n"), id="not HTTP"),
        pytest.param(writes(_packed("gzip", b"nope")), id="not gzip"),
        pytest.param(writes(_packed("gzip", gzip.compress(b"ok")[:-1])), id="half of a gzip"),
        pytest.param(writes(_packed("gzip", gzip.compress(b"ok") + b"more")), id="more than a gzip"),
        pytest.param(
            writes(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"), id="not HTTP any more"
        ),
        pytest.param(
            writes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            id="of two lengths",
        ),
    ],
)
async def test_what_breaks_after_the_connection_may_have_been_sent(behaviour: Connection) -> None:
    async with serving(then=behaviour) as server, opened() as transport:
        with pytest.raises(MaybeSent):
            await transport.send(post(server.url), timeout_s=0.3)
    assert len(server.requests) == 1


async def test_a_reply_above_the_limit_may_have_been_sent_and_is_not_read_on() -> None:
    size = ANY_REPLY.body_bytes + 1
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with serving(reply) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(post(server.url), timeout_s=5)


async def test_a_small_reply_that_unpacks_to_a_large_one_is_refused() -> None:
    body = gzip.compress(bytes(ANY_REPLY.body_bytes * 8))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(head + body) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(post(server.url), timeout_s=5)


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
@pytest.mark.parametrize("behaviour", [close, reset])
async def test_a_kept_connection_that_breaks_is_never_repeated(method: str, behaviour: Connection) -> None:
    async with serving(OK, then=behaviour) as server, opened() as transport:
        await transport.send(httpx.Request(method, server.url), timeout_s=5)
        with pytest.raises(MaybeSent):
            await transport.send(httpx.Request(method, server.url), timeout_s=5)
    assert (len(server.requests), server.connections) == (2, 1)


async def test_a_deadline_after_the_connection_may_have_been_sent() -> None:
    async with serving(OK, then=hang) as server, opened() as transport:
        await transport.send(post(server.url), timeout_s=5)
        with pytest.raises(MaybeSent, match="TimeoutError"):
            await transport.send(post(server.url), timeout_s=0.05)
    assert server.connections == 1


async def test_a_cancelled_send_is_cancelled() -> None:
    async with serving(then=hang) as server, opened() as transport:
        task = asyncio.create_task(transport.send(post(server.url), timeout_s=5))
        await asyncio.wait_for(server.requested.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_errors_hold_nothing_of_the_request(unused_port: int) -> None:
    async with serving(then=close) as server, opened(resolve=hanging_names) as transport:
        for host in (f"127.0.0.1:{unused_port}", f"127.0.0.1:{server.port}", "provider.example"):
            request = post(f"http://{host}/path?token=s3cret", b"s3cret")
            with pytest.raises(HttpError) as caught:
                await transport.send(request, timeout_s=5, connect_timeout_s=0.05)
            assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> SelfSigned:
    return SelfSigned.made(tmp_path_factory.mktemp("tls"))
