from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from standardwebhooks import Webhook
from typer.testing import CliRunner

from service import __version__
from service.cli import app
from service.cli.dev import CONFIG as DEV_YAML
from service.errors import ConfigurationError
from tests.cli.conftest import Trial
from tests.cli.running import Messages, alive, eventually, free_ports, paste, running, sms_gateway
from tests.listener import Listener

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def messages_of(trial: Trial) -> Messages:
    return Messages(trial.url, trial.api_key)


@pytest.fixture
def primary_is_itself_again(trial: Trial) -> Iterator[None]:
    yield
    httpx.put(f"{trial.primary_control}/faults", json={"fault": "none"}).raise_for_status()


def test_the_printed_send_command_works_when_pasted(trial: Trial) -> None:
    answer = paste(trial.pasted("/v1/send"))

    assert answer.status_code == 200, answer.text
    message = messages_of(trial).ended(answer.json()["message_id"])
    assert (message["status"], message["provider"]) == ("delivered", "primary")


@pytest.mark.usefixtures("primary_is_itself_again")
def test_with_the_primary_taken_down_as_printed_the_fallback_delivers(trial: Trial) -> None:
    assert paste(trial.pasted("/faults")).status_code == 200

    message = messages_of(trial).ended(paste(trial.pasted("/v1/send")).json()["message_id"])

    assert message["status"] == "delivered"
    assert [attempt["provider"] for attempt in message["attempts"]] == ["primary", "fallback"]


def test_a_number_that_the_hlr_calls_dead_fails_without_a_send(trial: Trial) -> None:
    messages = messages_of(trial)

    message = messages.ended(messages.send("+15555550260"))

    assert (message["status"], message["reason"]) == ("failed", "number_unreachable")
    for control in (trial.primary_control, trial.fallback_control):
        assert httpx.get(f"{control}/ledger?to=%2B15555550260").json() == {"sends": []}


def test_its_metrics_say_that_one_process_does_all(trial: Trial) -> None:
    said = f'sms_gateway_build_info{{role="all",version="{__version__}"}} 1.0'

    assert said in httpx.get(f"{trial.url}/metrics").text.splitlines()


def test_the_docs_are_where_it_says(trial: Trial) -> None:
    assert httpx.get(trial.shown("docs")).status_code == 200


def test_what_it_made_is_kept_for_its_owner_only(trial: Trial) -> None:
    data = trial.folder / "data"
    assert (data / "api-key").read_text().strip() == trial.api_key
    assert (data / "webhook-secret").read_text().strip() == trial.shown("webhook secret")
    for name in ("api-key", "webhook-secret", "secret-key", "simulator/primary-api-key"):
        assert (data / name).stat().st_mode & 0o777 == 0o600


def test_a_second_gateway_on_the_same_port_says_so_and_starts_nothing(trial: Trial, tmp_path: Path) -> None:
    refused = sms_gateway("dev", SMS_GATEWAY_PORT=trial.port, SMS_GATEWAY_DATA_DIR=tmp_path)

    assert refused.returncode == 2
    assert f"Port {trial.port} of 127.0.0.1 is in use" in refused.stderr
    assert not (tmp_path / "pg").exists()


async def test_a_listener_gets_the_receipt_signed_with_the_printed_secret(trial: Trial) -> None:
    async with Listener() as listener:
        sent = await asyncio.to_thread(
            sms_gateway,
            "send",
            "+15555550100",
            "Hello",
            "--from",
            "MyApp",
            "--callback-url",
            listener.url,
            **trial.settings,
        )
        webhook, *_ = await listener.wait_for(1)

    told = Webhook(trial.shown("webhook secret")).verify(webhook.body, dict(webhook.headers))
    assert told["message_id"] == json.loads(sent.stdout)["message_id"]
    assert told["status"] == "delivered"


def test_a_killed_gateway_is_found_again_and_a_terminated_one_leaves_nothing(tmp_path: Path) -> None:
    port = free_ports()
    config = tmp_path / "quick.yaml"
    config.write_text(DEV_YAML.read_text() + "deliver: {lease_s: 4}\n")
    settings = {
        "SMS_GATEWAY_BOOTSTRAP_KEY": "given-key",
        "SMS_GATEWAY_BOOTSTRAP_WEBHOOK_SECRET": SECRET,
        "SMS_GATEWAY_CONFIG": str(config),
    }
    messages = Messages(f"http://127.0.0.1:{port}", "given-key")
    with running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings) as first:
        first.printed_until("Ctrl-C")
        message_id = messages.send()
        family = first.family()
        first.stop(signal.SIGKILL)

    settings["SMS_GATEWAY_BOOTSTRAP_WEBHOOK_SECRET"] = OTHER_SECRET
    with running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings) as second:
        assert OTHER_SECRET in second.printed_until("Ctrl-C")
        assert alive(family) == {}
        assert messages.ended(message_id)["status"] == "delivered"
        family = second.family()
        assert len(family) > 1
        assert second.stop(signal.SIGTERM) == 0
        assert alive(family) == {}


def test_a_second_signal_does_not_wait_for_a_provider_that_hangs(tmp_path: Path, database: str) -> None:
    port = free_ports()
    settings = {"SMS_GATEWAY_BOOTSTRAP_KEY": "given-key", "SMS_GATEWAY_DATABASE_URL": database}
    messages = Messages(f"http://127.0.0.1:{port}", "given-key")
    with running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings) as command:
        command.printed_until("Ctrl-C")
        family = command.family()
        assert len(family) == 1, "a PostgreSQL was started although one was given"
        httpx.put(f"http://127.0.0.1:{port + 11}/faults", json={"fault": "hang"}).raise_for_status()
        message_id = messages.send()
        eventually(lambda: messages.get(message_id)["attempts"], bool)

        command.process.send_signal(signal.SIGINT)
        eventually(lambda: _refuses(port), bool)
        assert command.process.poll() is None
        assert command.stop(signal.SIGINT) == 0
        assert alive(family) == {}


def test_a_stop_takes_no_longer_than_its_drain_time_whatever_hangs(tmp_path: Path, database: str) -> None:
    drain_s, port = 4, free_ports()
    settings = {"SMS_GATEWAY_BOOTSTRAP_KEY": "given-key", "SMS_GATEWAY_DATABASE_URL": database}
    messages = Messages(f"http://127.0.0.1:{port}", "given-key")
    with (
        running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, SMS_GATEWAY_DRAIN_S=drain_s, **settings) as command,
        socket.socket() as caller,
    ):
        command.printed_until("Ctrl-C")
        httpx.put(f"http://127.0.0.1:{port + 11}/faults", json={"fault": "hang"}).raise_for_status()
        message_id = messages.send()
        eventually(lambda: messages.get(message_id)["attempts"], bool)
        caller.connect(("127.0.0.1", port))
        head = "POST /v1/send HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer given-key\r\nExpect: 100-continue\r\n"
        caller.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode())
        assert caller.recv(100).startswith(b"HTTP/1.1 100"), "the request is not being read"

        began_s = time.monotonic()
        assert command.stop() == 0
        assert drain_s / 2 < time.monotonic() - began_s < drain_s * 1.75


def test_wherever_the_gateway_listens_the_simulators_stay_on_loopback(tmp_path: Path, database: str) -> None:
    port = free_ports()
    settings = {"SMS_GATEWAY_HOST": "0.0.0.0", "SMS_GATEWAY_DATABASE_URL": database}  # noqa: S104 - the case under test
    with running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings) as command:
        command.printed_until("Ctrl-C")
        connections = command.family()[0].net_connections("tcp")

    listening = {it.laddr.port: it.laddr.ip for it in connections if it.status == psutil.CONN_LISTEN}
    assert listening.pop(port) == "0.0.0.0"  # noqa: S104 - as above
    assert listening == dict.fromkeys((port + offset for offset in (1, 2, 11, 12)), "127.0.0.1")


def test_a_key_that_was_revoked_is_not_printed(tmp_path: Path, database: str) -> None:
    settings = {"SMS_GATEWAY_DATABASE_URL": database, "SMS_GATEWAY_DATA_DIR": tmp_path / "data"}
    port = free_ports()
    with running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings) as command:
        command.printed_until("Ctrl-C")
    [key] = json.loads(sms_gateway("keys", "list", "--json", **settings).stdout)
    assert sms_gateway("keys", "revoke", key["id"], **settings).returncode == 0

    refused = sms_gateway("dev", SMS_GATEWAY_PORT=port, **settings)

    assert refused.returncode == 2
    assert "has been revoked: set SMS_GATEWAY_BOOTSTRAP_KEY to another" in refused.stderr
    assert str(tmp_path / "data" / "api-key") in refused.stderr
    assert refused.stdout == ""
    (tmp_path / "data" / "api-key").unlink()
    with running("dev", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings) as command:
        assert "API key" in command.printed_until("Ctrl-C")


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SMS_GATEWAY_BOOTSTRAP_WEBHOOK_SECRET": "secret"}, "must be `whsec_` followed by base64"),
        ({"SMS_GATEWAY_BOOTSTRAP_WEBHOOK_SECRET": "whsec_?"}, "must be `whsec_` followed by base64"),
        ({"SMS_GATEWAY_BOOTSTRAP_WEBHOOK_SECRET": "whsec_"}, "must be `whsec_` followed by base64"),
        ({"SMS_GATEWAY_BOOTSTRAP_KEY": "a b"}, "without spaces"),
        ({"SMS_GATEWAY_LOG_LEVEL": "loud"}, "SMS_GATEWAY_LOG_LEVEL must be"),
        ({"SMS_GATEWAY_CONFIG": "/nowhere.yaml"}, "/nowhere.yaml cannot be read"),
        ({"SMS_GATEWAY_DATA_DIR": "/dev/null"}, "Use another data folder"),
        ({"SMS_GATEWAY_HOST": "192.0.2.1"}, "Cannot listen on 192.0.2.1"),
        ({"SMS_GATEWAY_HOST": "gateway.invalid"}, "Cannot listen on gateway.invalid"),
        ({"SMS_GATEWAY_PORT": "99999"}, "must be from 1 to 65535"),
    ],
)
def test_a_bad_setting_is_named_before_anything_starts(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    result = CliRunner().invoke(app, ["dev"], env={"SMS_GATEWAY_DATA_DIR": str(tmp_path), **settings})

    assert isinstance(result.exception, ConfigurationError)
    assert said in str(result.exception)
    assert not (tmp_path / "pg").exists()
