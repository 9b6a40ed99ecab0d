"""`sms-gateway purge`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.domain.ids import smallest_at
from service.storage.migrate import migrate

Purge = Callable[..., Result]

CONFIG = """
providers: {acme: {adapter: smsroute, base_url: "https://sms.example.com", api_key: none}}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [acme]}]
"""
OLD = datetime(2024, 5, 17, tzinfo=UTC)


@pytest.fixture
async def connection(database: str) -> Any:
    """To a database that holds a message of long ago, and its text."""
    await asyncio.to_thread(migrate, database)
    connection = await asyncpg.connect(database)
    for table in ("messages", "attempts"):
        await connection.execute("SELECT make_partition($1, '2024-05-01')", table)
    await connection.execute(
        "INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments,"
        " status, send_at, expires_at, ended_at)"
        " VALUES ($1, $1, '', '', 'secret', 'marketing', '', '', 1, 'failed', $2, $2, $2)",
        UUID(int=smallest_at(OLD).int + 1),
        OLD,
    )
    await connection.execute("ANALYZE messages")
    yield connection
    await connection.close()


@pytest.fixture
def purge(database: str, tmp_path: Path) -> Purge:
    """Runs it on that database."""
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG)

    def run(*arguments: str) -> Result:
        settings = {"SMS_GATEWAY_DATABASE_URL": database, "SMS_GATEWAY_CONFIG": str(config)}
        result = CliRunner().invoke(app, ["purge", *arguments], env=settings)
        assert result.exit_code == 0, result.output
        return result

    return run


async def left(connection: asyncpg.Connection) -> list[str | None]:
    return [row["body"] for row in await connection.fetch("SELECT body FROM messages")]


async def test_a_dry_run_says_what_would_go_and_touches_nothing(purge: Purge, connection: asyncpg.Connection) -> None:
    shown = await asyncio.to_thread(purge, "--dry-run", "--json")
    said = json.loads(shown.stdout)
    assert said["dry_run"] is True
    assert said["texts"] == [{"traffic": "marketing", "texts": 1, "oldest_ended_at": "2024-05-17T00:00:00Z"}]
    assert [(one["partition"], one["month"], one["rows"], one["in_use"]) for one in said["partitions"]] == [
        ("messages_2024_05", "2024-05", 1, False),
        ("attempts_2024_05", "2024-05", 0, False),
    ]
    table = (await asyncio.to_thread(purge, "--dry-run")).stdout
    assert "1 texts of marketing would go" in table
    assert "messages_2024_05" in table
    assert await left(connection) == ["secret"]


async def test_purge_does_it_and_then_nothing_is_left_to_do(purge: Purge, connection: asyncpg.Connection) -> None:
    said = json.loads((await asyncio.to_thread(purge, "--json")).stdout)
    assert [one["dropped"] for one in said["partitions"]] == [True, True]
    assert await left(connection) == []
    assert "Nothing is past its time." in (await asyncio.to_thread(purge)).stdout


async def test_texts_that_another_process_is_at_are_not_said_to_be_gone(
    purge: Purge, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", 0x534D5350)
        said = json.loads((await asyncio.to_thread(purge, "--json")).stdout)
        assert (said["texts"][0]["texts"], said["texts_purged"]) == (1, 0)
        assert "0 texts gone" in (await asyncio.to_thread(purge)).stdout
    assert await left(connection) == ["secret"]
    assert "1 texts gone" in (await asyncio.to_thread(purge)).stdout


async def test_what_stays_is_named_with_the_reason(purge: Purge, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE messages SET status = 'sent', due_at = now()")
    assert "stays: something in it has not ended" in (await asyncio.to_thread(purge)).stdout
    await connection.execute("UPDATE messages SET status = 'failed', due_at = NULL")
    async with connection.transaction():
        await connection.execute("LOCK TABLE messages IN ACCESS SHARE MODE")
        assert "stays: others use it now, try again" in (await asyncio.to_thread(purge)).stdout
    assert await left(connection) == [None], "its text went all the same"
