"""`sms-gateway providers`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from getpass import getuser
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.domain.ids import new_attempt_id, new_id
from service.storage.migrate import migrate

CONFIG = """
providers:
  primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}
  fallback: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary, fallback]}]
"""

Providers = Callable[..., Result]


@pytest.fixture
async def providers(database: str, tmp_path: Path) -> Providers:
    """Runs `sms-gateway providers` on a migrated database."""
    await asyncio.to_thread(migrate, database)
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    settings = {"SMS_GATEWAY_DATABASE_URL": database, "SMS_GATEWAY_CONFIG": str(tmp_path / "gateway.yaml")}
    return lambda *arguments: CliRunner().invoke(app, ["providers", *arguments], env=settings)


def test_a_provider_is_paused_listed_and_resumed(providers: Providers) -> None:
    assert providers("pause", "primary", "--reason", "maintenance").stdout == "Paused.\n"
    first, second = json.loads(providers("list", "--json").stdout)
    assert first == {
        "provider": "primary",
        "under_way": 0,
        "paused": {"since": first["paused"]["since"], "by": f"cli:{getuser()}", "reason": "maintenance"},
    }
    assert second == {"provider": "fallback", "under_way": 0, "paused": None}
    assert "maintenance" in providers("list").stdout
    assert json.loads(providers("resume", "primary", "--json").stdout) == {"resumed": "primary"}
    again = providers("resume", "primary")
    assert (again.exit_code, "not paused" in again.stderr) == (1, True)


def test_a_provider_that_gateway_yaml_does_not_have_is_refused(providers: Providers) -> None:
    result = providers("pause", "primray", "--reason", "typo")
    assert result.exit_code == 2
    assert "primary, fallback" in result.stderr


def test_a_drain_waits_for_the_calls_that_are_under_way(providers: Providers, database: str) -> None:
    asyncio.run(_call(database))
    drained = providers("pause", "primary", "--reason", "maintenance", "--wait-s", "0.5", "--json")
    assert (drained.exit_code, json.loads(drained.stdout)) == (1, {"paused": "primary", "under_way": 1})
    drained = providers("pause", "fallback", "--reason", "maintenance", "--wait-s", "0.5")
    assert (drained.exit_code, drained.stdout) == (0, "Paused.\n")


async def _call(database: str) -> None:
    """A call to `primary` that has not been answered."""
    connection, message_id = await asyncpg.connect(database), new_id()
    await connection.execute(
        "INSERT INTO messages"
        " (id, client_id, recipient, sender, traffic, country, encoding, segments, status,"
        " worker_id, send_at, expires_at)"
        " VALUES ($1, $1, '+15555550100', 'MyApp', 'otp', 'US', 'gsm-7', 1, 'sending', $1, now(), now())",
        message_id,
    )
    attempt = "INSERT INTO attempts (id, message_id, provider) VALUES ($1, $2, 'primary')"
    await connection.execute(attempt, new_attempt_id(message_id), message_id)
    await connection.close()
