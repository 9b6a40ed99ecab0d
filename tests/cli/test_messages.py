"""`messages` and `suppressions` against a gateway that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.cli.caller import RequestRefused
from tests.cli.conftest import Trial
from tests.cli.running import sms_gateway
from tests.cli.scripted import scripted

Call = Callable[..., Result]

NUMBER = "+15555550171"


@pytest.fixture
def call(trial: Trial) -> Call:
    return lambda *arguments: CliRunner().invoke(app, arguments, env=trial.settings | {"COLUMNS": "40"})


def _send(trial: Trial, **fields: str) -> dict[str, Any]:
    body = {"to": NUMBER, "from": "MyApp", "message": "Hello"} | fields
    answer = httpx.post(f"{trial.url}/v1/send", json=body, headers={"Authorization": f"Bearer {trial.api_key}"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _scheduled(trial: Trial, **fields: str) -> str:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return str(_send(trial, send_at=later, **fields)["message_id"])


def test_messages_are_listed_by_what_is_known_of_them(call: Call, trial: Trial) -> None:
    first = _scheduled(trial, reference="list-me")
    second = _scheduled(trial, reference="list-me")

    filters = ("--reference", "list-me", "--status", "queued", "--to", NUMBER, "--from", "MyApp")
    listed = call("messages", "list", *filters, "--limit", "1")
    as_json = call("messages", "list", *filters, "--json")

    assert listed.exit_code == 0, listed.output
    assert second in listed.stdout
    assert first not in listed.stdout
    assert [one["message_id"] for one in json.loads(as_json.stdout)["messages"]] == [second, first]
    cursor = listed.stderr.split()[-1]
    following = call("messages", "list", *filters, "--limit", "1", "--cursor", cursor)
    assert first in following.stdout
    assert "There are more" not in following.stderr


def test_a_message_is_shown_with_its_attempts_and_receipts(call: Call) -> None:
    watched = call("send", NUMBER, "Hello", "--from", "MyApp", "--reference", "[b]7", "--watch")
    message_id = json.loads(watched.stdout.partition("\n}\n")[0] + "}")["message_id"]

    shown = call("messages", "show", message_id)
    as_json = json.loads(call("messages", "show", message_id, "--json").stdout)

    assert shown.exit_code == 0, shown.output
    assert "[b]7" in shown.stdout
    assert "attempts" in shown.stdout
    assert "accepted" in shown.stdout
    assert (as_json["message_id"], as_json["attempts"][0]["provider"]) == (message_id, "primary")


def test_a_message_without_attempts_shows_none(call: Call, trial: Trial) -> None:
    shown = call("messages", "show", _scheduled(trial))

    assert "queued" in shown.stdout
    assert "attempts" not in shown.stdout


def test_a_message_is_cancelled_in_time_only(call: Call, trial: Trial) -> None:
    message_id = _scheduled(trial)

    assert call("messages", "cancel", message_id).stdout == "Cancelled.\n"
    assert json.loads(call("messages", "cancel", message_id, "--json").stdout)["status"] == "cancelled"

    result = call("messages", "cancel", "msg_" + "0" * 32)
    assert isinstance(result.exception, RequestRefused)


def test_what_is_too_late_ends_with_1_and_says_so() -> None:
    late = {"code": "not_cancellable", "detail": "The message is `sent` already."}
    with scripted((409, {}, late)) as server:
        ended = sms_gateway("messages", "cancel", "msg_1", SMS_URL=server.url, SMS_API_KEY="key")

    assert (ended.returncode, "not_cancellable" in ended.stderr) == (1, True)
    assert server.requests == [("POST", "/v1/messages/msg_1/cancel", None, None)]


@pytest.fixture
def admin(trial: Trial) -> Call:
    """Calls with the key of an admin, which `keys create` makes for the trial."""
    made = sms_gateway(
        "keys", "create", "--client", "admins", "--scopes", "admin", "--json",
        SMS_GATEWAY_DATA_DIR=trial.folder / "data",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    settings = {"SMS_URL": trial.url, "SMS_API_KEY": json.loads(made.stdout)["key"]}
    return lambda *arguments: CliRunner().invoke(app, arguments, env=settings)


def test_numbers_are_suppressed_listed_and_removed(admin: Call) -> None:
    assert admin("suppressions", "add", NUMBER, "--reason", "asked [by] phone").stdout == "Suppressed.\n"
    assert json.loads(admin("suppressions", "add", NUMBER, "--json").stdout)["reason"] == "asked [by] phone"
    listed = admin("suppressions", "list", "--number", NUMBER)
    assert listed.exit_code == 0, listed.output
    assert NUMBER in listed.stdout
    assert "[by]" in listed.stdout
    assert admin("suppressions", "remove", NUMBER).stdout == "Removed.\n"
    assert json.loads(admin("suppressions", "list", "--json").stdout)["suppressions"] == []
    assert isinstance(admin("suppressions", "remove", NUMBER, "--json").exception, RequestRefused)
    admin("suppressions", "add", NUMBER)
    assert json.loads(admin("suppressions", "remove", NUMBER, "--json").stdout) == {"removed": NUMBER}


def test_a_file_is_imported_but_for_its_bad_rows(admin: Call, tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("number\n+15555550180\n5555550181\n", encoding="utf-8-sig")

    first, again = admin("suppressions", "import", str(file)), admin("suppressions", "import", str(file), "--json")

    assert (first.exit_code, again.exit_code) == (1, 1)
    assert first.stdout == "added 1, known 0, rejected 1\n"
    assert first.stderr == "  line 3: number_missing_plus\n"
    assert (json.loads(again.stdout)["added"], json.loads(again.stdout)["known"]) == (0, 1)

    file.write_text("+15555550180\n")
    assert admin("suppressions", "import", str(file)).exit_code == 0
    file.write_bytes(b"\xff\xfe")
    assert admin("suppressions", "import", str(file)).exit_code == 2


def test_what_others_wrote_gives_no_orders_to_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r[bold red]\u202e"
    row = dict.fromkeys(("message_id", "status", "reason", "to", "from", "traffic", "segments", "created_at"), evil)
    number = {"number": NUMBER, "reason": evil, "source": "api", "created_at": ""}
    with scripted(
        (200, {}, {"messages": [row], "next_cursor": None}),
        (200, {}, {"message_id": "", "reference": evil, "attempts": [], "receipts": []}),
        (200, {}, {"suppressions": [number], "next_cursor": None}),
        (200, {}, {"number": NUMBER, "network": evil}),
    ) as server:
        for command in (("messages", "list"), ("messages", "show", "x"), ("suppressions", "list"), ("lookup", NUMBER)):
            shown = CliRunner().invoke(app, [*command, "--url", server.url, "--api-key", "k"], color=True)
            assert shown.exit_code == 0, shown.output
            assert "owned" in shown.stdout
            assert "red]" in shown.stdout
            assert not [letter for letter in shown.stdout if not (letter.isprintable() or letter == "\n")]
