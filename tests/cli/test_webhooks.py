"""`webhooks` against a gateway that runs, and what its tables and exit codes say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.cli.caller import GatewayUnreachable, RequestRefused
from tests.cli.conftest import Trial
from tests.cli.running import eventually
from tests.cli.scripted import Answer, scripted

Call = Callable[..., Result]
ENDPOINT = {
    "endpoint_id": "whe_1",
    "url": "https://shop.example/hook",
    "events": ["message.failed"],
    "enabled": False,
    "disabled_reason": "answered 410 Gone",
    "created_at": "2026-01-31T09:30:00.000Z",
}
DELIVERY = {
    "webhook_id": "whd_1",
    "type": "message.failed",
    "state": "dead",
    "attempts": 10,
    "http_status": 500,
    "error": "http_500",
    "created_at": "2026-01-31T09:30:00.000Z",
}


@pytest.fixture
def call(trial: Trial) -> Call:
    return lambda *arguments: CliRunner().invoke(app, ["webhooks", *arguments], env=trial.settings)


@pytest.fixture
def made(call: Call) -> Iterator[dict[str, Any]]:
    """An endpoint where nobody listens."""
    endpoint = json.loads(call("create", "http://127.0.0.1:9/hook", "--event", "message.failed", "--json").stdout)
    yield endpoint
    call("delete", endpoint["endpoint_id"])


def asked(answer: Answer, *arguments: str) -> tuple[Result, tuple[str, str, str | None, Any]]:
    """What a command makes of an answer, and what it asked for."""
    with scripted(answer) as server:
        settings = {"SMS_URL": server.url, "SMS_API_KEY": "key"}
        result = CliRunner().invoke(app, ["webhooks", *arguments], env=settings)
    [request] = server.requests
    return result, request


def test_an_endpoint_is_made_changed_rotated_and_deleted(call: Call) -> None:
    shown = call("create", "http://127.0.0.1:9/hook").stdout.split()
    endpoint_id, secret = shown[2], shown[5]
    assert (endpoint_id[:4], secret[:6]) == ("whe_", "whsec_")
    assert call("update", endpoint_id, "--disable").stdout == "Disabled.\n"
    changes = ("--enable", "--to", "http://127.0.0.1:9/new", "--event", "message.delivered")
    changed = call("update", endpoint_id, *changes, "--json")
    assert json.loads(changed.stdout)["events"] == ["message.delivered"]
    rotated = json.loads(call("rotate", endpoint_id, "--overlap-s", "60", "--json").stdout)
    assert rotated["secret"] != secret
    assert rotated["previous_secret_until"] is not None
    listed = json.loads(call("list", "--json").stdout)
    assert [one["url"] for one in listed if one["endpoint_id"] == endpoint_id] == ["http://127.0.0.1:9/new"]
    assert call("delete", endpoint_id).stdout == "Deleted.\n"
    gone = call("delete", endpoint_id).exception
    assert isinstance(gone, RequestRefused)
    assert gone.problem["code"] == "endpoint_not_found"


def test_a_test_event_that_nobody_takes_ends_with_1(call: Call, made: dict[str, Any]) -> None:
    result = call("test", made["endpoint_id"])
    assert result.exit_code == 1
    assert result.stdout.startswith("not acknowledged (NotSent")


def test_what_went_to_an_endpoint_is_listed_and_replayed(call: Call, trial: Trial, made: dict[str, Any]) -> None:
    call("update", made["endpoint_id"], "--event", "message.delivered")
    CliRunner().invoke(app, ["send", "+15555550100", "Hello", "--from", "MyApp"], env=trial.settings)
    page = eventually(
        lambda: json.loads(call("deliveries", made["endpoint_id"], "--state", "pending", "--json").stdout),
        lambda page: page["deliveries"],
    )
    [one] = page["deliveries"]
    assert call("replay", one["webhook_id"]).stdout == "1 will be sent again.\n"
    span = ("--from", "2026-01-01T00:00:00Z", "--to", "2999-01-01T00:00:00Z")
    assert json.loads(call("replay", made["endpoint_id"], *span, "--json").stdout) == {"replayed": 0}


def test_the_table_of_endpoints_says_why_one_is_disabled() -> None:
    everything = ENDPOINT | {"endpoint_id": "whe_2", "events": None, "enabled": True}
    result, request = asked((200, {}, {"webhooks": [ENDPOINT, everything]}), "list")
    assert request == ("GET", "/v1/webhooks", None, None)
    first, second = (line.split("  ") for line in result.stdout.splitlines()[1:])
    assert [cell.strip() for cell in first if cell.strip()] == [
        "whe_1",
        "https://shop.example/hook",
        "message.failed",
        "disabled: answered 410 Gone",
        "2026-01-31",
    ]
    assert [cell.strip() for cell in second if cell.strip()][2:4] == ["all", "enabled"]


def test_the_table_of_deliveries_says_where_it_goes_on() -> None:
    waiting = DELIVERY | {"state": "pending", "error": None, "http_status": None}
    page = {"deliveries": [DELIVERY, waiting], "next_cursor": "more"}
    result, request = asked((200, {}, page), "deliveries", "whe_1", "--limit", "2", "--cursor", "here")
    assert request[1] == "/v1/webhooks/whe_1/deliveries?limit=2&cursor=here"
    assert "http_500" in result.stdout
    assert "--cursor more" in result.stderr
    last, _ = asked((200, {}, page | {"next_cursor": None}), "deliveries", "whe_1")
    assert last.stderr == ""


def test_an_acknowledged_test_event_ends_with_0() -> None:
    answer = {"webhook_id": "whd_1", "delivered": True, "http_status": 204, "error": None}
    plain, request = asked((200, {}, answer), "test", "whe_1")
    as_json, _ = asked((200, {}, answer), "test", "whe_1", "--json")
    assert (plain.exit_code, plain.stdout, json.loads(as_json.stdout)) == (0, "acknowledged (204)\n", answer)
    assert request == ("POST", "/v1/webhooks/whe_1/test", None, None)


def test_a_secret_is_printed_with_its_endpoint() -> None:
    result, request = asked((200, {}, ENDPOINT | {"secret": "whsec_x"}), "rotate", "whe_1")
    assert request == ("POST", "/v1/webhooks/whe_1/rotate", None, {"overlap_s": 86_400})
    assert result.stdout.split() == ["endpoint", "id", "whe_1", "webhook", "secret", "whsec_x"]


def test_a_change_is_asked_for_once_even_when_the_store_is_down() -> None:
    answer: Answer = (503, {"Retry-After": "1"}, {"code": "commit_unknown", "detail": "Look."})
    result, request = asked(answer, "create", "https://shop.example/hook")
    assert request[3] == {"url": "https://shop.example/hook", "events": None}
    assert isinstance(result.exception, RequestRefused)
    unreachable = CliRunner().invoke(
        app, ["webhooks", "test", "whe_1"], env={"SMS_URL": "http://127.0.0.1:9", "SMS_API_KEY": "key"}
    )
    assert isinstance(unreachable.exception, GatewayUnreachable)


def test_a_range_needs_both_its_ends() -> None:
    arguments = ["webhooks", "replay", "whe_1", "--from", "2026-01-31T09:30:00Z"]
    result = CliRunner().invoke(app, arguments, env={"SMS_API_KEY": "key", "COLUMNS": "300"})
    assert result.exit_code == 2
    assert "--from and --to" in result.stderr
