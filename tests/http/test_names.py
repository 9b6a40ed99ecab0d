"""Names are asked of the system in threads: how many, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from service.connections import by_the_system

_ENDS_WHILE_A_NAME_IS_ASKED_FOR = """
import asyncio, os, sys
from service.connections import by_the_system

def silent(*_, **__):
    os.write(1, b"asked ")
    os.read(int(sys.argv[1]), 1)

async def main():
    asking = asyncio.ensure_future(by_the_system(silent)("silent.example"))
    try:
        await asyncio.wait_for(asking, 0.2)
    except TimeoutError:
        os.write(1, b"given up")

asyncio.run(main())
"""


def test_a_name_server_that_is_silent_does_not_hold_up_the_end_of_the_process() -> None:
    silent, answers = os.pipe()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _ENDS_WHILE_A_NAME_IS_ASKED_FOR, str(silent)],
            pass_fds=[silent],
            capture_output=True,
            timeout=30,
            check=True,
        )
    finally:
        os.close(answers)
        os.close(silent)
    assert (ended.stdout, ended.stderr) == (b"asked given up", b"")


class Slow:
    """A name server that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answer = threading.Event()
        self.at_once = self.most = 0

    def __call__(self, host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.asked.release()
        self.answer.wait(30)
        self.at_once -= 1
        if host == "nobody":
            raise OSError
        return [(None, None, None, None, ("192.0.2.1", 0))]


async def test_names_are_asked_for_by_a_bounded_number_of_threads() -> None:
    slow = Slow()
    resolve = by_the_system(slow)
    given_up = [asyncio.ensure_future(resolve("silent")) for _ in range(40)]
    for _ in range(16):
        await asyncio.to_thread(slow.asked.acquire)
    for asking in given_up[:20]:
        asking.cancel()  # of whom sixteen have a thread each, which is not free before it has its answer
    await asyncio.wait(given_up[:20])
    assert slow.most == 16
    slow.answer.set()
    assert await asyncio.gather(*given_up[20:], resolve("silent")) == [["192.0.2.1"]] * 21
    with pytest.raises(OSError):  # noqa: PT011 - the very error of the system
        await resolve("nobody")
    assert slow.most <= 16


async def test_names_that_are_long_without_an_answer_hold_up_no_others() -> None:
    slow = Slow()

    def ask(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        return slow(host) if host == "silent" else [(None, None, None, None, ("192.0.2.2", 0))]

    resolve = by_the_system(ask, slow_s=0.01)
    silent = [asyncio.ensure_future(resolve("silent")) for _ in range(79)]
    assert await asyncio.wait_for(resolve("quick"), 30) == ["192.0.2.2"]
    slow.answer.set()
    assert await asyncio.gather(*silent) == [["192.0.2.1"]] * 79
    assert slow.most <= 80
