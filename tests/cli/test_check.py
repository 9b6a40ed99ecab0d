from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app

GOOD = """\
providers:
  one: {adapter: smsroute, base_url: "https://one.example", api_key: "${ONE_KEY}"}
  two: {adapter: smsroute, base_url: "https://two.example", api_key: key}
senders:
  Codes: {traffic: otp}
  News: {traffic: marketing}
routes:
  - {traffic: otp, providers: [one]}
"""


def check(folder: Path, text: str, **settings: str) -> Result:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return CliRunner().invoke(app, ["check", str(path)], env={"ONE_KEY": "key", **settings})


def test_a_usable_file_is_summed_up(tmp_path: Path) -> None:
    result = check(tmp_path, GOOD)

    assert result.exit_code == 0
    assert "is ok: 2 providers, 2 senders, 1 route." in result.stdout
    assert "/v1/receipts/" not in result.stdout


def test_what_is_suspicious_is_a_warning(tmp_path: Path) -> None:
    warnings = check(tmp_path, GOOD).stderr

    assert "line 6: senders.News: no route takes marketing traffic" in warnings
    assert "senders.Codes" not in warnings
    assert "line 3: providers.two: no route names it" in warnings
    assert "SMS_GATEWAY_PUBLIC_URL is not set" in warnings


def test_a_route_for_every_traffic_leaves_nothing_to_warn_of(tmp_path: Path) -> None:
    config = GOOD.replace("{traffic: otp, providers: [one]}", "{providers: [one, two]}")

    assert check(tmp_path, config, SMS_GATEWAY_PUBLIC_URL="https://sms.example").stderr == ""


@pytest.mark.parametrize(
    ("routes", "lines"),
    [
        ([{"providers": ["one"]}, {"providers": ["two"]}], [9]),
        ([{"traffic": "otp"}, {"countries": ["DE"]}, {"traffic": "otp", "countries": ["DE"]}], [10]),
        ([{"traffic": "otp"}, {"traffic": "marketing"}, {"traffic": "transactional"}, {"countries": ["DE"]}], [11]),
        ([{"countries": ["DE"]}, {"countries": ["AT"]}, {"countries": ["AT", "DE"]}], [10]),
        ([{"countries": ["DE"]}, {"traffic": "otp"}, {"countries": ["AT", "DE"]}, {}], []),
    ],
)
def test_a_route_that_others_leave_nothing_is_a_warning(
    tmp_path: Path, routes: list[dict[str, object]], lines: list[int]
) -> None:
    shown = "".join(f"  - {json.dumps({'providers': ['one', 'two']} | route)}\n" for route in routes)
    result = check(tmp_path, GOOD.replace("  - {traffic: otp, providers: [one]}\n", shown))

    assert result.exit_code == 0
    warned = [line for line in result.stderr.splitlines() if "never taken" in line]
    assert [line.partition(": routes.")[0] for line in warned] == [f"warning: line {line}" for line in lines]


def test_with_the_secret_key_it_shows_the_callback_url_of_each_account(tmp_path: Path) -> None:
    settings = {"SMS_GATEWAY_SECRET_KEY": "k" * 32, "SMS_GATEWAY_PUBLIC_URL": "https://sms.example/"}
    result = check(tmp_path, GOOD, **settings)

    assert "one  https://sms.example/v1/receipts/one/" in result.stdout
    assert "two  https://sms.example/v1/receipts/two/" in result.stdout


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("traffic: marketing", "traffic: spam", "line 6: senders.News.traffic"),
        ("senders:", "sender:", "there is no such setting"),
        ("${ONE_KEY}", "${OTHER_KEY}", "line 2: the variable OTHER_KEY is not set"),
        ("one: {adapter: smsroute", "one: {adapter: other", "line 2: providers.one: provider account one: unknown `ad"),
        ("api_key: key", "api_key: a key", "line 3: providers.two: provider account two: `api_key` must be"),
        ("api_key: key", "api_key: key, webhook_secret: x", "line 3: providers.two: provider account two: `webhook_"),
        ("routes:", "hlr:\n  provider: two\nroutes:", "line 8: hlr.provider: HLR source two: unknown `adapter`"),
        ("traffic: marketing", "traffic: \x07", "line 6: not YAML: the character U+0007"),
        ("News", "? [a, b]\n  News", "line 6: a setting's name must be plain text"),
        ("routes:", "a: &a [*a]\nroutes:", "line 7: anchors and aliases"),
        ("api_key: key", "api_key: !!python/object:a.b {}", "line 3: neither text nor a number"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, good: str, bad: str, said: str) -> None:
    text = GOOD.replace("two: {adapter: smsroute", "two: {adapter: other") if "HLR" in said else GOOD
    result = check(tmp_path, text.replace(good, bad))

    assert result.exit_code == 1
    assert said in result.stderr


def test_without_an_argument_the_configured_file_is_checked(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    result = CliRunner().invoke(app, ["check"], env={"SMS_GATEWAY_CONFIG": str(missing)})

    assert result.exit_code == 1
    assert f"{missing} cannot be read" in result.stderr


def test_json_says_the_same(tmp_path: Path) -> None:
    settings = {"SMS_GATEWAY_SECRET_KEY": "k" * 32, "SMS_GATEWAY_PUBLIC_URL": "https://sms.example/"}
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    result = CliRunner().invoke(app, ["check", "--json", str(path)], env={"ONE_KEY": "key", **settings})

    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["file"], found["usable"]) == (str(path), True)
    assert [warning.partition(":")[0] for warning in found["warnings"]] == ["line 6", "line 3"]
    assert found["callback_urls"]["one"].startswith("https://sms.example/v1/receipts/one/")
    assert "connect" not in found


def test_json_says_what_is_wrong_where(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD.replace("traffic: marketing", "traffic: spam"))
    result = CliRunner().invoke(app, ["check", "--json", str(path)], env={"ONE_KEY": "key"})

    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["usable"] is False
    assert [(one["line"], one["where"]) for one in found["complaints"]] == [(6, "senders.News.traffic")]


def test_json_says_that_there_is_no_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--json", str(tmp_path / "missing.yaml")])

    assert result.exit_code == 1
    assert "cannot be read" in json.loads(result.stdout)["detail"]
    assert json.loads(result.stdout)["complaints"] == []
