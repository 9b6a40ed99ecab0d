"""A server on loopback that says exactly what it is told to, and a transport to it."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.connections import KEEPALIVE_S, Resolve
from service.http import Transport
from service.targets import TargetPolicy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A raw server on loopback. `requests` holds each request that came in, head and body."""

    def __init__(self, answer: Connection) -> None:
        self.answer = answer
        self.replies: tuple[bytes, ...] = ()
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

    async def tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each request its reply."""
        for reply in self.replies:
            await self.read(reader)
            writer.write(reply)
            await writer.drain()

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
    *replies: bytes, rest: Sequence[bytes] = (), then: Connection | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve: each connection gets the replies to its requests one by one, then `then` has it, then it is closed.

    `rest` follows the last reply, each part as a packet of its own.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.tell(reader, writer)
        for part in rest:
            writer.write(part)
            await asyncio.sleep(0)
        if then is not None:
            await server.read(reader)
            await then(reader, writer)

    server = Server(answer)
    server.replies = replies
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Closes after the request, without a reply."""


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def writes(reply: bytes, *, then: Connection = close) -> Connection:
    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()
        await then(reader, writer)

    return write


def names(*answers: list[str]) -> Resolve:
    """DNS with the given answers, one list for each question; the last is repeated."""
    left = list(answers)

    async def resolve(_: str) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


async def hanging_names(_: str) -> list[str]:
    await asyncio.Event().wait()
    raise AssertionError


async def no_names(_: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@asynccontextmanager
async def opened(
    policy: TargetPolicy | None = None,
    *,
    max_connections: int = 256,
    resolve: Resolve | None = None,
    keepalive_s: float = KEEPALIVE_S,
) -> AsyncIterator[Transport]:
    transport = Transport(
        policy or TargetPolicy.trusting(), max_connections=max_connections, resolve=resolve, keepalive_s=keepalive_s
    )
    try:
        yield transport
    finally:
        await transport.aclose()


def post(url: str, content: bytes = b"{}") -> httpx.Request:
    return httpx.Request("POST", url, content=content)


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """A certificate for 127.0.0.1 that signs itself: the server's side, and who trusts it."""

    context: ssl.SSLContext
    ca_file: Path

    @classmethod
    def made(cls, folder: Path) -> SelfSigned:
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
        path = folder / "server.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return cls(context, path)
