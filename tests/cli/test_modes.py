"""The gateway as it is run for good: serve, worker, all, migrate, and the simulator on its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from typer.testing import CliRunner

from service import __version__
from service.app import openapi_document
from service.cli import app
from service.errors import ConfigurationError
from service.storage.migrate import migrate
from tests.cli.running import Messages, alive, eventually, free_ports, running, sms_gateway

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CONFIG = f"""\
providers:
  one: {{adapter: smsroute, base_url: "${{SIMULATOR_URL}}", api_key: sim-key, webhook_secret: {SECRET}}}
senders:
  MyApp: {{traffic: transactional}}
routes:
  - {{providers: [one]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    return tmp_path


def wait_until_ready(port: int) -> None:
    eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code, lambda it: it == 200)


def test_serve_and_worker_deliver_together_and_stop_when_told(folder: Path, database: str) -> None:
    simulator, port = free_ports(), free_ports()
    settings = {
        "SMS_GATEWAY_DATABASE_URL": database,
        "SMS_GATEWAY_SECRET_KEY": "k" * 32,
        "SMS_GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "SIMULATOR_URL": f"http://127.0.0.1:{simulator}",
    }
    simulator_settings = {"SMS_SIMULATOR_API_KEY": "sim-key", "SMS_SIMULATOR_WEBHOOK_SECRET": SECRET}
    # So rarely that only a hint from `serve` can have woken `worker` in time.
    (folder / "gateway.yaml").write_text(CONFIG + "deliver: {poll_s: 60}\n")
    assert sms_gateway("migrate", **settings).stdout == "The database has the newest schema.\n"
    made = sms_gateway("keys", "create", "--client", "crm", "--scopes", "send,read", "--json", **settings)
    with ExitStack() as stack:
        commands = [
            stack.enter_context(running("simulator", "--port", str(simulator), folder=folder, **simulator_settings)),
            stack.enter_context(running("serve", folder=folder, SMS_GATEWAY_PORT=port, **settings)),
            stack.enter_context(running("worker", folder=folder, SMS_GATEWAY_PORT=port + 1, **settings)),
        ]
        assert "sim-key" in commands[0].printed_until("webhook secret")
        wait_until_ready(port)
        wait_until_ready(port + 1)
        messages = Messages(f"http://127.0.0.1:{port}", json.loads(made.stdout)["key"])

        assert messages.ended(messages.send())["status"] == "delivered"
        assert httpx.post(f"http://127.0.0.1:{port + 1}/v1/send").status_code == 404
        family = [process for command in commands for process in command.family()]
        assert [command.stop() for command in commands] == [0, 0, 0]
        assert alive(family) == {}


async def test_serve_makes_the_partitions_that_no_worker_has_made(folder: Path, database: str) -> None:
    await asyncio.to_thread(migrate, database)
    connection = await asyncpg.connect(database)
    this_month = f"messages_{datetime.now(UTC):%Y_%m}"
    await connection.execute(f"DROP TABLE {this_month}")
    port = free_ports()
    settings = {
        "SMS_GATEWAY_DATABASE_URL": database,
        "SMS_GATEWAY_SECRET_KEY": "k" * 32,
        "SIMULATOR_URL": "http://x.test",
    }
    with running("serve", folder=folder, SMS_GATEWAY_PORT=port, **settings):
        await asyncio.to_thread(wait_until_ready, port)
    assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", this_month)
    await connection.close()


def test_all_needs_only_a_configuration_and_its_keys_are_made_beside_it(folder: Path) -> None:
    settings = {"SMS_GATEWAY_DATA_DIR": folder / "data", "SIMULATOR_URL": "http://127.0.0.1:1"}
    port = free_ports()
    with running("all", folder=folder, SMS_GATEWAY_PORT=port, **settings) as command:
        wait_until_ready(port)
        made = sms_gateway("keys", "create", "--client", "crm", "--json", **settings)
        messages = Messages(f"http://127.0.0.1:{port}", json.loads(made.stdout)["key"])

        message_id = messages.send()
        attempts = eventually(lambda: messages.get(message_id)["attempts"], bool)

        assert attempts[0]["provider"] == "one"
        family = command.family()
        assert command.stop() == 0
        assert alive(family) == {}


def test_all_ends_when_its_database_is_killed_and_can_be_started_again(folder: Path) -> None:
    port = free_ports()
    settings = {"SMS_GATEWAY_PORT": port, "SIMULATOR_URL": "http://127.0.0.1:1"}
    with running("all", folder=folder, **settings) as command:
        wait_until_ready(port)
        family = command.family()
        postmaster = (folder / "data" / "pg" / "postmaster.pid").read_text().splitlines()[0]
        os.kill(int(postmaster), signal.SIGKILL)

        assert command.wait() == 1
        assert command.log().splitlines()[-1].startswith("The embedded PostgreSQL ended, and nobody had told it to.")
        eventually(lambda: alive(family), lambda left: left == {})

    with running("all", folder=folder, **settings):
        wait_until_ready(port)


@pytest.mark.parametrize("command", ["serve", "worker", "migrate"])
def test_without_a_database_it_says_what_to_set(command: str) -> None:
    result = CliRunner().invoke(app, [command])

    assert isinstance(result.exception, ConfigurationError)
    assert "SMS_GATEWAY_DATABASE_URL" in str(result.exception)


def test_a_setting_that_is_missing_ends_with_2_and_no_traceback() -> None:
    ended = sms_gateway("serve")

    assert ended.returncode == 2
    assert "SMS_GATEWAY_DATABASE_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_database_that_was_not_migrated_is_not_served(folder: Path, database: str, command: str) -> None:
    settings = {
        "SMS_GATEWAY_DATABASE_URL": database,
        "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        "SMS_GATEWAY_PORT": str(free_ports()),
        "SIMULATOR_URL": "http://127.0.0.1:1",
    }

    result = CliRunner().invoke(app, [command], env=settings)

    assert "run `sms-gateway migrate` first" in str(result.exception)


async def test_a_role_that_may_not_migrate_is_told_so(postgres: str, database: str) -> None:
    weak = urlsplit(database)
    address = weak._replace(netloc=f"weak:secret@{weak.hostname}:{weak.port}").geturl()
    administrator = await asyncpg.connect(postgres)
    try:
        await administrator.execute("CREATE ROLE weak LOGIN PASSWORD 'secret'")
        result = await asyncio.to_thread(
            CliRunner().invoke, app, ["migrate"], env={"SMS_GATEWAY_DATABASE_URL": address}
        )
        await administrator.execute("DROP ROLE weak")
    finally:
        await administrator.close()

    assert isinstance(result.exception, ConfigurationError)
    assert "refuses a migration: permission denied" in str(result.exception)


async def test_migrate_wait_ends_once_another_process_has_migrated(database: str, tmp_path: Path) -> None:
    with running("migrate", "--wait", "60", folder=tmp_path, SMS_GATEWAY_DATABASE_URL=database) as waiting:
        waiting.printed_until("Waiting")
        assert waiting.process.poll() is None

        await asyncio.to_thread(migrate, database)

        assert waiting.wait() == 0


@pytest.mark.parametrize("dsn", [None, "postgresql://nobody@127.0.0.1:1/none"])
def test_migrate_wait_gives_up_when_its_time_is_over_and_says_where_to_look(database: str, dsn: str | None) -> None:
    settings = {"SMS_GATEWAY_DATABASE_URL": dsn or database}

    result = CliRunner().invoke(app, ["migrate", "--wait", "0.5"], env=settings)

    assert isinstance(result.exception, ConfigurationError)
    assert "Within 0.5 s no `sms-gateway migrate`" in str(result.exception)


def test_a_simulator_whose_control_port_is_taken_says_so(tmp_path: Path) -> None:
    port = free_ports()
    with running("simulator", "--port", str(port), folder=tmp_path) as command:
        command.printed_until("webhook secret")

        result = CliRunner().invoke(app, ["simulator", "--port", str(port - 10), "--data-dir", str(tmp_path)])

        assert isinstance(result.exception, ConfigurationError)
        assert f"needs the ports {port - 10} and {port}" in str(result.exception)


def test_the_openapi_document_is_printed_or_written(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["openapi"]).stdout
    CliRunner().invoke(app, ["openapi", "--write", str(tmp_path / "openapi.json")])

    assert json.loads(printed) == json.loads(json.dumps(openapi_document()))
    assert (tmp_path / "openapi.json").read_text() == printed


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"{__version__}\n"
