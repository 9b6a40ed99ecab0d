"""Who owns a data folder: at most one living gateway, and no server that a killed one left behind.

`owner.json` in the data folder is locked as long as its gateway lives (the kernel drops the lock however the process
ends), and it names the gateway and its PostgreSQL by pid and creation time, because pids are used again.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import psutil

from service.errors import ConfigurationError

_POLL_S: Final = 0.02
_CLOCK_SLACK_S: Final = 2.0
"""Creation times are counted from the boot time, which moves a little when the clock is set."""


class Ownership:
    """The claim of this process on a data folder. `server_dir` is where its PostgreSQL keeps its files."""

    def __init__(self, lock: int, server_dir: Path) -> None:
        self._lock = lock
        self._server_dir = server_dir
        self._predecessors_server = _read(lock).get("postgres")
        self._write(self._predecessors_server)

    @classmethod
    def claim(cls, data_dir: Path, server_dir: Path) -> Self:
        """Locks the folder for this process.

        Raises:
            ConfigurationError: a living gateway uses it.
        """
        lock = os.open(data_dir / "owner.json", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = (_read(lock).get("gateway") or {}).get("pid", "unknown")
            os.close(lock)
            raise ConfigurationError(
                f"The data folder {data_dir} is in use by another gateway (pid {owner}). "
                "Stop that one, or set SMS_GATEWAY_DATA_DIR to another folder."
            ) from error
        return cls(lock, server_dir)

    def record(self, server_pid: int) -> None:
        """Writes down the server of this process, for a successor to find."""
        with suppress(psutil.NoSuchProcess):
            self._write(_identity(server_pid))

    def release(self) -> None:
        """Gives the folder up. The file stays: removing it would let two processes lock two files."""
        os.ftruncate(self._lock, 0)
        os.close(self._lock)

    async def stop_orphan(self, patience_s: float) -> int | None:
        """Stops the server of a gateway that was killed, if it still runs.

        Returns the pid that a stale `postmaster.pid` still names. It may by now be that of any process, so PostgreSQL
        has to be told to disregard it.
        """
        pidfile_pid = self._pidfile_pid()
        recorded = self._predecessors_server
        recorded_pid = int(recorded["pid"]) if recorded else None
        for pid in filter(None, (pidfile_pid, recorded_pid)):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if _same(process, recorded) or self._serves_here(process):
                    await shut_down(process, patience_s)
        return pidfile_pid

    def _write(self, server: dict[str, float] | None) -> None:
        owner = {"gateway": _identity(os.getpid()), "postgres": server}
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(owner).encode(), 0)

    def _pidfile_pid(self) -> int | None:
        pidfile = self._server_dir / "postmaster.pid"
        try:
            return int(pidfile.read_text().partition("\n")[0])
        except FileNotFoundError:
            return None
        except ValueError:
            # A server killed while it wrote the file. PostgreSQL would refuse to start for ever.
            pidfile.unlink()
            return None

    def _serves_here(self, process: psutil.Process) -> bool:
        """Finds also a server whose gateway was killed before it could record it."""
        command = process.cmdline()
        return "-D" in command and str(self._server_dir) in command


async def shut_down(process: psutil.Process, patience_s: float) -> None:
    """Ends a PostgreSQL server: fast (SIGINT), then immediate (SIGQUIT), then by SIGKILL.

    Each has `patience_s` seconds. All three keep what was committed.
    """
    with suppress(psutil.NoSuchProcess):
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    return
                await asyncio.sleep(_POLL_S)


def _read(lock: int) -> dict[str, dict[str, float] | None]:
    """What the owner file says. A write that was cut short counts as nothing."""
    try:
        owner: dict[str, dict[str, float] | None] = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        return {}
    return owner


def _identity(pid: int) -> dict[str, float]:
    return {"pid": pid, "created_at_s": psutil.Process(pid).create_time()}


def _same(process: psutil.Process, recorded: dict[str, float] | None) -> bool:
    return (
        recorded is not None
        and process.pid == recorded["pid"]
        and abs(process.create_time() - recorded["created_at_s"]) < _CLOCK_SLACK_S
    )
