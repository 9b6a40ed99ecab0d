from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.gateway import migrated_database, migrated_template


@pytest.fixture(scope="package")
async def model_dsn(postgres: str) -> AsyncIterator[str]:
    """A database of its own."""
    async with migrated_database(postgres, await migrated_template(postgres)) as dsn:
        yield dsn
