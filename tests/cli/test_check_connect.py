"""`check --connect` over real HTTP, against simulators and a server that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.domain.keyring import new_webhook_secret
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from tests.cli.conftest import Trial
from tests.providers.recorder import Recorder


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        name="primary",
        host="127.0.0.1",
        port=0,
        api_key="sk_right",
        webhook_secret=new_webhook_secret(),
        data_dir=tmp_path / "primary",
    )
    async with Simulator(settings) as simulator:
        yield simulator


async def connect(folder: Path, *options: str, **accounts: tuple[str, str]) -> Result:
    """Each account is a URL and a key."""
    lines = [
        f"  {name}: {json.dumps({'adapter': 'smsroute', 'base_url': url, 'api_key': key})}"
        for name, (url, key) in accounts.items()
    ]
    routes = json.dumps([{"providers": list(accounts)}])
    text = "\n".join(["providers:", *lines, "senders:", "  MyApp: {traffic: otp}", f"routes: {routes}", ""])
    path = folder / "gateway.yaml"
    path.write_text(text)
    return await asyncio.to_thread(CliRunner().invoke, app, ["check", "--connect", *options, str(path)])


async def test_credentials_that_work_are_ok_and_send_nothing(tmp_path: Path, simulator: Simulator) -> None:
    result = await connect(tmp_path, one=(simulator.base_url, "sk_right"))

    assert result.exit_code == 0, result.output
    assert "  one  ok" in result.stdout.splitlines()
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{simulator.control_url}/ledger")).json()["sends"] == []


async def test_another_gateway_of_ours_answers_like_a_provider(tmp_path: Path, trial: Trial) -> None:
    right, wrong = (trial.url, trial.api_key), (trial.url, "sk_wrong")
    result = await connect(tmp_path, "--json", right=right, wrong=wrong)

    found = json.loads(result.stdout)["connect"]
    assert found["right"] is None
    assert found["wrong"].startswith("HTTP 401, credentials (unauthorized).")


async def test_each_account_has_its_line_and_one_that_fails_fails_all(tmp_path: Path, simulator: Simulator) -> None:
    with socket.socket() as taken:  # bound and not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = await connect(
            tmp_path,
            right=(simulator.base_url, "sk_right"),
            wrong=(simulator.base_url, "sk_wrong"),
            down=(down, "sk_right"),
            elsewhere=(f"{simulator.base_url}/elsewhere", "sk_right"),
        )

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    right, wrong, refused, elsewhere = lines[lines.index("Credentials:") + 1 :]
    assert right == "  right  ok"
    assert wrong.startswith("  wrong  HTTP 401, credentials (unauthorized). Correct `api_key`")
    assert refused.startswith("  down  no connection: ConnectionRefusedError. Look whether `base_url` is right")
    assert elsewhere.startswith("  elsewhere  HTTP 404, configuration (")
    assert "Correct `base_url`" in elsewhere
    assert not [key for key in ("sk_right", "sk_wrong") if key in result.output]


async def test_json_has_a_trouble_or_null_for_each_account(tmp_path: Path, simulator: Simulator) -> None:
    accounts = {"right": (simulator.base_url, "sk_right"), "wrong": (simulator.base_url, "sk_wrong")}
    result = await connect(tmp_path, "--json", **accounts)

    assert result.exit_code == 1
    found = json.loads(result.stdout)["connect"]
    assert found["right"] is None
    assert "Correct `api_key`" in found["wrong"]
    assert not [key for key in ("sk_right", "sk_wrong") if key in result.output]


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (429, {}, "HTTP 429, throttled. Try again later."),
        (503, {"code": "overloaded"}, "HTTP 503, overloaded. Look whether"),
        (500, {}, "HTTP 500, http_500. Look whether"),
        (402, {}, "HTTP 402, funds. The credentials work, but there is no money."),
        (403, {"code": "scope_missing"}, "HTTP 403, forbidden (scope_missing). Ask the provider to let"),
        (418, {}, "HTTP 418, unrecognised. Look whether"),
        (200, {"message_id": "msg_1"}, "HTTP 200, unreadable_reply. Look whether"),
    ],
)
async def test_what_else_a_provider_may_say_is_told_with_what_to_do(
    tmp_path: Path, status: int, answer: dict[str, str], said: str
) -> None:
    async with Recorder() as provider:
        provider.status, provider.json = status, answer
        result = await connect(tmp_path, one=(provider.url, "sk_right"))

    assert result.exit_code == 1
    assert f"  one  {said}" in result.stdout


async def test_a_reply_that_breaks_off_is_told_too(tmp_path: Path) -> None:
    async with Recorder() as provider:
        provider.breaks = True
        result = await connect(tmp_path, one=(provider.url, "sk_right"))

    assert result.exit_code == 1
    assert "  one  no usable reply: " in result.stdout
