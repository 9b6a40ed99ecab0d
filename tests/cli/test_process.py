from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import typer
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.cli.process import answering, listening, run


@asynccontextmanager
async def told_to_end(left: list[str], number: int) -> AsyncIterator[None]:
    try:
        os.kill(os.getpid(), number)
        yield
    finally:
        left.append("left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: int) -> None:
    left: list[str] = []

    run(told_to_end(left, number))

    assert left == ["left"]


def test_a_part_that_cannot_go_on_ends_it_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        body = asyncio.current_task()
        assert body is not None
        asyncio.get_running_loop().call_soon(body.cancel, "a worker loop ended")
        yield

    with pytest.raises(typer.Exit) as ended:
        run(failing())

    assert ended.value.exit_code == 1
    assert "a worker loop ended" in capsys.readouterr().err


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


def _ask(port: int) -> socket.socket:
    asking = socket.create_connection(("127.0.0.1", port))
    asking.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    return asking


async def _answer(asking: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=asking)
    answer = await reader.read()
    writer.close()
    return answer


def test_what_lay_unread_when_the_signal_came_is_answered() -> None:
    """A process that got no CPU for a while has connections to take and requests to read."""
    asked: list[socket.socket] = []

    @asynccontextmanager
    async def held_up(listener: socket.socket) -> AsyncIterator[None]:
        async with answering(_hello, listener, drain_s=5):
            port = listener.getsockname()[1]
            assert (await _answer(_ask(port))).endswith(b"hello"), "it is up"
            asked.extend(_ask(port) for _ in range(20))
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                yield
            finally:
                time.sleep(0.3)  # noqa: ASYNC251 - longer than a tick of uvicorn

    with listening("127.0.0.1", 0) as listener:
        run(held_up(listener))

    for each in asked:
        each.settimeout(5)
        with each, each.makefile("rb") as answer:
            assert answer.read().endswith(b"hello")
