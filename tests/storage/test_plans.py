"""Plans that are kept from when the tables were empty: what they read must not grow with what nobody asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from service.domain.ids import new_id
from service.storage.database import Connection, Database
from service.storage.sql import queries
from tests import rows
from tests.gateway import migrated_database

FEW_BLOCKS = 100
ROWS = 3_000
CLAIM = "(text, uuid[], timestamptz[], int, uuid, uuid, int)"
MESSAGES = (
    "INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments, send_at,"
    " due_at, expires_at)"
    " SELECT new_id(), $1, '+15555550100', 'MyApp', 'x', $2, 'US', 'gsm-7', 1, now(), now(),"
    " now() + interval '1 hour' FROM generate_series(1, $3::int)"
)
ATTEMPTS = (
    "INSERT INTO attempts (id, message_id, provider, receipt_key)"
    " SELECT new_id(), new_id(), 'primary', n::text FROM generate_series(1, $1::int) AS n"
)
ORPHANS = (
    "INSERT INTO orphan_receipts (provider, provider_message_id, status)"
    " SELECT 'primary', gen_random_uuid()::text, 'delivered' FROM generate_series(1, $1::int)"
)
A_LOOK = 1_000
DELIVERED = (
    "INSERT INTO webhook_deliveries (id, client_id, message_id, endpoint_id, target, status, event_at, state, ended_at)"
    " SELECT new_id(), new_id(), new_id(), $1::uuid, $1::uuid::text, 'delivered', now(), 'delivered', now()"
    " FROM generate_series(1, $2::int)"
)
KEYS = (
    "INSERT INTO api_keys (id, client_id, key_hash, hint, scopes)"
    " SELECT new_id(), $1, sha256(gen_random_uuid()::text::bytea), '', '{}' FROM generate_series(1, $2::int)"
)


@pytest.fixture
async def fresh_dsn(postgres: str, template: str) -> AsyncIterator[str]:
    """An empty database."""
    async with migrated_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture
async def fresh(fresh_dsn: str) -> AsyncIterator[Database]:
    """The same, over one connection that keeps its plans."""
    database = await Database.open(fresh_dsn, connections=1, statement_cache=100)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def snapshot(fresh_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Another connection to it, in a transaction that sees for ever what was there at its first question."""
    connection = await asyncpg.connect(fresh_dsn)
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def kept(database: Database, stage: str, name: str, types: str, arguments: str) -> AsyncIterator[Connection]:
    """The connection, with the query as `planned`, and its plan made."""
    async with database.writing() as connection:
        await connection.execute(f"PREPARE planned {types} AS {queries(stage)[name]}")
        await connection.execute(f"EXECUTE planned {arguments}")
        yield connection


async def blocks_and_rows(connection: Connection, arguments: str) -> tuple[int, int]:
    """How many blocks the kept plan reads, and how many rows it finds."""
    row = await connection.fetchrow(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE planned {arguments}")
    assert row is not None
    plan: dict[str, Any] = orjson.loads(row[0])[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], plan["Actual Rows"]


async def test_an_otp_is_claimed_without_a_look_at_the_campaign_that_is_due_before_it(fresh: Database) -> None:
    client_id = await rows.a_client(fresh)
    arguments = f"('otp', '{{}}', '{{}}', 64, '{new_id()}', '{UUID(int=0)}', 256)"
    async with kept(fresh, "deliver", "claim", CLAIM, arguments) as connection:
        await connection.execute(MESSAGES, client_id, "marketing", ROWS)
        await connection.execute(MESSAGES, client_id, "otp", 1)
        blocks, found = await blocks_and_rows(connection, arguments)
    assert found == 1
    assert blocks < FEW_BLOCKS


async def test_what_an_old_snapshot_keeps_is_walked_over_once_by_a_claim_without_floors(
    fresh: Database, snapshot: asyncpg.Connection
) -> None:
    client_id = await rows.a_client(fresh)
    arguments = f"('transactional', '{{}}', '{{}}', 64, '{new_id()}', '{UUID(int=0)}', 256)"
    async with kept(fresh, "deliver", "claim", CLAIM, arguments) as connection:
        await connection.execute(MESSAGES, client_id, "transactional", ROWS)
        await connection.execute("UPDATE messages SET due_at = now() - random() * interval '1 hour'")
        await snapshot.fetchval("SELECT count(*) FROM messages")
        await connection.execute("UPDATE messages SET status = 'sent'")
        await connection.execute(MESSAGES, client_id, "transactional", 1)
        blocks, found = await blocks_and_rows(connection, arguments)
    assert found == 1
    assert ROWS <= blocks < 3 * ROWS  # each has two entries: of its first time and of its new one


async def test_orphans_are_matched_without_a_look_at_all_attempts(fresh: Database) -> None:
    arguments = "('', '', '')"
    async with kept(fresh, "receive", "orphans", "(text, text, text)", arguments) as connection:
        await connection.execute(ATTEMPTS, ROWS)
        await connection.execute(
            "INSERT INTO orphan_receipts (provider, provider_message_id, status) VALUES ('primary', '7', 'delivered')"
        )
        blocks, found = await blocks_and_rows(connection, arguments)
    assert found == 1
    assert blocks < FEW_BLOCKS


async def test_a_look_at_the_orphans_reads_no_more_where_there_are_many(fresh: Database) -> None:
    arguments = "('primary', '5', 'delivered')"
    async with kept(fresh, "receive", "orphans", "(text, text, text)", arguments) as connection:
        blocks = []
        for _ in range(2):
            await connection.execute(ORPHANS, 10 * ROWS)
            read, found = await blocks_and_rows(connection, arguments)
            assert found == A_LOOK
            blocks.append(read)
    assert blocks[1] < blocks[0] + FEW_BLOCKS


async def test_what_waits_for_an_endpoint_is_ended_without_a_look_at_what_went_to_it(fresh: Database) -> None:
    endpoint_id = new_id()
    arguments = f"('{endpoint_id}', 'endpoint_disabled', 1000)"
    async with kept(fresh, "notify", "end_deliveries_of_endpoint", "(uuid, text, int)", arguments) as connection:
        await connection.execute(DELIVERED, endpoint_id, 10 * ROWS)
        blocks, _ = await blocks_and_rows(connection, arguments)
    assert blocks < FEW_BLOCKS


async def test_webhooks_are_claimed_without_a_look_at_those_that_are_not_due(fresh: Database) -> None:
    client_id, endpoint_id = await rows.a_client(fresh), new_id()
    of_target = f"'{{{endpoint_id}}}', '{{100}}', '{{0}}', '{{{client_id}}}', '{{100}}', '{{0}}'"
    types, arguments = "(uuid, int, text[], int[], int[], uuid[], int[], int[])", f"('{new_id()}', 100, {of_target})"
    async with kept(fresh, "notify", "claim_deliveries", types, arguments) as connection:
        await connection.execute(DELIVERED, endpoint_id, 10 * ROWS)
        blocks, _ = await blocks_and_rows(connection, arguments)
    assert blocks < FEW_BLOCKS


async def test_changes_of_keys_are_read_without_a_look_at_the_keys_that_did_not_change(fresh: Database) -> None:
    client_id = await rows.a_client(fresh)
    changed = queries("changes")["changed"].format(rows=queries("clients")["living_keys"])
    async with fresh.writing() as connection:
        await connection.execute(f"PREPARE planned (text, xid8, uuid, int) AS {changed}")
        await connection.execute(KEYS, client_id, 10 * ROWS)
        snapshot = str(await connection.fetchval("SELECT pg_current_snapshot()::text"))
        arguments = f"('{snapshot}', '{snapshot.partition(':')[0]}', '{UUID(int=0)}', 250)"
        await connection.execute(f"EXECUTE planned {arguments}")
        await connection.execute(KEYS, client_id, 1)
        blocks, found = await blocks_and_rows(connection, arguments)
    assert found == 1
    assert blocks < FEW_BLOCKS
