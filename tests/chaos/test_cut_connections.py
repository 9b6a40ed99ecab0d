from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.errors import CommitUnknown, StoreError
from service.storage.database import Database
from tests.postgres import create_database, drop_database


@pytest.fixture
async def dsn(postgres: str) -> AsyncIterator[str]:
    dsn = await create_database(postgres)
    yield dsn
    await drop_database(postgres, dsn)


async def test_a_connection_cut_at_any_step_of_a_transaction_is_the_stores_error(dsn: str) -> None:
    """The driver says it in many ways, also while it takes the connection back."""
    database, admin = await Database.open(dsn, connections=5), await Database.open(dsn, connections=1)
    await admin.execute("CREATE TABLE numbers (n int)")

    async def store() -> None:
        async with database.writing() as connection, connection.transaction():
            await connection.copy_records_to_table("numbers", records=[(1,)], columns=["n"])

    errors: list[BaseException] = []
    for turn in range(60):
        stores = [asyncio.create_task(store()) for _ in range(5)]
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        errors += [error for error in await asyncio.gather(*stores, return_exceptions=True) if error is not None]
    await database.close()
    await admin.close()

    assert any(isinstance(error, CommitUnknown) for error in errors)
    assert [error for error in errors if not isinstance(error, StoreError)] == []
