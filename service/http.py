"""The one way out: every outbound HTTP request of the gateway goes through `Transport`.

It does one thing better than a general client: it tells a request that surely was not sent from one that may have been.
That difference decides whether a message may go out through another provider or would be doubled.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import httpx

from service.connections import KEEPALIVE_S, Connections, Resolve, by_the_system
from service.errors import MaybeSent, NotSent, TargetRefused
from service.targets import Target, TargetPolicy
from service.wire import ANY_REPLY, Bounds, Broke, Reply

_CODING: Final = b"content-encoding"
_PACKED: Final = {b"gzip", b"x-gzip", b"deflate"}

PROVIDER_REPLY: Final = Bounds(body_bytes=256 * 1024)
"""What providers say of one message or number is below 4 KiB, and proxies' pages of errors are below 100 KiB. A
thousand calls under way hold 256 MiB at the very most."""
WEBHOOK_REPLY: Final = Bounds(head_bytes=16 * 1024, body_bytes=16 * 1024, rest_within_s=1.0)
"""Of a stranger's server, whose status is all that counts. A short body is read, so that its connection can be used
again."""


def _permitted(policy: TargetPolicy, resolve: Resolve) -> Resolve:
    """Gives out only addresses that the policy permits, so that the address checked is the address dialled."""

    async def permitted(host: str) -> list[str]:
        found = await resolve(host)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        addresses = [address for address in found if policy.permits(ip_address(address))]
        if not addresses:
            raise TargetRefused("the name leads to an address that may not be called")
        return addresses

    return permitted


class Transport:
    """Sends requests. Follows no redirect, repeats nothing, keeps no cookie, reads no proxy from the environment.

    To be made inside the event loop. `max_connections` bounds how many requests are under way at once; `resolve`
    replaces the system's DNS, `ca_file` (PEM) the certificate authorities that are trusted. A connection that idles for
    `keepalive_s` is closed. `bounds` says how much of each reply is read.
    """

    def __init__(
        self,
        policy: TargetPolicy,
        *,
        max_connections: int = 256,
        resolve: Resolve | None = None,
        ca_file: Path | None = None,
        keepalive_s: float = KEEPALIVE_S,
        bounds: Bounds = ANY_REPLY,
    ) -> None:
        self._policy = policy
        self._bounds = bounds
        self._connections = Connections(
            max_connections,
            resolve=_permitted(policy, resolve or by_the_system()),
            ca_file=ca_file,
            keepalive_s=keepalive_s,
        )

    async def send(self, request: httpx.Request, *, timeout_s: float, connect_timeout_s: float = 3.0) -> httpx.Response:
        """Send one request, once, and read the whole reply, whatever its status.

        `timeout_s` bounds everything, the body included; `connect_timeout_s` bounds the wait for a connection,
        be it a new one or a free one of the pool.

        Raises:
            TargetRefused: the policy forbids the target. Nothing was sent.
            NotSent: no connection was had (refused, DNS, TLS, none free, too slow). Nothing was sent.
            MaybeSent: it broke later, or the reply is unreadable or beyond the bounds.
        """
        target = self._policy.target(request.url)
        message = _message(request, target)
        connected = False
        try:
            async with asyncio.timeout(timeout_s):
                async with self._connections.taken(target.origin, connect_timeout_s) as wire:
                    connected = True
                    reply = await wire.exchange(message, self._bounds)
            return _response(reply, request, self._bounds.body_bytes)
        except (Broke, OSError, ValueError, RuntimeError) as error:  # RuntimeError: uvloop, of sockets
            if connected:
                raise MaybeSent(f"no usable reply: {_cause(error)}") from None
            raise NotSent(f"no connection: {_cause(error)}") from None

    async def aclose(self) -> None:
        """Close every connection. Later sends are `NotSent`."""
        await self._connections.close()


def _message(request: httpx.Request, target: Target) -> bytes:
    """The request as it goes over the wire (RFC 9112).

    Raises:
        NotSent: a part of its head has the end of a line in it, which would make another request of the rest.
    """
    headers = request.headers.raw
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target.path), *(b"%b: %b" % one for one in headers)]
    if "accept-encoding" not in request.headers:
        lines.append(b"Accept-Encoding: identity")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise NotSent("no request: the end of a line inside a line of its head")
    return b"%b\r\n\r\n%b" % (head, request.content)


def _response(reply: Reply, request: httpx.Request, max_body_bytes: int) -> httpx.Response:
    coding = b",".join(value for name, value in reply.headers if name.lower() == _CODING).strip().lower()
    body = bytes(reply.body)
    if body and coding in _PACKED:
        body = _unpacked(body, coding, max_body_bytes)
    # The body is unpacked by now. Left in place, the header would make httpx do it a second time.
    headers = [one for one in reply.headers if one[0].lower() != _CODING] if coding else reply.headers
    return httpx.Response(reply.status, headers=headers, content=body, request=request)


def _unpacked(body: bytes, coding: bytes, max_bytes: int) -> bytes:
    """What some servers pack although it was asked for as it is.

    Raises:
        Broke: it cannot be unpacked, or is too large then.
    """
    # Some servers leave out the head of a deflate, whose low four bits are 8 (RFC 1950). Else it tells gzip from zlib.
    headless = coding == b"deflate" and body[0] & 0x0F != zlib.DEFLATED
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS if headless else zlib.MAX_WBITS | 32)
    try:
        unpacked = unpacking.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Broke("ContentEncoding") from None
    if len(unpacked) > max_bytes:
        raise Broke("ReplyTooLarge")
    if not unpacking.eof or unpacking.unused_data:
        raise Broke("ContentEncoding")
    return unpacked


def _cause(error: Exception) -> str:
    """What the connection says of itself, or the type of the error: texts of others' errors may hold an URL."""
    return str(error) if isinstance(error, Broke) else type(error).__name__
