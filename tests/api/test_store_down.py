"""What callers hear when PostgreSQL does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from service.api.problems import of_store
from service.errors import Unstorable
from service.pipeline.worker import working
from service.runtime import Runtime
from tests.api.client import NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import unreachable
from tests.postgres import database_name


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
        unready = await api.http.get("/readyz")
        assert problem(unready, 503).code == "database_unavailable"
        assert int(unready.headers["retry-after"]) >= 1
        stranger = {"Authorization": "Bearer unknown"}
        assert problem(await api.http.post("/v1/send", json=body(), headers=stranger), 503).code == "overloaded"
        url = f"/v1/receipts/primary/{runtime.keyring.account_token('primary')}"
        receipt = await api.http.post(url, json={"message_id": "x", "status": "delivered"})
        assert problem(receipt, 503).code == "overloaded"
        assert (await api.http.get("/healthz")).json() == {"status": "ok"}
    assert (await api.send(body(), "before")).json() == sent
    assert (await api.http.get("/readyz")).status_code == 200


async def test_while_the_database_is_read_only_nothing_is_accepted_and_then_it_goes_on_by_itself(
    api: GatewayClient, postgres: str, dsn: str
) -> None:
    async with read_only(postgres, dsn):
        for refused in (await api.send(body()), await api.send(body(), "one"), await api.bulk(bulk_body(NUMBER))):
            assert problem(refused, 503).code == "overloaded"
            assert int(refused.headers["retry-after"]) >= 1
        assert problem(await api.http.get("/readyz"), 503).code == "database_unavailable"
        assert (await api.http.get("/v1/messages")).status_code == 200, "what can be read is answered"
    await goes_on(api)


async def test_a_replica_that_nobody_writes_to_is_ready_again_after_a_failover(
    api: GatewayClient, postgres: str, dsn: str
) -> None:
    """Who is not ready gets no writes: the look itself leaves the connections to what is a standby now."""

    async def ready() -> bool:
        return (await api.http.get("/readyz")).status_code == 200

    async with read_only(postgres, dsn):
        assert not await ready()
    await until(ready)


async def test_a_disk_that_hangs_holds_no_caller_for_long_and_then_it_goes_on_by_itself(
    api: GatewayClient, dsn: str
) -> None:
    """As a disk would, a lock holds every statement that stores."""
    patient = GatewayClient(httpx.AsyncClient(base_url=api.http.base_url, headers=api.http.headers, timeout=60))
    other = await asyncpg.connect(dsn)
    began_s = time.monotonic()
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE messages")
            refused = await asyncio.gather(*(patient.send(body(), f"hung-{number}") for number in range(40)))
    finally:
        await other.close()
    assert time.monotonic() - began_s < 15, "a statement may take longer, a caller need not wait for it"
    for each in refused:
        assert problem(each, 503).code in {"overloaded", "commit_unknown"}
        assert int(each.headers["retry-after"]) >= 1
    await goes_on(api)
    first = await asyncio.gather(*(patient.send(body(), f"hung-{number}") for number in range(40)))
    again = await asyncio.gather(*(patient.send(body(), f"hung-{number}") for number in range(40)))
    assert [each.json() for each in first] == [each.json() for each in again], "whatever the fate of the first try"
    await patient.http.aclose()


async def test_a_worker_goes_on_by_itself_after_a_database_that_was_read_only_and_gone(
    api: GatewayClient, runtime: Runtime, postgres: str, dsn: str
) -> None:
    """It expires what it claims, which needs no provider."""
    async with working(runtime):
        async with read_only(postgres, dsn):
            assert problem(await api.send(body()), 503).code == "overloaded"
            await until(fails_to_claim(runtime))
        async with unreachable(postgres, dsn):
            await until(fails_to_claim(runtime))
        await goes_on(api)
        sent = (await api.send(body(validity_period=1))).json()
        url = f"/v1/messages/{sent['message_id']}"

        async def expired() -> bool:
            return bool((await api.http.get(url)).json()["status"] == "failed")

        await until(expired)


async def test_failures_of_the_database_are_counted(
    api: GatewayClient, runtime: Runtime, postgres: str, dsn: str
) -> None:
    def failures() -> float:
        sample = runtime.metrics.registry.get_sample_value("sms_gateway_database_errors_total", {"sqlstate": "25"})
        assert sample is not None
        return sample

    before = failures()
    async with read_only(postgres, dsn):
        assert problem(await api.send(body()), 503).code == "overloaded"
    assert failures() > before
    await goes_on(api)


def fails_to_claim(runtime: Runtime) -> Callable[[], Awaitable[bool]]:
    """Whether a claim has failed since."""

    def failures() -> float:
        return runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "claim"}) or 0.0

    before = failures()

    async def failed() -> bool:
        return failures() > before

    return failed


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while True:  # of a database and of a worker's loop nobody tells
            if await condition():
                return
            await asyncio.sleep(0.05)


async def goes_on(api: GatewayClient) -> None:
    """Nobody restarts anything, and within a few seconds every send is accepted again."""

    async def all_accepted() -> bool:
        answers = await asyncio.gather(*(api.send(body()) for _ in range(30)))
        return {answer.status_code for answer in answers} == {200}

    await until(all_accepted)


@asynccontextmanager
async def read_only(postgres: str, dsn: str) -> AsyncIterator[None]:
    """While the body runs, the database of `dsn` stores nothing for those who connect from now on, which are all."""
    name = database_name(dsn)
    admin = await asyncpg.connect(postgres)
    try:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", name)
        yield
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    finally:
        await admin.close()


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
    async with asyncio.timeout(60):
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
    await runtime.database.execute("UPDATE alembic_version SET version_num = 'v9999'")
    assert (await api.http.get("/readyz")).status_code == 200
    await runtime.database.execute("UPDATE alembic_version SET version_num = $1", before)
