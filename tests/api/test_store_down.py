"""What callers hear when PostgreSQL does not answer."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from service.api.problems import of_store
from service.errors import Unstorable
from service.runtime import Runtime
from tests.api.client import NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import unreachable


async def test_while_the_database_is_down_nothing_is_accepted(
    api: GatewayClient, runtime: Runtime, postgres: str, dsn: str
) -> None:
    assert (await api.http.get("/readyz")).status_code == 200
    sent = (await api.send(body(), "before")).json()
    async with unreachable(postgres, dsn):
        for refused in (await api.send(body()), await api.bulk(bulk_body(NUMBER)), await api.send(body(), "before")):
            assert problem(refused, 503).code == "overloaded"
            assert int(refused.headers["retry-after"]) >= 1
        assert problem(await api.http.get(f"/v1/messages/{sent['message_id']}"), 503).code == "overloaded"
        assert problem(await api.http.get("/readyz"), 503).code == "database_unavailable"
        stranger = {"Authorization": "Bearer unknown"}
        assert problem(await api.http.post("/v1/send", json=body(), headers=stranger), 503).code == "overloaded"
        url = f"/v1/receipts/primary/{runtime.keyring.account_token('primary')}"
        receipt = await api.http.post(url, json={"message_id": "x", "status": "delivered"})
        assert problem(receipt, 503).code == "overloaded"
        assert (await api.http.get("/healthz")).json() == {"status": "ok"}
    assert (await api.send(body(), "before")).json() == sent
    assert (await api.http.get("/readyz")).status_code == 200


async def test_a_connection_that_breaks_within_the_commit_leaves_it_unknown(api: GatewayClient, dsn: str) -> None:
    other = await asyncpg.connect(dsn)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE messages")
            sending = asyncio.create_task(api.send(body()))
            await other.execute("SELECT pg_terminate_backend($1)", await _blocked(other))
            response = await sending
    finally:
        await other.close()
    assert problem(response, 503).code == "commit_unknown"
    assert int(response.headers["retry-after"]) >= 1


async def _blocked(connection: asyncpg.Connection) -> int:
    """The process that waits for a lock, once there is one."""
    async with asyncio.timeout(10):
        while True:
            waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            if (pid := await connection.fetchval(waiting)) is not None:
                return int(pid)
            await asyncio.sleep(0.01)


def test_data_that_the_database_refuses_is_the_callers_to_change() -> None:
    refused = of_store(Unstorable("22021"))
    assert (refused.status, refused.code) == (422, "unstorable")


@pytest.mark.parametrize("version", [None, "0000"])
async def test_an_old_schema_is_not_ready(api: GatewayClient, runtime: Runtime, version: str | None) -> None:
    await runtime.database.execute("ALTER TABLE alembic_version RENAME TO kept")
    try:
        if version is not None:
            await runtime.database.execute("CREATE TABLE alembic_version AS SELECT '0000' AS version_num")
        assert problem(await api.http.get("/readyz"), 503).code == "schema_outdated"
    finally:
        await runtime.database.execute("DROP TABLE IF EXISTS alembic_version")
        await runtime.database.execute("ALTER TABLE kept RENAME TO alembic_version")


async def test_a_later_schema_is_ready(api: GatewayClient, runtime: Runtime) -> None:
    before = await runtime.database.schema_version()
    await runtime.database.execute("UPDATE alembic_version SET version_num = '9999'")
    assert (await api.http.get("/readyz")).status_code == 200
    await runtime.database.execute("UPDATE alembic_version SET version_num = $1", before)
