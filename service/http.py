"""The one way out: every outbound HTTP request of the gateway goes through `Transport`.

It does one thing better than a general client: it tells a request that surely was not sent from one that may have been.
That difference decides whether a message may go out through another provider or would be doubled.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from service.errors import MaybeSent, NotSent, TargetRefused

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MAX_REPLY_BYTES: Final = 2 * 1024 * 1024

# Many servers drop a connection that idles for 5 s. A request that meets the drop on its way is lost with an unknown
# outcome, so idle connections go before that.
_KEEPALIVE_S: Final = 4.0

_KEPT: Final = 256
"""URLs whose verdict is remembered. Clients have few, and each stands in every message."""

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


def _networks(*names: str) -> tuple[_Network, ...]:
    return tuple(map(ip_network, names))


_LOOPBACK: Final = _networks("127.0.0.0/8", "::1/128")
_PRIVATE: Final = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
_NEVER: Final = _networks(
    "0.0.0.0/8",  # this host (RFC 1122)
    "169.254.0.0/16",  # link-local, and the metadata service of most clouds
    "100.100.100.200/32",  # metadata at Alibaba
    "168.63.129.16/32",  # the host agent at Azure
    "192.0.0.0/24",  # protocol assignments (RFC 6890), and metadata at Oracle
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
    "::/96",  # unspecified, and the deprecated IPv4-compatible form
    "fe80::/10",  # link-local
    "fec0::/10",  # the deprecated site-local form
    "ff00::/8",  # multicast
    "fd00:ec2::254/128",  # metadata at Amazon
    "fd20:ce::254/128",  # metadata at Google
)
# Mapped (RFC 4291), translated (RFC 7915), NAT64 (RFC 6052, RFC 8215): the last 32 bits are an IPv4 address.
_EMBEDDING: Final = _networks("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """Which targets may be called. By default what suits webhooks (against SSRF, server-side request forgery).

    Refused without a setting that could allow it: other schemes than http and https, link-local, metadata, multicast
    and reserved addresses. Private networks are allowed, because the callers are internal services; `denied_networks`
    takes some of them back. `trusted` is for URLs that the operator wrote: any address goes.
    """

    allow_loopback: bool = False
    allow_private: bool = True
    denied_networks: tuple[_Network, ...] = ()
    trusted: bool = False

    @classmethod
    def trusting(cls) -> TargetPolicy:
        """The policy for URLs of `gateway.yaml`."""
        return cls(trusted=True)

    def check_url(self, url: str) -> None:
        """Judge what can be judged without DNS: scheme, host, port, user info, and an address written out.

        Raises:
            TargetRefused: its text says what is wrong and holds nothing of the URL.
        """
        self.target(parsed(url))

    def target(self, url: httpx.URL) -> URL:
        """The URL as it is dialled, judged like `check_url` does.

        Raises:
            TargetRefused: as above.
        """
        return _dialled(self, str(url))

    def check_host(self, host: str) -> None:
        """Judge a host: the address, where it is one, or the name before anybody has looked it up.

        Raises:
            TargetRefused: as above.
        """
        name = host.rstrip(".").lower()
        try:
            literal = ip_address(host)
        except ValueError:
            if _HOST_NAME.fullmatch(name) is None or _is_legacy_ipv4(name):
                raise TargetRefused("the host is neither a name nor an address in its usual form") from None
            local = name == "localhost" or name.endswith(".localhost")  # RFC 6761
            if local and not self.permits(IPv4Address("127.0.0.1")):
                raise TargetRefused("this service may not call itself") from None
        else:
            if not self.permits(literal):
                raise TargetRefused("this address may not be called")

    def permits(self, address: _Address) -> bool:
        """Whether the address may be dialled. One that embeds an IPv4 address is judged by that one too."""
        return self.trusted or all(map(self._permits_form, _forms(address)))

    def _permits_form(self, address: _Address) -> bool:
        if _within(address, self.denied_networks):
            return False
        if _within(address, _LOOPBACK):
            return self.allow_loopback
        if _within(address, _NEVER):
            return False
        return self.allow_private or not _within(address, _PRIVATE)


@lru_cache(_KEPT)
def parsed(url: str) -> httpx.URL:
    """The URL of a request.

    Raises:
        TargetRefused: it is none.
    """
    try:
        # A request is made of it, because some names ("xn--") are a URL's and yet no request's.
        return httpx.Request("POST", url).url
    except (httpx.InvalidURL, ValueError):
        raise TargetRefused("not a URL") from None


@lru_cache(_KEPT)
def _dialled(policy: TargetPolicy, text: str) -> URL:
    url = httpx.URL(text)
    if url.scheme not in {"http", "https"}:
        raise TargetRefused("only http and https are called")
    if url.userinfo:
        raise TargetRefused("credentials do not belong into a URL")
    if url.port is not None and not 0 < url.port < 65536:  # noqa: PLR2004 - the range of ports
        raise TargetRefused("no such port")
    # Two parsers may see two hosts in one URL, so the host that is judged is the one of the URL that is dialled.
    try:
        dialled = URL(text, encoded=True)
    except ValueError:
        raise TargetRefused("not a URL") from None
    policy.check_host(dialled.raw_host or "")
    return dialled


def _within(address: _Address, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks)


def _forms(address: _Address) -> Iterator[_Address]:
    yield address
    if isinstance(address, IPv4Address):
        return
    if _within(address, _EMBEDDING):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo


def _is_legacy_ipv4(host: str) -> bool:
    """Whether the system would take the name for an IPv4 address: 127.1, 0x7f.0.0.1, 2130706433."""
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


class _Resolver(AbstractResolver):
    """Gives out only addresses that the policy permits, so that the address checked is the address dialled."""

    def __init__(self, policy: TargetPolicy, inner: AbstractResolver) -> None:
        self._policy = policy
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        permitted = [result for result in found if self._policy.permits(ip_address(result["host"]))]
        if not found:
            # aiohttp breaks on an empty answer.
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        if not permitted:
            raise TargetRefused("the name leads to an address that may not be called")
        return permitted

    async def close(self) -> None:
        await self._inner.close()


class ConnectionBroke(aiohttp.ClientError):
    """A connection broke on which a request may have gone out."""


class _Exchange:
    """How far one request has come. While it waits for its connection, not one byte of it can have been written."""

    __slots__ = ("connected", "connecting")

    def __init__(self) -> None:
        self.connecting = False
        self.connected = False

    def failure(self, cause: str) -> NotSent | MaybeSent:
        if self.connecting:
            return NotSent(f"no connection: {cause}")
        return MaybeSent(f"no usable reply: {cause}")


_exchange: ContextVar[_Exchange] = ContextVar("exchange")


class _Connector(aiohttp.TCPConnector):
    """Gives a request its connection, once, and notes when (aiohttp's own tracing costs a fifth of a whole call)."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - theirs
    ) -> Connection:
        exchange = _exchange.get()
        if exchange.connected:
            # aiohttp would send GET, PUT or DELETE again when a kept connection broke: only the gateway repeats.
            raise ConnectionBroke
        exchange.connecting = True
        connection = await super().connect(req, traces, timeout)
        exchange.connecting, exchange.connected = False, True
        return connection


@lru_cache(_KEPT)
def _connecting_within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=seconds)


def _cause(error: BaseException) -> str:
    """The type of the error at the root. Texts of aiohttp's errors hold whole URLs, so they are not used."""
    while error.__cause__ is not None and not isinstance(error, TimeoutError):
        error = error.__cause__
    return type(error).__name__


class Transport:
    """Sends requests. Follows no redirect, repeats nothing, keeps no cookie, reads no proxy from the environment.

    To be made inside the event loop. `max_connections` and `per_host` bound what is open at once (0: no bound);
    `resolver` replaces the system's DNS, `ca_file` (PEM) the certificate authorities that are trusted.
    """

    def __init__(
        self,
        policy: TargetPolicy,
        *,
        max_connections: int = 256,
        per_host: int = 0,
        resolver: AbstractResolver | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._policy = policy
        self._resolver = _Resolver(policy, resolver or aiohttp.ThreadedResolver())
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=max_connections,
                limit_per_host=per_host,
                keepalive_timeout=_KEEPALIVE_S,
                resolver=self._resolver,
                ssl=ssl.create_default_context(cafile=ca_file) if ca_file else True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
        )

    async def send(self, request: httpx.Request, *, timeout_s: float, connect_timeout_s: float = 3.0) -> httpx.Response:
        """Send one request, once, and read the whole reply, whatever its status.

        `timeout_s` bounds everything, the body included; `connect_timeout_s` bounds the wait for a connection,
        be it a new one or a free one of the pool.

        Raises:
            TargetRefused: the policy forbids the target. Nothing was sent.
            NotSent: no connection was had (refused, DNS, TLS, none free, too slow). Nothing was sent.
            MaybeSent: it broke later, or the reply is unreadable or above 2 MiB.
        """
        url = self._policy.target(request.url)
        if self._session.closed:
            raise NotSent("no connection: closed")
        exchange = _Exchange()
        _exchange.set(exchange)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(request, url, exchange, connect_timeout_s)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise exchange.failure(_cause(error)) from None

    async def _exchange(
        self, request: httpx.Request, url: URL, exchange: _Exchange, connect_timeout_s: float
    ) -> httpx.Response:
        async with self._session.request(
            request.method,
            url,
            headers=request.headers.multi_items(),
            data=request.content or None,
            allow_redirects=False,
            timeout=_connecting_within(connect_timeout_s),
        ) as reply:
            body = bytearray()
            async for chunk in reply.content.iter_any():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise exchange.failure("ReplyTooLarge")
            # The body is decoded by now. Left in place, the header would make httpx decode it a second time.
            headers = [(name, value) for name, value in reply.raw_headers if name.lower() != b"content-encoding"]
            return httpx.Response(reply.status, headers=headers, content=bytes(body), request=request)

    async def aclose(self) -> None:
        """Close every connection. Later sends are `NotSent`."""
        await self._session.close()
        await self._resolver.close()
