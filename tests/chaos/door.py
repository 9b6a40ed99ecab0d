"""The load balancer before the `serve` processes: a connection goes to one that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self


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

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port, backlog=1000)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        task.add_done_callback(self._relays.discard)
        inside = await self._connect()
        if inside is None:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_copy(reader, inside[1]), _copy(inside[0], writer))
        finally:
            inside[1].transport.abort()
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._ports:
            port = self._ports[self._turn % len(self._ports)]
            self._turn += 1
            if port not in self.closed:
                with suppress(OSError):
                    return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What comes in goes out, until either side ends; then neither is of use any more."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    # Sends what is still in the buffer, unlike an abort.
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()
