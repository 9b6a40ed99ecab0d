"""Plans that are kept from when the tables were empty: what they read must not grow with what nobody asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

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
KEYS = (
    "INSERT INTO api_keys (id, client_id, key_hash, hint, scopes)"
    " SELECT new_id(), $1, sha256(gen_random_uuid()::text::bytea), '', '{}' FROM generate_series(1, $2::int)"
)


@pytest.fixture
async def fresh(postgres: str, template: str) -> AsyncIterator[Database]:
    """An empty database, over one connection that keeps its plans."""
    async with migrated_database(postgres, template) as dsn:
        database = await Database.open(dsn, connections=1, statement_cache=100)
        try:
            yield database
        finally:
            await database.close()


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


async def test_orphans_are_matched_without_a_look_at_all_attempts(fresh: Database) -> None:
    async with kept(fresh, "receive", "matched_orphans", "", "") as connection:
        await connection.execute(ATTEMPTS, ROWS)
        await connection.execute(
            "INSERT INTO orphan_receipts (provider, provider_message_id, status) VALUES ('primary', '7', 'delivered')"
        )
        blocks, found = await blocks_and_rows(connection, "")
    assert found == 1
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
