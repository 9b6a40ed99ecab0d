"""Where webhooks go in benchmarks: acknowledges all, counts the different ones. `python -m bench.sink PORT [MS]`.

With `MS` it takes so many milliseconds to acknowledge one.

It shares the machine with what is measured, so it does no more than that: a framework took twice the CPU.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop

_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
_COUNT = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{"webhooks":%d}'


class Sink(asyncio.Protocol):
    """One connection. POST: a webhook; GET: how many there were."""

    def __init__(self, seen: set[bytes], takes_s: float) -> None:
        self._seen = seen
        self._takes_s = takes_s
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools, as is the next one."""
        if name.lower() == b"webhook-id":
            self._seen.add(value)

    def on_message_complete(self) -> None:
        """Answer."""
        if self._parser.get_method() == b"GET":
            count = len(self._seen)
            self._transport.write(_COUNT % (len(str(count)) + 13, count))
        elif self._takes_s:
            asyncio.get_running_loop().call_later(self._takes_s, self._transport.write, _TAKEN)
        else:
            self._transport.write(_TAKEN)


async def _serve(port: int, takes_s: float) -> None:
    seen: set[bytes] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Sink(seen, takes_s), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0))
