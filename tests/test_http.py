from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import socket
import ssl
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import httpx
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.errors import HttpError, MaybeSent, NotSent, TargetRefused
from service.http import MAX_REPLY_BYTES, TargetPolicy, Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A raw server on loopback. `requests` holds each request that came in, head and body."""

    def __init__(self, answer: Connection) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.requested = asyncio.Event()
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        request = head + await reader.readexactly(length)
        self.requests.append(request)
        self.requested.set()
        return request


@asynccontextmanager
async def serving(
    *replies: bytes, then: Connection | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve: each connection gets the replies to its requests one by one, then `then` has it, then it is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await server.read(reader)
            writer.write(reply)
            await writer.drain()
        if then is not None:
            await server.read(reader)
            await then(reader, writer)

    server = Server(answer)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


async def _close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Closes after the request, without a reply."""


async def _reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def _writes(reply: bytes, *, then: Connection = _close) -> Connection:
    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()
        await then(reader, writer)

    return write


class Names(AbstractResolver):
    """DNS with the given answers, one list for each question; the last is repeated."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in answer
        ]

    async def close(self) -> None: ...


class HangingNames(Names):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del host, port, family
        await asyncio.Event().wait()
        raise AssertionError


class NoNames(Names):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del host, port, family
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@asynccontextmanager
async def opened(
    policy: TargetPolicy | None = None, *, max_connections: int = 256, resolver: AbstractResolver | None = None
) -> AsyncIterator[Transport]:
    transport = Transport(policy or TargetPolicy.trusting(), max_connections=max_connections, resolver=resolver)
    try:
        yield transport
    finally:
        await transport.aclose()


def _post(url: str, content: bytes = b"{}") -> httpx.Request:
    return httpx.Request("POST", url, content=content)


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


async def test_a_connection_is_used_again() -> None:
    async with serving(OK, OK) as server, opened() as transport:
        for _ in range(2):
            assert (await transport.send(_post(server.url), timeout_s=5)).content == b"ok"
        assert server.connections == 1


async def test_a_compressed_reply_is_decoded_once() -> None:
    body = gzip.compress(b'{"status":"queued"}')
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with serving(head + body) as server, opened() as transport:
        response = await transport.send(_post(server.url), timeout_s=5)
    assert response.json() == {"status": "queued"}


async def test_a_redirect_is_not_followed() -> None:
    reply = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with serving(reply, OK) as server, opened() as transport:
        response = await transport.send(_post(server.url), timeout_s=5)
    assert response.status_code == 302
    assert len(server.requests) == 1


async def test_cookies_are_not_kept() -> None:
    reply = b"HTTP/1.1 200 OK\r\nSet-Cookie: id=7\r\nContent-Length: 0\r\n\r\n"
    async with serving(reply, OK) as server, opened() as transport:
        await transport.send(_post(server.url), timeout_s=5)
        await transport.send(_post(server.url), timeout_s=5)
    assert b"cookie" not in server.requests[1].lower()


async def test_a_proxy_of_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(OK) as server, opened() as transport:
        assert (await transport.send(_post(server.url), timeout_s=5)).status_code == 200


# Nothing was sent.


async def test_a_refused_connection_is_not_sent(unused_port: int) -> None:
    async with opened() as transport:
        with pytest.raises(NotSent, match="ConnectionRefusedError"):
            await transport.send(_post(f"http://127.0.0.1:{unused_port}"), timeout_s=5)


async def test_a_name_that_is_not_found_is_not_sent() -> None:
    async with opened(resolver=NoNames()) as transport:
        with pytest.raises(NotSent, match="gaierror"):
            await transport.send(_post("http://provider.example"), timeout_s=5)


async def test_a_name_without_addresses_is_not_sent() -> None:
    async with opened(resolver=Names([])) as transport:
        with pytest.raises(NotSent, match="gaierror"):
            await transport.send(_post("http://provider.example"), timeout_s=5)


async def test_a_server_that_speaks_no_tls_is_not_sent_to() -> None:
    async with serving(then=_hang) as server, opened() as transport:
        server.answer = _writes(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(NotSent, match="SSLError"):
            await transport.send(_post(f"https://127.0.0.1:{server.port}"), timeout_s=5)


async def test_a_certificate_that_nobody_signed_is_not_sent_to(self_signed: ssl.SSLContext) -> None:
    async with serving(OK, tls=self_signed) as server, opened() as transport:
        with pytest.raises(NotSent, match="SSLCertVerificationError"):
            await transport.send(_post(f"https://127.0.0.1:{server.port}"), timeout_s=5)
    assert server.requests == []


async def test_a_slow_connect_is_not_sent() -> None:
    async with opened(resolver=HangingNames()) as transport:
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(_post("http://provider.example"), timeout_s=5, connect_timeout_s=0.05)


async def test_a_deadline_that_passes_before_the_connection_is_not_sent() -> None:
    async with opened(resolver=HangingNames()) as transport:
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(_post("http://provider.example"), timeout_s=0.05)


async def test_a_request_that_got_no_connection_of_the_pool_is_not_sent() -> None:
    async with serving(then=_hang) as server, opened(max_connections=1) as transport:
        first = asyncio.create_task(transport.send(_post(server.url), timeout_s=5))
        await asyncio.wait_for(server.requested.wait(), 5)
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(_post(server.url), timeout_s=5, connect_timeout_s=0.05)
        first.cancel()
        await asyncio.wait([first])
    assert len(server.requests) == 1


async def test_a_closed_transport_sends_nothing() -> None:
    transport = Transport(TargetPolicy.trusting())
    await transport.aclose()
    with pytest.raises(NotSent):
        await transport.send(_post("http://127.0.0.1:9"), timeout_s=5)


# Something may have been sent.


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(_close, id="closed before the reply"),
        pytest.param(_reset, id="reset before the reply"),
        pytest.param(_hang, id="no reply"),
        pytest.param(_writes(b"HTTP/1.1 200 OK\r\nContent-Le"), id="cut in the head"),
        pytest.param(_writes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"), id="cut in the body"),
        pytest.param(_writes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"), id="cut in a chunk"),
        pytest.param(_writes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal", then=_hang), id="stuck in the body"),
        pytest.param(_writes(b"SMTP ready\r\n\r\n"), id="not HTTP"),
        pytest.param(
            _writes(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"), id="not gzip"
        ),
    ],
)
async def test_what_breaks_after_the_connection_may_have_been_sent(behaviour: Connection) -> None:
    async with serving(then=behaviour) as server, opened() as transport:
        with pytest.raises(MaybeSent):
            await transport.send(_post(server.url), timeout_s=0.3)
    assert len(server.requests) == 1


async def test_a_reply_above_the_limit_may_have_been_sent_and_is_not_read_on() -> None:
    size = MAX_REPLY_BYTES + 1
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with serving(reply) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(_post(server.url), timeout_s=5)


async def test_a_small_reply_that_unpacks_to_a_large_one_is_refused() -> None:
    body = gzip.compress(bytes(MAX_REPLY_BYTES * 8))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(head + body) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(_post(server.url), timeout_s=5)


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
@pytest.mark.parametrize("behaviour", [_close, _reset])
async def test_a_kept_connection_that_breaks_is_never_repeated(method: str, behaviour: Connection) -> None:
    async with serving(OK, then=behaviour) as server, opened() as transport:
        await transport.send(httpx.Request(method, server.url), timeout_s=5)
        with pytest.raises(MaybeSent):
            await transport.send(httpx.Request(method, server.url), timeout_s=5)
    assert (len(server.requests), server.connections) == (2, 1)


async def test_a_deadline_after_the_connection_may_have_been_sent() -> None:
    async with serving(OK, then=_hang) as server, opened() as transport:
        await transport.send(_post(server.url), timeout_s=5)
        with pytest.raises(MaybeSent, match="TimeoutError"):
            await transport.send(_post(server.url), timeout_s=0.05)
    assert server.connections == 1


async def test_a_cancelled_send_is_cancelled() -> None:
    async with serving(then=_hang) as server, opened() as transport:
        task = asyncio.create_task(transport.send(_post(server.url), timeout_s=5))
        await asyncio.wait_for(server.requested.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_errors_hold_nothing_of_the_request(unused_port: int) -> None:
    async with serving(then=_close) as server, opened(resolver=HangingNames()) as transport:
        for host in (f"127.0.0.1:{unused_port}", f"127.0.0.1:{server.port}", "provider.example"):
            request = _post(f"http://{host}/path?token=s3cret", b"s3cret")
            with pytest.raises(HttpError) as caught:
                await transport.send(request, timeout_s=5, connect_timeout_s=0.05)
            assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# Targets.


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http:///path",
        "http://.",
        "http://[::1",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://example.org:http/",
        "http://user:password@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example .org/",
        "http://127%2e0%2e0%2e1/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://127.0.0.1/",
        "http://127.8.8.8/",
        "http://127.0.0.1./",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://2130706433/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://api.localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:5601:5601]/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://224.0.0.1/",
        "http://[ff02::1]/",
        "http://255.255.255.255/",
        "http://240.0.0.1/",
    ],
)
def test_by_default_no_target_is_called_that_a_webhook_must_not_reach(url: str) -> None:
    with pytest.raises(TargetRefused):
        TargetPolicy().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook?x=1",
        "http://example.org:8443/",
        "http://b\u00fccher.example/",
        "http://my_service.internal./hook",
        "http://93.184.216.34/",
        "http://[2606:2800:220:1::1]/",
        "http://[2002:5db8:d822::]/",
        "http://10.1.2.3/",
        "http://192.168.0.7:8080/",
        "http://[fd12::7]/",
    ],
)
def test_by_default_public_and_private_targets_are_called(url: str) -> None:
    TargetPolicy().check_url(url)


@pytest.mark.parametrize("url", ["http://xn--/hook", "http://xn--a/"])
def test_a_url_that_no_request_can_be_made_of_is_refused(url: str) -> None:
    with pytest.raises(TargetRefused, match="not a URL"):
        TargetPolicy().check_url(url)


def test_loopback_is_called_where_the_operator_allows_it() -> None:
    policy = TargetPolicy(allow_loopback=True)
    for url in ("http://127.0.0.1:9/", "http://localhost:9/", "http://[::1]:9/", "http://[::ffff:127.0.0.1]/"):
        policy.check_url(url)
    for url in ("http://0.0.0.0/", "http://169.254.169.254/", "http://127.1/"):
        with pytest.raises(TargetRefused):
            policy.check_url(url)


def test_private_networks_can_be_closed_as_a_whole_or_in_part() -> None:
    for policy in (
        TargetPolicy(allow_private=False),
        TargetPolicy(denied_networks=(ip_network("10.0.0.0/8"), ip_network("fd12::/16"))),
    ):
        for url in ("http://10.1.2.3/", "http://[::ffff:10.1.2.3]/", "http://[fd12::7]/"):
            with pytest.raises(TargetRefused):
                policy.check_url(url)
        policy.check_url("http://93.184.216.34/")


def test_the_operators_own_urls_may_lead_anywhere_but_must_be_urls() -> None:
    policy = TargetPolicy.trusting()
    policy.check_url("http://127.0.0.1:8081/")
    policy.check_url("http://localhost:8081/")
    assert policy.permits(ip_address("169.254.169.254"))
    for url in ("gopher://10.0.0.1/", "http://key@provider.example/"):
        with pytest.raises(TargetRefused):
            policy.check_url(url)


def test_a_refusal_says_nothing_of_the_url() -> None:
    for url in ("http://s3cret@example.org/", "http://127.0.0.1/?token=s3cret", "s3cret://x/", "http://s3cret:x/"):
        with pytest.raises(TargetRefused) as caught:
            TargetPolicy().check_url(url)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


async def test_a_literal_address_is_judged_before_it_is_dialled() -> None:
    async with serving(OK) as server, opened(TargetPolicy()) as transport:
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "localhost"):
            with pytest.raises(TargetRefused):
                await transport.send(_post(f"http://{host}:{server.port}"), timeout_s=5)
    assert server.connections == 0


async def test_a_name_that_leads_to_a_forbidden_address_is_not_dialled() -> None:
    async with serving(OK) as server, opened(TargetPolicy(), resolver=Names(["127.0.0.1"])) as transport:
        url = f"http://hook.example:{server.port}/"
        TargetPolicy().check_url(url)
        with pytest.raises(TargetRefused):
            await transport.send(_post(url), timeout_s=5)
    assert server.connections == 0


async def test_a_name_that_changes_its_address_between_check_and_call_gains_nothing() -> None:
    names = Names(["93.184.216.34"], ["127.0.0.1"])
    assert (await names.resolve("hook.example"))[0]["host"] == "93.184.216.34"
    async with serving(OK) as server, opened(TargetPolicy(), resolver=names) as transport:
        with pytest.raises(TargetRefused):
            await transport.send(_post(f"http://hook.example:{server.port}/"), timeout_s=5)
    assert server.connections == 0


async def test_of_several_addresses_only_the_permitted_ones_are_dialled() -> None:
    names = Names(["169.254.169.254", "127.0.0.1"])
    async with serving(OK) as server, opened(TargetPolicy(allow_loopback=True), resolver=names) as transport:
        response = await transport.send(_post(f"http://hook.example:{server.port}/"), timeout_s=5)
    assert response.content == b"ok"


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
