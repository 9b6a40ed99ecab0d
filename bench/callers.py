"""Callers that do harm, in a process of their own: `python -m bench.callers`, with an `Assault` as JSON on its stdin.

They call this machine only, say `ready` when all have begun, and end by themselves.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Final

import psutil

NICE: Final = 10
"""Who does harm comes last to the CPU: in life he has a machine of his own."""
_HERE: Final = "127.0.0.1"
_AGAIN_AFTER_S: Final = 0.2
_READY: Final = b"ready\n"


@dataclass(frozen=True, slots=True)
class Assault:
    """`connections` to each of the ports, each of which writes `head` and goes on.

    - With a `piece` it writes that again and again, until all together have written `most_bytes`.
    - Without one it writes nothing more.
    - Where it is to `vanish`, it is closed at once, and that was all.

    One that is closed by the other side is opened again a little later, for `seconds` in all.
    """

    ports: tuple[int, ...]
    connections: int
    head: str
    seconds: float
    piece: str = ""
    most_bytes: int = 0
    vanish: bool = False


class _Callers:
    def __init__(self, assault: Assault) -> None:
        self._assault = assault
        self._left_bytes = assault.most_bytes
        self._waiting = assault.connections * len(assault.ports)
        self._begun = asyncio.Event()

    async def call(self, port: int) -> None:
        """One connection after the other."""
        first = True
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(_HERE, port)
                try:
                    writer.write(self._assault.head.encode())
                    first = self._count(first=first)
                    if self._assault.vanish:
                        await writer.drain()
                        return
                    await self._go_on(reader, writer)
                finally:
                    writer.close()
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _go_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the other side closes, whatever it says before."""
        piece = self._assault.piece.encode()
        while piece and self._left_bytes > 0:
            self._left_bytes -= len(piece)
            writer.write(piece)
            await writer.drain()
            if reader.at_eof():
                return
        while await reader.read(65_536):
            pass

    def _count(self, *, first: bool) -> bool:
        self._waiting -= first
        if self._waiting == 0:
            self._begun.set()
        return False

    async def run(self) -> None:
        """All of them."""
        calls = [
            asyncio.create_task(self.call(port))
            for port in self._assault.ports
            for _ in range(self._assault.connections)
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._assault.seconds):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._begun.wait(), timeout=10)
                sys.stdout.buffer.write(_READY)
                sys.stdout.flush()
                await asyncio.gather(*calls)


@asynccontextmanager
async def calling(assault: Assault) -> AsyncIterator[None]:
    """They have begun, and end with the body."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.callers", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None  # noqa: S101 - asked for
    assert process.stdout is not None  # noqa: S101 - asked for
    try:
        psutil.Process(process.pid).nice(NICE)
        process.stdin.write(json.dumps(asdict(assault)).encode())
        process.stdin.close()
        if await process.stdout.readline() != _READY:
            raise RuntimeError("the callers ended before they began")
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(_Callers(Assault(**json.loads(sys.stdin.read()))).run())
