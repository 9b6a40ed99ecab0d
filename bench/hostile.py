"""Peers that do harm: receivers of webhooks, and a provider that throttles. `python -m bench.hostile LEDGER PORT...`.

By the path of a request:

- `/hang`: no answer;
- `/trailers`: an answer whose body is nothing but the 800,000 lines after its last chunk, which is under 4 MiB;
- `/endless`: the head of an answer and 2 MiB of its body, but for the last byte;
- what looks like Twilio's API accepts, but for one sender (21611, too many in its queue) and one recipient (14107, too
  many to it). What it accepted goes to the ledger, in the form of the simulator's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

THROTTLED_SENDER: Final = "Crowded"
THROTTLED_RECIPIENT: Final = "+15555550199"
_TRAILERS: Final = 800_000
_TWO_MIB: Final = 2 * 1024 * 1024
_SENDER_QUEUE_FULL: Final = 21611
_TOO_MANY_TO_ONE: Final = 14107


class Hostile:
    """Every port answers alike, so that each can be an origin of its own."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger.open("a", buffering=1)
        self._numbers = count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other side ends it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                await self._answer(head.split(" ")[1], body, writer)
        writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/hang":
            return
        if path == "/trailers":
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"0\r\n" + b"a:b\r\n" * _TRAILERS + b"\r\n")
        elif path == "/endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _TWO_MIB + b"x" * (_TWO_MIB - 1))
        elif path.endswith("/messages.json"):
            writer.write(self._send(parse_qs(body.decode())))
        else:
            writer.write(_json("200 OK", {}))
        await writer.drain()

    def _send(self, form: dict[str, list[str]]) -> bytes:
        to, sender = form.get("To", [""])[0], form.get("From", [""])[0]
        if sender == THROTTLED_SENDER:
            return _json("400 Bad Request", {"code": _SENDER_QUEUE_FULL, "status": 400})
        if to == THROTTLED_RECIPIENT:
            return _json("400 Bad Request", {"code": _TOO_MANY_TO_ONE, "status": 400})
        send = {"to": to, "at": datetime.now(UTC).isoformat(), "idempotency_key": None}
        self._ledger.write(json.dumps({"sends": [send]}) + "\n")
        return _json("201 Created", {"sid": f"SM{next(self._numbers):032x}", "status": "queued", "error_code": None})


def _json(status: str, content: dict[str, object]) -> bytes:
    body = json.dumps(content)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{head}{body}".encode()


async def _serve(ledger: Path, ports: list[int]) -> None:
    hostile = Hostile(ledger)
    async with AsyncExitStack() as stack:
        for port in ports:
            await stack.enter_async_context(await asyncio.start_server(hostile.serve, "127.0.0.1", port, backlog=1024))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
