"""The load balancer before the `serve` processes: a connection goes to one that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self


@dataclass(eq=False, slots=True)
class Request:
    """A request on its way. `cut`: its process ended the connection before any answer."""

    cut: bool = False


class Door:
    """Relays each connection to the next of `ports` that takes it, and cuts it when none does.

    Providers' receipts come through here, and so do clients. A connection stays with its process, so a process that
    is killed takes its connections along, as in life. `closed` ports get no new connections: what Kubernetes does
    before it sends SIGTERM.
    """

    def __init__(self, port: int, ports: Sequence[int]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.closed: set[int] = set()
        self._port = port
        self._ports = ports
        self._turn = 0
        self._relays: set[asyncio.Task[None]] = set()
        self._talks: set[_Talk] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port, backlog=1000)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def under_way(self, port: int) -> list[Request]:
        """What this port was asked and has not begun to answer."""
        return [talk.request for talk in self._talks if talk.port == port and talk.request is not None]

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        inside = await self._connect()
        if inside is None:
            writer.transport.abort()
            return
        port, inside_reader, inside_writer = inside
        talk = _Talk(port)
        self._talks.add(talk)
        try:
            await asyncio.gather(
                _copy(reader, inside_writer, talk.ask, talk.leave), _copy(inside_reader, writer, talk.answer, talk.cut)
            )
        finally:
            self._talks.discard(talk)
            inside_writer.transport.abort()
            writer.transport.abort()

    async def _connect(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._ports:
            port = self._ports[self._turn % len(self._ports)]
            self._turn += 1
            if port not in self.closed:
                with suppress(OSError):
                    return port, *await asyncio.open_connection("127.0.0.1", port)
        return None


class _Talk:
    """What is said on one connection: a request, its answer, the next request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.request: Request | None = None

    def ask(self) -> None:
        self.request = self.request or Request()

    def answer(self) -> None:
        self.request = None

    def leave(self) -> None:
        """The client has gone, so no answer is owed."""
        self.request = None

    def cut(self) -> None:
        if self.request is not None:
            self.request.cut = True


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: Callable[[], None], ended: Callable[[], None]
) -> None:
    """What comes in goes out, until either side ends; then neither is of use any more."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            said()
            writer.write(data)
            await writer.drain()
    ended()
    # Sends what is still in the buffer, unlike an abort.
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()
