"""Everything by way of a PgBouncer in transaction mode: each transaction may be on another connection of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service.environment import Environment
from service.errors import ConfigurationError
from service.storage.database import Database
from service.storage.migrate import migrate
from service.storage.schema import newest_version
from tests.gateway import migrated_database
from tests.journeys.pgbouncer import PROGRAM, pgbouncer
from tests.journeys.world import CONFIG, World, a_world, free_port
from tests.postgres import create_database, drop_database

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

LIMITED = CONFIG + "\nlimits: {{rates: {{send: {{per_s: 1000, burst: 1000}}, bulk: {{per_s: 0.1, burst: 1000}}}}}}\n"
BEHIND_IT = Environment(statement_cache=0, connections=12)


@pytest.fixture
async def world(postgres: str, template: str, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        migrated_database(postgres, template) as dsn,
        pgbouncer(dsn) as pooled,
        a_world(pooled, tmp_path, LIMITED, settings=BEHIND_IT) as world,
    ):
        yield world


async def test_many_messages_at_once_are_delivered_and_their_webhooks_come(world: World) -> None:
    sent = await asyncio.gather(*(world.send(f"+15555550{100 + number}") for number in range(60)))
    receipts = await asyncio.gather(*(world.webhook(each["message_id"]) for each in sent))
    assert {receipt["status"] for receipt in receipts} == {"delivered"}
    message = await world.message(sent[0]["message_id"])
    assert [(attempt["provider"], attempt["outcome"]) for attempt in message["attempts"]] == [("primary", "accepted")]


async def test_one_key_makes_one_message(world: World) -> None:
    replies = await asyncio.gather(*(world.send("+15555550105", key="same") for _ in range(20)))
    assert len({reply["message_id"] for reply in replies}) == 1
    await world.webhook(replies[0]["message_id"])
    assert len(await world.ledger(world.primary, "+15555550105")) == 1


async def test_a_bulk_is_copied_and_delivered_and_its_limit_holds(world: World) -> None:
    numbers = [f"+1555555{number:04}" for number in range(100, 200)]
    body = {"from": "MyAppPromo", "message": "Sale", "recipients": [*numbers, "nonsense"]}
    answer = await world.http.post("/v1/send/bulk", json=body, headers={"Idempotency-Key": "campaign"})
    bulk = answer.json()
    assert (answer.status_code, bulk["accepted"], bulk["rejected"]) == (200, 100, 1)
    ended = [await world.ended(result["message_id"]) for result in bulk["results"][:100]]
    assert {message["status"] for message in ended} == {"delivered"}
    again = await world.http.post("/v1/send/bulk", json=body, headers={"Idempotency-Key": "campaign"})
    assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
    # What is left of the burst of 1,000 after the 100; ten seconds bring one more.
    most = body | {"recipients": [f"+1555556{number:04}" for number in range(950)]}
    assert (await world.http.post("/v1/send/bulk", json=most)).status_code == 429


async def test_the_rest_of_the_interface_works_too(world: World) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    scheduled = await world.send("+15555550110", send_at=later)
    cancelled = await world.http.post(f"/v1/messages/{scheduled['message_id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    lookup = await world.http.get("/v1/hlr/+15555550104")
    assert (lookup.status_code, lookup.json()["status"]) == (200, "active")
    listed = await world.http.get("/v1/messages", params={"status": "cancelled"})
    assert [message["message_id"] for message in listed.json()["messages"]] == [scheduled["message_id"]]
    assert (await world.http.get("/readyz")).status_code == 200


async def test_it_goes_on_by_itself_when_pgbouncer_comes_back(postgres: str, template: str, tmp_path: Path) -> None:
    async with migrated_database(postgres, template) as dsn, AsyncExitStack() as stack:
        port = free_port()
        async with AsyncExitStack() as first:
            pooled = await first.enter_async_context(pgbouncer(dsn, port))
            world = await stack.enter_async_context(a_world(pooled, tmp_path, LIMITED, settings=BEHIND_IT))
            await world.webhook((await world.send())["message_id"])
        refused = await _send(world.http)
        assert (refused.status_code, refused.json()["code"]) in {(503, "overloaded"), (503, "commit_unknown")}
        assert int(refused.headers["retry-after"]) >= 1
        async with pgbouncer(dsn, port):
            await world.webhook((await world.send())["message_id"])
            await stack.aclose()


async def _send(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post("/v1/send", json={"to": "+15555550100", "from": "MyApp", "message": "Hello"})


async def test_statements_that_are_kept_are_refused_with_the_remedy(postgres: str, template: str) -> None:
    async with migrated_database(postgres, template) as dsn, pgbouncer(dsn) as pooled:
        with pytest.raises(ConfigurationError, match="SMS_GATEWAY_STATEMENT_CACHE=0"):
            await Database.open(pooled, connections=1, statement_cache=100)


async def test_migrations_run_through_it_and_leave_nothing_behind(postgres: str) -> None:
    dsn = await create_database(postgres)
    try:
        async with pgbouncer(dsn) as pooled:
            assert await asyncio.to_thread(migrate, pooled) == newest_version()
            assert await asyncio.to_thread(migrate, pooled) == newest_version()
            database = await Database.open(pooled, connections=1)
            assert await database.fetch("SELECT FROM pg_prepared_statements") == []
            assert await database.schema_version() == newest_version()
            await database.close()
    finally:
        await drop_database(postgres, dsn)
