from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import typer

from service.cli.process import run


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
