"""Receivers of webhooks that differ: `python -m bench.receivers LEDGER PORT TAKES_MS OTHERS`.

127.0.0.1 acknowledges after `TAKES_MS`. The `OTHERS` (127.0.1.1 and on, each an origin of its own) do so after 50 ms,
until `PUT /mode` says otherwise: `{"takes_s": 5, "status": 204}`, and with null as the status they never answer.
What came is written to the ledger, one line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypedDict

GOOD: Final = "127.0.0.1"
OTHER_TAKES_S: Final = 0.05


class Mode(TypedDict):
    """How webhooks are answered. `status`: None for never."""

    takes_s: float
    status: int | None


def other(number: int) -> str:
    """The address of one of the others (0 to 253)."""
    return f"127.0.{1 + number // 254}.{1 + number % 254}"


class Receivers:
    """All of them; who was called is seen by the address."""

    def __init__(self, ledger: Path, takes_s: float) -> None:
        self._ledger = ledger.open("a", buffering=1)
        self._good: Mode = {"takes_s": takes_s, "status": 204}
        self._other: Mode = {"takes_s": OTHER_TAKES_S, "status": 204}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other side ends it."""
        host = writer.get_extra_info("sockname")[0]
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                await self._answer(head.split(" ")[0], host, body, writer)
        writer.close()

    async def _answer(self, method: str, host: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        mode: Mode = {"takes_s": 0.0, "status": 204}
        if method == "put":
            self._other = json.loads(body)
        elif method == "post":
            mode = self._good if host == GOOD else self._other
            webhook = json.loads(body)
            came = {"at": datetime.now(UTC).isoformat(), "host": host, "to": webhook["to"]}
            self._ledger.write(
                json.dumps(came | {"event_at": webhook["delivered_at"], "status": mode["status"]}) + "\n"
            )
        await asyncio.sleep(mode["takes_s"])
        if mode["status"] is not None:
            more = "Retry-After: 1\r\n" if mode["status"] == 429 else ""
            length = "" if mode["status"] == 204 else "Content-Length: 0\r\n"
            writer.write(f"HTTP/1.1 {mode['status']} X\r\n{more}{length}\r\n".encode())
            await writer.drain()


async def _serve(ledger: Path, port: int, takes_s: float, others: int) -> None:
    receivers = Receivers(ledger, takes_s)
    hosts = [GOOD, *(other(number) for number in range(others))]
    async with await asyncio.start_server(receivers.serve, hosts, port, backlog=1024) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, int(sys.argv[4])))
