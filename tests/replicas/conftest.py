from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.conftest import cluster
from tests.chaos.stage import Stage, a_stage

__all__ = ["cluster"]


@pytest.fixture(scope="package")
async def standing(tmp_path_factory: pytest.TempPathFactory, cluster: Path) -> AsyncIterator[Stage]:
    async with a_stage(tmp_path_factory.mktemp("replicas"), cluster, serves=2, workers=2) as stage:
        yield stage


@pytest.fixture
async def stage(standing: Stage) -> Stage:
    """Two `serve` and two `worker`, shared by several tests, with all up again that the last one left dead."""
    await standing.start()
    return standing
