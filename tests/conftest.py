from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.all_must_run import pytest_runtest_makereport
from tests.gateway import migrated_template
from tests.postgres import postgres_for_tests

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The DSN of the session's PostgreSQL, as its superuser."""
    async with postgres_for_tests(tmp_path_factory.mktemp("postgres")) as dsn:
        yield dsn


@pytest.fixture(scope="session")
async def template(postgres: str) -> str:
    """The name of a migrated database, to copy others from."""
    return await migrated_template(postgres)
