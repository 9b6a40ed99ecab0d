"""Starting what is measured, as processes of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import psutil

_ENDS_WITHIN_S: Final = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens_on(port: int) -> psutil.Process:
    """The process of ours that has this port."""
    for child in psutil.Process().children(recursive=True):
        sockets = child.net_connections(kind="inet")
        if any(socket.status == psutil.CONN_LISTEN and socket.laddr[1] == port for socket in sockets):
            return child
    raise SystemExit(f"nobody listens on port {port}")


def _end_of(log: Path) -> str:
    return log.read_text()[-2000:]


@asynccontextmanager
async def process(
    arguments: Sequence[str], ready_url: str, log: Path, **environment: str
) -> AsyncIterator[psutil.Process]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, env=os.environ | environment, stdout=output, stderr=output
        )
        try:
            async with httpx.AsyncClient() as client, asyncio.timeout(30):
                while True:
                    if process.returncode is not None:
                        raise SystemExit(f"{' '.join(arguments)} ended: {_end_of(log)}")
                    try:
                        if (await client.get(ready_url)).is_success:
                            break
                    except httpx.TransportError:
                        await asyncio.sleep(0.05)
            yield psutil.Process(process.pid)
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Also where it hangs."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), timeout=_ENDS_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def command(words: str, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli", *words.split(), env=os.environ | environment, stdout=-1
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"sms-gateway {words} failed")
    return output.decode()
