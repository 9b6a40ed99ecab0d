"""Where processes of the gateway begin with its code already imported.

An import takes two seconds of a core, and a stage starts processes by the dozen. So one process imports everything once
and does nothing else; whatever is asked for begins as a fork of it. From there on it is a process like any other: it
has its own memory and its own pid, ends with its own exit code and takes every signal.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson

from tests.chaos import launcher

ROOT: Final = Path(__file__).parents[2]


class Born:
    """A process of the nursery, with what is used of `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, keeper: asyncio.StreamReader, connection: asyncio.StreamWriter) -> None:
        self.returncode: int | None = None
        """The exit code, or less than 0 the signal that ended it; None: it runs."""
        self._pid = pid
        self._end = asyncio.create_task(self._await_end(keeper, connection))

    async def _await_end(self, keeper: asyncio.StreamReader, connection: asyncio.StreamWriter) -> int:
        self.returncode = int(await keeper.readline())
        connection.close()
        return self.returncode

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._pid, number)


async def give_birth(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Born:
    """Start a process. `arguments`: as `tests/chaos/launcher.py` has them, without a clock. `log` gets what it says."""
    keeper, connection = await asyncio.open_connection("127.0.0.1", _port())
    connection.write(orjson.dumps({"arguments": arguments, "environment": environment, "log": str(log)}) + b"\n")
    return Born(int(await keeper.readline()), keeper, connection)


@cache
def _port() -> int:
    """Where the nursery listens. It is opened by the first who asks, and ends with this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery", str(listener.fileno())],
            cwd=ROOT, env=plain_environment(), stdin=subprocess.PIPE, pass_fds=[listener.fileno()],
        )  # fmt: skip
        atexit.register(nursery.communicate)
        port: int = listener.getsockname()[1]
        return port


def plain_environment() -> dict[str, str]:
    """That of this process, without settings of the gateway.

    And without coverage: what may be killed cannot save it, and should not be slowed down by it.
    """
    foreign = ("SMS_", "SMSROUTE_", "COV")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def main() -> None:
    importlib.import_module("service.cli")
    wanted = _until_born(socket.socket(fileno=int(sys.argv[1])))
    if wanted is None:
        return
    os.environ.clear()
    os.environ.update(wanted["environment"])
    with Path(os.devnull).open("rb") as nothing, Path(wanted["log"]).open("ab") as log:
        for stream, file in ((sys.stdin, nothing), (sys.stdout, log), (sys.stderr, log)):
            os.dup2(file.fileno(), stream.fileno())
    launcher.main(wanted["arguments"])


def _until_born(listener: socket.socket) -> dict[str, Any] | None:
    """What this process is to be, for it is a new one. None: it is the old one, and nobody needs it any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, who then end all of this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a keeper
    while True:
        readable, _, _ = select.select([sys.stdin, listener], [], [])
        if sys.stdin in readable:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> dict[str, Any]:
    """Returns in a new process, and says what it is to be. This one tells its pid and waits, to tell how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection:
        wanted: dict[str, Any] = orjson.loads(connection.makefile("rb").readline())
        if (pid := os.fork()) != 0:
            connection.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            with suppress(OSError):  # the tests are gone
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return wanted


if __name__ == "__main__":
    main()
