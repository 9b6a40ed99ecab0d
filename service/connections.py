"""Connections to where requests go: dialled when needed, kept for a while."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from aiohappyeyeballs import start_connection

from service.wire import Wire

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType

    from service.targets import Origin

Resolve: TypeAlias = Callable[[str], Awaitable[list[str]]]
"""The addresses that a name leads to."""
Ask: TypeAlias = Callable[..., list[tuple[Any, ...]]]
"""Of the form of `socket.getaddrinfo`."""

# Many servers drop a connection that idles for 5 s. A request that meets the drop on its way is lost with an unknown
# outcome, so idle connections go before that.
KEEPALIVE_S: Final = 4.0
_NEXT_ADDRESS_AFTER_S: Final = 0.25
"""Another address is tried as well when one does not answer for so long (RFC 8305, section 5)."""
_NAMES_KEPT_S: Final = 10.0
_NAMES_AT_ONCE: Final = 16
_SLOW_NAMES: Final = 64
"""Look-ups besides, that have gone on for `SLOW_NAME_S`: so many silent names hold up no other."""
SLOW_NAME_S: Final = 1.0
_CLOSED_WITHIN_S: Final = 1.0


def by_the_system(ask: Ask = socket.getaddrinfo, *, slow_s: float = SLOW_NAME_S) -> Resolve:
    """Names as this machine is told them, every address of each.

    A look-up that takes longer than `slow_s` leaves its place to others, as long as not too many do.

    It asks in threads of its own: a server of some names that is silent must not hold up those who ask for others, such
    as a provider's, and uvloop has two for all. They are daemons, so that it does not hold up the end of the process.
    """
    places, slow_now = asyncio.Semaphore(_NAMES_AT_ONCE), 0
    asking = partial(ask, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)

    async def resolve(host: str) -> list[str]:
        loop, is_slow = asyncio.get_running_loop(), False
        answer: Future[list[tuple[Any, ...]]] = Future()
        answer.set_running_or_notify_cancel()

        def run() -> None:
            try:
                answer.set_result(asking(host, None))
            except Exception as error:  # noqa: BLE001 - it is handed on
                answer.set_exception(error)
            with suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(end)

        def turn_slow() -> None:
            nonlocal is_slow, slow_now
            if slow_now < _SLOW_NAMES:
                slow_now += 1
                is_slow = True
                places.release()

        def end() -> None:
            nonlocal slow_now
            turning.cancel()
            if is_slow:
                slow_now -= 1
            else:
                places.release()

        await places.acquire()
        try:
            threading.Thread(target=run, name="names", daemon=True).start()
        except RuntimeError:  # there are too many threads
            places.release()
            raise
        turning = loop.call_later(slow_s, turn_slow)
        return [str(address[0]) for *_, address in await asyncio.wrap_future(answer)]

    return resolve


class Connections:
    """A pool. To be made inside the event loop.

    At most `most` requests are under way at once. What a name leads to is asked once for all who wait for it, so
    that a name whose server is silent takes one thread and not all.
    """

    def __init__(
        self,
        most: int,
        *,
        resolve: Resolve | None = None,
        ca_file: Path | None = None,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._places = asyncio.Semaphore(most)
        self._resolve = resolve or by_the_system()
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._tls.set_alpn_protocols(["http/1.1"])
        self._keepalive_s = keepalive_s
        self._idle: defaultdict[Origin, list[tuple[float, Wire]]] = defaultdict(list)
        self._open: set[Wire] = set()
        self._lookups: dict[str, asyncio.Future[list[str]]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    @asynccontextmanager
    async def taken(self, origin: Origin, within_s: float | None = None) -> AsyncIterator[Wire]:
        """A connection for one exchange. On the way to it not a byte of that is sent.

        Raises:
            OSError: none was had: refused, no such name, TLS, closed, `TimeoutError` after `within_s`.
            RuntimeError: the same, said by uvloop.
        """
        async with asyncio.timeout(within_s):
            await self._places.acquire()
            try:
                wire = self._kept(origin) or await self._dial(origin)
            except BaseException:
                self._places.release()
                raise
        try:
            yield wire
        finally:
            self._places.release()
            self._keep(origin, wire)

    def _keep(self, origin: Origin, wire: Wire) -> None:
        if self._closed or not wire.usable:
            wire.abort()
            return
        self._idle[origin].append((self._loop.time(), wire))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._keepalive_s, self._sweep)

    async def close(self) -> None:
        """Close all, whatever is under way on them."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for lookup in self._lookups.values():
            lookup.cancel()
        for wire in list(self._open):
            wire.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSED_WITHIN_S):
                while self._open:  # noqa: ASYNC110 - the loop closes them in its next rounds
                    await asyncio.sleep(0)

    def _kept(self, origin: Origin) -> Wire | None:
        """The one that was used last, so that those too many get old."""
        idle = self._idle.get(origin)
        while idle:
            since_s, wire = idle.pop()
            if wire.still_usable and self._loop.time() - since_s < self._keepalive_s:
                return wire
            wire.abort()
        return None

    def _sweep(self) -> None:
        before_s = self._loop.time() - self._keepalive_s
        for origin, idle in list(self._idle.items()):
            for since_s, wire in idle:
                if since_s <= before_s:
                    wire.abort()
            self._idle[origin] = [one for one in idle if one[0] > before_s]
            if not self._idle[origin]:
                del self._idle[origin]
        self._sweeping = self._loop.call_later(self._keepalive_s / 4, self._sweep) if self._idle else None

    async def _dial(self, origin: Origin) -> Wire:
        self._check_open()
        wire = Wire(self._open)
        try:
            await self._loop.create_connection(
                lambda: wire,
                sock=await self._connected(origin),
                ssl=self._tls if origin.tls else None,
                server_hostname=origin.host.rstrip(".") if origin.tls else None,  # certificates have no dot at the end
            )
            self._check_open()
            wire.check_usable()
        except BaseException:
            wire.abort()
            self._open.discard(wire)  # uvloop tells it nothing where the dialling was cancelled
            raise
        return wire

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionError

    async def _connected(self, origin: Origin) -> socket.socket:
        try:
            addresses = [str(ip_address(origin.host))]
        except ValueError:
            return await self._connected_by_name(origin)
        return await self._first_of(addresses, origin.port)

    async def _connected_by_name(self, origin: Origin) -> socket.socket:
        lookup = self._lookups.get(origin.host)
        if lookup is None:
            lookup = self._lookups[origin.host] = asyncio.ensure_future(self._resolve(origin.host))
            lookup.add_done_callback(partial(self._looked_up, origin.host))
        await asyncio.wait([lookup])
        if lookup.cancelled():  # by `close`
            raise ConnectionError
        try:
            return await self._first_of(lookup.result(), origin.port)
        except BaseException:
            self._forget(origin.host, lookup)  # it may have moved
            raise

    def _looked_up(self, host: str, lookup: asyncio.Future[list[str]]) -> None:
        if lookup.cancelled() or lookup.exception() is not None:
            self._forget(host, lookup)
        else:
            self._loop.call_later(_NAMES_KEPT_S, self._forget, host, lookup)

    def _forget(self, host: str, lookup: asyncio.Future[list[str]]) -> None:
        if self._lookups.get(host) is lookup:
            del self._lookups[host]

    async def _first_of(self, addresses: list[str], port: int) -> socket.socket:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        cancelled = task.cancelling()
        found = [_address(address, port) for address in addresses]
        connected = await start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER_S)
        if task.cancelling() > cancelled:  # of several addresses: it hides what comes while it drops the slower ones
            connected.close()
            raise asyncio.CancelledError
        return connected


def _address(host: str, port: int) -> AddrInfoType:
    if ":" in host:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
