from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway import migrated_database
from tests.journeys.world import World, a_world


@pytest.fixture
async def world(postgres: str, template: str, tmp_path: Path) -> AsyncIterator[World]:
    """A world of its own for each test: faults and breakers leave traces."""
    async with migrated_database(postgres, template) as dsn, a_world(dsn, tmp_path) as world:
        yield world
