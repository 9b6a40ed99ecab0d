"""Which targets may be called: what guards against SSRF, server-side request forgery."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import httpx

from service.errors import TargetRefused

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


_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections lead. `host` is an address or a name in its ASCII form."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL comes to on the wire: the host that was judged is the one that is dialled. `path` has the query."""

    origin: Origin
    path: bytes


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

    def target(self, url: httpx.URL) -> Target:
        """What is dialled for a URL, judged like `check_url` does.

        Raises:
            TargetRefused: as above.
        """
        return _judged(self, str(url))

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
def _judged(policy: TargetPolicy, text: str) -> Target:
    url = httpx.URL(text)
    if url.scheme not in {"http", "https"}:
        raise TargetRefused("only http and https are called")
    if url.userinfo:
        raise TargetRefused("credentials do not belong into a URL")
    if url.port is not None and not 0 < url.port < 65536:  # noqa: PLR2004 - the range of ports
        raise TargetRefused("no such port")
    target = Target(
        Origin(url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme], url.scheme == "https"), url.raw_path
    )
    policy.check_host(target.origin.host)
    return target


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
