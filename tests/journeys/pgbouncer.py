"""A real PgBouncer in transaction mode before the test's PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tests.journeys.world import free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
_NOBODY = 65534
_CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 3
server_login_retry = 0.1
"""


@asynccontextmanager
async def pgbouncer(dsn: str, port: int | None = None) -> AsyncIterator[str]:
    """The DSN of the same database by way of PgBouncer, which has three connections to it and leaves the defaults."""
    assert PROGRAM is not None, "pgbouncer is not installed"
    port = port or free_port()
    target = urlsplit(dsn)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{target.username}" "{target.password}"\n')
        settings = {"host": target.hostname, "port": target.port, "listen_port": port, "folder": folder}
        (folder / "config").write_text(_CONFIG.format(**settings))
        as_root = os.getuid() == 0
        if as_root:  # which PgBouncer refuses to be
            for path in (folder, folder / "users", folder / "config"):
                os.chown(path, _NOBODY, _NOBODY)
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "-q", str(folder / "config"), user=_NOBODY if as_root else None, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await _until_it_answers(process, port)
            yield urlunsplit(target._replace(netloc=f"{target.username}@127.0.0.1:{port}"))
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _until_it_answers(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            assert process.returncode is None, "pgbouncer ended at once"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
