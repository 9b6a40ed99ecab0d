"""`send`, `lookup` and `bulk` against a gateway that runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app, bulk
from service.cli.caller import RequestRefused
from tests.cli.conftest import Trial
from tests.cli.running import sms_gateway
from tests.cli.scripted import Answer, scripted

Call = Callable[..., Result]


@pytest.fixture
def call(trial: Trial) -> Call:
    return lambda *arguments: CliRunner().invoke(app, arguments, env=trial.settings)


def test_a_message_is_watched_until_it_is_delivered(call: Call) -> None:
    result = call("send", "+15555550100", "Hello", "--from", "MyApp", "--reference", "order 7", "--watch")

    assert result.exit_code == 0
    reply, _, history = result.stdout.partition("\n}\n")
    assert json.loads(reply + "}")["reference"] == "order 7"
    assert "  attempt 1: primary: accepted\n" in history
    assert history.splitlines()[-1] == "delivered"


def test_a_watched_message_is_one_json_object_for_a_script(call: Call) -> None:
    result = call("send", "+15555550100", "Hello", "--from", "MyApp", "--watch", "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] == "delivered"


def test_a_message_that_is_not_delivered_ends_with_1_and_says_why(call: Call) -> None:
    result = call("send", "+15555550200", "Hello", "--from", "MyApp", "--watch")

    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "undelivered (absent_subscriber)"


def test_the_same_idempotency_key_sends_once(call: Call) -> None:
    arguments = ("send", "+15555550100", "Hello", "--from", "MyApp", "--idempotency-key", "only-once")
    first, second = call(*arguments), call(*arguments)

    assert first.stdout == second.stdout
    assert "Nothing new was sent" not in first.stderr
    assert "Nothing new was sent" in second.stderr


def test_a_number_is_looked_up(call: Call) -> None:
    fresh = call("lookup", "+15555550100", "--max-age", "0", "--json")
    known = call("lookup", "+15555550100", "--json")
    table = {line.split()[0]: line.split()[1] for line in call("lookup", "+15555550100").stdout.splitlines()}

    assert (table["status"], table["country"]) == ("active", "US")
    assert json.loads(fresh.stdout)["status"] == "active"
    assert (json.loads(fresh.stdout)["cached"], json.loads(known.stdout)["cached"]) == (False, True)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((422, {}, {"code": "unknown_sender", "detail": "Use another."}), 1, "422 unknown_sender"),
        ((200, {}, "<html>"), 3, "is not a gateway"),
    ],
)
def test_the_exit_code_says_who_has_to_act(answer: Answer, code: int, said: str) -> None:
    with scripted(answer) as server:
        ended = sms_gateway("send", "+15555550100", "x", "--from", "y", SMS_URL=server.url, SMSROUTE_API_KEY="key")

    assert (ended.returncode, said in ended.stderr, "Traceback" in ended.stderr) == (code, True, False)


def test_a_file_is_sent_in_one_go_and_never_twice(call: Call, tmp_path: Path) -> None:
    file, rejected = tmp_path / "numbers.csv", tmp_path / "rejected.csv"
    file.write_text("name,To\nAda,+15555550100\nBob,+15555550101\nBob,+15555550101\nCy,5555550102\nno number\n,\n")
    arguments = ("bulk", str(file), "--from", "MyAppPromo", "--message", "Sale", "--rejected", str(rejected))

    first = call(*arguments)
    again = call(*arguments)

    assert first.exit_code == 1
    assert first.stdout.splitlines() == [
        "accepted 2, rejected 2",
        "  duplicate_recipient: 1",
        "  number_missing_plus: 1",
    ]
    assert again.stdout == first.stdout
    assert "was sent before" not in first.stderr
    assert "was sent before" in again.stderr
    with rejected.open(newline="") as lines:
        assert [row[:2] for row in csv.reader(lines)] == [
            ["to", "code"],
            ["+15555550101", "duplicate_recipient"],
            ["5555550102", "number_missing_plus"],
        ]


def test_a_file_of_good_numbers_ends_with_0(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("\ufeff+15555550100\n\n+447700900123\n")

    result = call("bulk", str(file), "--from", "MyAppPromo", "--message", "Sale", "--reference", "spring")

    assert result.exit_code == 0
    assert result.stdout == "accepted 2, rejected 0\n"
    summary = call("bulk", str(file), "--from", "MyAppPromo", "--message", "Sale", "--reference", "spring", "--json")
    assert json.loads(summary.stdout) == {"accepted": 2, "rejected": 0, "reasons": {}}


def test_a_file_of_bad_numbers_only_is_summed_up_too(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("to\n0015555550100\n+1\n")

    result = call("bulk", str(file), "--from", "MyAppPromo", "--message", "Sale")

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "accepted 0, rejected 2",
        "  number_missing_plus: 1",
        "  number_too_short: 1",
    ]


def test_a_bulk_that_is_refused_as_a_whole_says_why(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text("+15555550100\n")

    result = call("bulk", str(file), "--from", "Nobody", "--message", "Sale")

    assert isinstance(result.exception, RequestRefused)
    assert "unknown_sender" in str(result.exception)


def test_a_long_file_goes_in_groups_with_a_key_each(tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    numbers = [f"+1555{number:07}" for number in range(bulk.GROUP + 1)]
    file.write_text("\n".join(numbers))
    answers: list[Answer] = [
        (200, {}, {"batch_id": "bat_1", "accepted": bulk.GROUP, "rejected": 0, "results": []}),
        (200, {}, {"batch_id": "bat_2", "accepted": 1, "rejected": 0, "results": []}),
    ]
    with scripted(*answers) as server:
        settings = {"SMS_URL": server.url, "SMS_API_KEY": "key"}
        result = CliRunner().invoke(app, ["bulk", str(file), "--from", "A", "--message", "Sale"], env=settings)

    assert result.exit_code == 0
    sent = [request[3]["recipients"] for request in server.requests]
    assert sent == [numbers[: bulk.GROUP], numbers[bulk.GROUP :]]
    assert server.requests[0][2] != server.requests[1][2]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "has no numbers"), ("to\n", "has no numbers"), ("name,number\nAda,+15555550100\n", "has several columns")],
)
def test_a_file_without_a_column_of_numbers_is_wrong_use(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "n.csv"
    file.write_text(text)

    arguments = ["bulk", str(file), "--from", "A", "--message", "Sale"]
    result = CliRunner().invoke(app, arguments, env={"SMS_API_KEY": "key", "COLUMNS": "300"})

    assert result.exit_code == 2
    assert said in result.stderr
