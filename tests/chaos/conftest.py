from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.stage import make_cluster

_ALL_WITHIN_S = 290.0
"""All tests of this folder together: five minutes, less what it takes to clear away what they leave."""


@pytest.fixture(scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a migrated PostgreSQL, for `a_stage`."""
    return await make_cluster(tmp_path_factory.mktemp("cluster") / "postgres")


InTime = Callable[[Path], AbstractAsyncContextManager[None]]


@pytest.fixture(scope="package")
def in_time() -> InTime:
    """The deadline of all these tests; what it makes for a folder fails then, with the logs in that folder."""
    ends_s = time.monotonic() + _ALL_WITHIN_S

    @asynccontextmanager
    async def until_then(folder: Path) -> AsyncIterator[None]:
        deadline = asyncio.timeout(ends_s - time.monotonic())
        try:
            async with deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise AssertionError(f"the chaos tests took longer than {_ALL_WITHIN_S} s\n{_logs(folder)}") from None

    return until_then


def _logs(folder: Path) -> str:
    return "\n".join(f"--- {log.stem}\n{log.read_text()[-1500:]}" for log in sorted(folder.glob("*.log")))
