"""`sms-gateway`, run as a process of its own."""

from __future__ import annotations

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

SMS_GATEWAY = (sys.executable, "-m", "service.cli")
ENDS_WITHIN_S = 40


def environment(**settings: object) -> dict[str, str]:
    """That of the tests without settings of ours, and these."""
    ours = ("SMS_", "SMSROUTE_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {name: str(value) for name, value in settings.items()}


def sms_gateway(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs a command that ends by itself."""
    command = [*SMS_GATEWAY, *map(str, arguments)]
    return subprocess.run(
        command, env=environment(**settings), capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False
    )


class Running:
    """A command that runs until it is told to end."""

    def __init__(self, *arguments: str, folder: Path, **settings: object) -> None:
        self._log = folder / f"{arguments[0]}.log"
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*SMS_GATEWAY, *arguments],
                env=environment(**settings),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def printed_until(self, last_line: str) -> str:
        """What it printed up to the line that begins with this."""
        assert self.process.stdout is not None
        printed = ""
        for line in self.process.stdout:
            printed += line
            if line.startswith(last_line):
                return printed
        raise AssertionError(f"ended with {self.process.wait()}: {printed} {self.log()}")

    def log(self) -> str:
        """What it logged and complained of so far."""
        return self._log.read_text()

    def family(self) -> list[psutil.Process]:
        """The process and all that it started."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(ENDS_WITHIN_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def running(*arguments: str, folder: Path, **settings: object) -> Iterator[Running]:
    """The command while the body runs. Whatever happens, nothing of it is left."""
    command = Running(*arguments, folder=folder, **settings)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            family = command.family()
            command.process.terminate()
            _, left = psutil.wait_procs(family, ENDS_WITHIN_S)
            for process in left:
                process.kill()
            command.wait()


def free_ports() -> int:
    """A port such that it and those that `dev` takes after it are free. Outside of the range for outgoing calls."""
    while True:
        port = random.randrange(20_000, 30_000)  # noqa: S311 - no secret
        if all(_is_free(port + offset) for offset in (0, 1, 2, 11, 12)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def paste(command: str) -> httpx.Response:
    """What `curl` would do with this command line, as far as ours go."""
    program, *words = shlex.split(command)
    assert program == "curl"
    method, url, headers, body = "POST", "", {}, None
    arguments = iter(words)
    for word in arguments:
        if word == "-X":
            method = next(arguments)
        elif word == "-H":
            name, _, value = next(arguments).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(arguments)
        elif not word.startswith("-"):
            url = word
    return httpx.request(method, url, headers=headers, content=body, timeout=10)


def eventually(read: Callable[[], Any], wanted: Callable[[Any], bool], within_s: float = 60) -> Any:
    """What is read, once it is as wanted. A connection refused counts as not yet."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            value = read()
        except httpx.TransportError as error:
            value = error
        else:
            if wanted(value):
                return value
        assert time.monotonic() < deadline, f"still {value!r}"
        time.sleep(0.05)


class Messages:
    """Sends and reads messages of one gateway."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = f"{url}/v1"
        self._headers = {"Authorization": f"Bearer {api_key}"}

    def send(self, to: str = "+15555550100") -> str:
        """The message's id."""
        body = {"to": to, "from": "MyApp", "message": "Hello"}
        answer = httpx.post(f"{self._url}/send", headers=self._headers, json=body)
        assert answer.status_code == 200, answer.text
        message_id: str = answer.json()["message_id"]
        return message_id

    def get(self, message_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self._url}/messages/{message_id}", headers=self._headers)
        assert answer.status_code == 200, answer.text
        message: dict[str, Any] = answer.json()
        return message

    def ended(self, message_id: str) -> dict[str, Any]:
        """The message, once it has ended."""
        over = {"delivered", "undelivered", "failed", "cancelled"}
        message: dict[str, Any] = eventually(lambda: self.get(message_id), lambda it: it["status"] in over)
        return message


def alive(family: list[psutil.Process]) -> Mapping[int, str]:
    """Those of the processes that still run."""
    return {process.pid: process.name() for process in family if _runs(process)}


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
