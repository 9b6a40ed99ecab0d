"""Kannel as a peer: bearerbox and smsbox with spool files, as they come. It does not sync them to disk."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.gateway import free_port
from bench.load import Plan

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
BEARERBOX = shutil.which("bearerbox", path=_PATH)
SMSBOX = shutil.which("smsbox", path=_PATH)
INSTALLED = bool(BEARERBOX and SMSBOX)

_CONFIG = """
group = core
admin-port = {admin}
admin-password = unused
admin-interface = 127.0.0.1
smsbox-port = {boxes}
smsbox-interface = 127.0.0.1
box-allow-ip = 127.0.0.1
store-type = spool
store-location = {spool}

group = smsc
smsc = fake
smsc-id = smsc
host = 127.0.0.1
port = {smsc}
connect-allow-ip = 127.0.0.1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {sendsms}
sendsms-interface = 127.0.0.1

group = sendsms-user
username = bench
password = bench

group = sms-service
keyword = default
text = "unused"
"""
_QUERY = (
    "username=bench&password=bench&from=MyApp&to=%2B15555550100&text=Your+parcel+{n}+arrives+today+between+9+and+11."
)


@asynccontextmanager
async def kannel(folder: Path) -> AsyncIterator[str]:
    """The URL of a running Kannel whose messages go to a `fake` SMSC that drops them."""
    spool, config = folder / "spool", folder / "kannel.conf"
    spool.mkdir()
    boxes, sendsms, smsc = free_port(), free_port(), free_port()
    config.write_text(_CONFIG.format(admin=free_port(), boxes=boxes, sendsms=sendsms, smsc=smsc, spool=spool))
    async with AsyncExitStack() as stack:
        for program, port in ((BEARERBOX, boxes), (SMSBOX, sendsms)):
            with (folder / f"{port}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    program or "", config, stdout=log, stderr=log, cwd=folder
                )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
            await _connect(port)
        drain = asyncio.create_task(_drop_all(smsc))
        stack.callback(drain.cancel)
        yield f"http://127.0.0.1:{sendsms}"


def plan(url: str) -> Plan:
    """Sends to a Kannel."""
    return Plan(f"{url}/cgi-bin/sendsms?{_QUERY}", {}, "", connections=32, seconds=1)


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(15):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)


async def _drop_all(port: int) -> None:
    reader, _ = await _connect(port)
    while await reader.read(1 << 16):
        pass
