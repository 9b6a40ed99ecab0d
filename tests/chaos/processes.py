"""The processes of a stage: started, killed, stopped, continued and restarted by hand."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp
import psutil

from service.storage.embedded import EmbeddedPostgres
from tests.chaos.nursery import ROOT, Born, give_birth, plain_environment

UP_WITHIN_S: Final = 40.0
DOWN_WITHIN_S: Final = 30.0
"""What a drain may take, by the promise."""


def free_port(taken: set[int], *offsets: int) -> int:
    """A free port that stays ours while what uses it is down: outside of the range for outgoing calls.

    `offsets` are the ports after it that must be free too. All of them are added to `taken`.
    """
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - no secret
        wanted = {port + offset for offset in (0, *offsets)}
        if not wanted & taken and all(map(_is_free, wanted)):
            taken |= wanted
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Command:
    """A command of the gateway as a process. `ready_url` answers 200 once it is up; `log` gets what it says.

    `launch` are the options of `tests/chaos/launcher.py` for the next start: a shifted clock, a sabotage.
    `other_code`: `environment` says where its code is, which is not the code of this process.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        ready_url: str,
        log: Path,
        *,
        other_code: bool = False,
    ) -> None:
        self.name = name
        self.launch: tuple[str, ...] = ()
        self.log = log
        self._arguments = arguments
        self._environment = {**plain_environment(), **environment}
        self._ready_url = ready_url
        self._other_code = other_code
        self._process: Process | Born | None = None
        self._told_to_end = False
        self.shifted = False
        """Whether its clock is wrong."""

    @property
    def died(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.returncode is not None and not self._told_to_end

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, if it does not run, and wait until it is ready."""
        await self.launch_only()
        await self.ready()

    async def launch_only(self) -> None:
        """Start it, if it does not run, and wait for nothing."""
        if self.running:
            return
        self._told_to_end = False
        self.shifted = "--clock" in self.launch
        # A clock is shifted before anything of the service is imported.
        if self._other_code or self.shifted:
            self._process = await self._from_the_start()
        else:
            self._process = await give_birth((*self.launch, *self._arguments), self._environment, self.log)

    async def _from_the_start(self) -> Process:
        module = ("tests.chaos.launcher", *self.launch) if self.launch else ("service.cli",)
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *module, *self._arguments),
                cwd=ROOT, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    async def ready(self) -> None:
        """Wait until it answers. If it ends instead (without its database it does), it is started again.

        Raises:
            AssertionError: it took too long. The message ends with its last lines.
        """
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as http:
            with suppress(TimeoutError):
                async with asyncio.timeout(UP_WITHIN_S):
                    while True:
                        await self.launch_only()
                        with suppress(aiohttp.ClientError, asyncio.TimeoutError):
                            async with http.get(self._ready_url) as answer:
                                if answer.ok:
                                    return
                        await asyncio.sleep(0.05)
        raise AssertionError(f"{self.name} is not up: {self.log.read_text()[-2000:]}")

    async def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._told_to_end = True
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    async def terminate(self) -> int:
        """SIGTERM; its exit code once it has drained.

        Raises:
            TimeoutError: that took longer than `DOWN_WITHIN_S`.
        """
        assert self._process is not None
        self._told_to_end = True
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(DOWN_WITHIN_S):
            return await self._process.wait()

    async def restart(self) -> None:
        """Kill it if it runs, start it, wait until it is ready."""
        await self.kill()
        await self.start()

    def stop(self) -> None:
        """SIGSTOP: it stands still, and keeps its connections."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


class Postgres(EmbeddedPostgres):
    """The real server, that is always on the same port, and can be killed with all of its processes."""

    def __init__(self, data_dir: Path, port: int, settings: Mapping[str, str]) -> None:
        super().__init__(data_dir, settings=settings, stop_timeout_s=5)
        self._port = port
        self._pid_file = data_dir / "pg" / "postmaster.pid"

    def free_port(self) -> int:
        return self._port

    @property
    def up(self) -> bool:
        """Whether the server runs."""
        return bool(self.family())

    async def kill(self, family: Sequence[psutil.Process] = ()) -> None:
        """`kill -9` of every process at once. What was not flushed from the server's own buffers is gone.

        `family`: asked for before, by who wants no time to pass now. Processes that are younger follow their server.
        """
        for process in family or self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await self.stop()

    def freeze(self) -> list[psutil.Process]:
        """Stop every backend that serves a client; give them to `thaw`."""
        backends = [process for process in self.family()[1:] if _serves_client(process)]
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.suspend()
        return backends

    def thaw(self, backends: Sequence[psutil.Process]) -> None:
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.resume()

    def family(self) -> list[psutil.Process]:
        """The server, then its children. The server goes first, so that it starts no others."""
        try:
            server = psutil.Process(int(self._pid_file.read_text().partition("\n")[0]))
            return [server, *server.children(recursive=True)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []


def _serves_client(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "127.0.0.1(" in " ".join(process.cmdline())
    return False
