from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.stage import make_cluster


@pytest.fixture(scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a migrated PostgreSQL, for `a_stage`."""
    return await make_cluster(tmp_path_factory.mktemp("cluster") / "postgres")
