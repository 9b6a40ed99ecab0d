from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.errors import ConfigurationError, StoreOverloaded
from service.storage.migrate import migrate

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Keys = Callable[..., Result]


@pytest.fixture
async def keys(database: str) -> Keys:
    """Runs `sms-gateway keys` on a migrated database."""
    await asyncio.to_thread(migrate, database)

    def run(*arguments: str, secret_key: str = "k" * 32) -> Result:
        settings = {"SMS_GATEWAY_DATABASE_URL": database, "SMS_GATEWAY_SECRET_KEY": secret_key}
        return CliRunner().invoke(app, ["keys", *arguments], env=settings)

    return run


def listed(keys: Keys) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(keys("list", "--json").stdout)
    return rows


def created(keys: Keys, *arguments: str) -> dict[str, Any]:
    result = keys("create", "--client", "crm", "--json", *arguments)
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads(result.stdout)
    return made


def test_a_key_is_shown_when_it_is_made_and_never_again(keys: Keys) -> None:
    made = created(keys, "--scopes", "send,read,send")

    assert made["key"].startswith("sk_")
    assert len(made["key"]) == 46
    assert made["webhook_secret"].startswith("whsec_")
    (row,) = listed(keys)
    assert row == {
        "id": made["id"],
        "client": "crm",
        "hint": made["key"][:10],
        "scopes": ["send", "read"],
        "senders": None,
        "countries": None,
        "created_at": row["created_at"],
        "expires_at": None,
        "last_used_at": None,
        "revoked_at": None,
    }


def test_what_is_printed_for_people_says_the_same(keys: Keys) -> None:
    shown = keys("create", "--client", "crm").stdout.split()
    api_key = shown[shown.index("key", 3) + 1]

    table = keys("list").stdout
    assert f"{api_key[:10]}..." in table
    assert "send,hlr,read" in table


def test_a_client_keeps_its_webhook_secret_from_key_to_key(keys: Keys) -> None:
    first, second = created(keys), created(keys)

    assert first["key"] != second["key"]
    assert first["webhook_secret"] == second["webhook_secret"]


def test_a_given_webhook_secret_replaces_the_client_s(keys: Keys) -> None:
    created(keys)

    assert created(keys, "--webhook-secret", SECRET)["webhook_secret"] == SECRET
    assert created(keys)["webhook_secret"] == SECRET


def test_a_revoked_key_is_listed_as_such_and_cannot_be_revoked_again(keys: Keys) -> None:
    key_id = created(keys)["id"]

    assert keys("revoke", key_id).exit_code == 0
    assert listed(keys)[0]["revoked_at"] is not None
    assert key_id in keys("list").stdout
    again = keys("revoke", key_id)
    assert again.exit_code == 1
    assert "no living key" in again.stderr


def test_a_key_can_be_bound_to_senders_countries_and_days(keys: Keys) -> None:
    created(keys, "--senders", "MyApp,MyAppOTP", "--countries", "DE", "--days", "90")
    created(keys, "--senders", "*", "--countries", "*")

    first, second = listed(keys)
    assert (first["senders"], first["countries"]) == (["MyApp", "MyAppOTP"], ["DE"])
    assert first["expires_at"] > first["created_at"]
    assert (second["senders"], second["countries"], second["expires_at"]) == (None, None, None)
    table = keys("list").stdout
    assert first["id"] in table
    assert "MyApp,MyAppOTP" in table


def test_a_rotated_key_has_a_successor_and_an_end(keys: Keys) -> None:
    old = created(keys, "--scopes", "send", "--days", "90")

    made = json.loads(keys("rotate", old["id"], "--overlap-s", "60", "--json").stdout)

    assert made["key"].startswith("sk_")
    assert made["scopes"] == ["send"]
    first, second = listed(keys)
    assert (first["id"], first["expires_at"]) == (old["id"], made["old_expires_at"])
    assert (second["id"], second["hint"], second["expires_at"]) == (made["id"], made["key"][:10], made["expires_at"])
    shown = keys("rotate", made["id"]).stdout
    assert "old key ends" in shown
    assert keys("rotate", old["id"], "--overlap-s", "0").exit_code == 0
    again = keys("rotate", old["id"])
    assert again.exit_code == 1
    assert "no living key" in again.stderr


def test_what_was_done_stands_in_the_audit_log(keys: Keys, database: str) -> None:
    made = created(keys)
    keys("revoke", made["id"])
    assert keys("revoke", made["id"]).exit_code == 1

    settings = {"SMS_GATEWAY_DATABASE_URL": database}
    log = json.loads(CliRunner().invoke(app, ["audit", "list", "--json"], env=settings).stdout)
    assert [(act["action"], act["object"]) for act in log] == [
        ("key.revoke", f"key:{made['id']}"),
        ("key.create", f"key:{made['id']}"),
        ("client.create", "client:crm"),
    ]
    assert {act["actor"] for act in log} == {f"cli:{getuser()}"}
    assert made["key"] not in json.dumps(log)
    table = CliRunner().invoke(app, ["audit", "list", "--limit", "1"], env=settings).stdout
    assert "key.revoke" in table
    assert "key.create" not in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--client", "crm", "--scopes", "send,everything"], "send, hlr, read, admin"),
        (["--client", " "], "1 to 64 visible characters"),
        (["--client", "x" * 65], "1 to 64 visible characters"),
        (["--client", "crm", "--senders", "a sender too long"], "write sender IDs"),
        (["--client", "crm", "--countries", "US,Germany"], "write ISO 3166-1 codes"),
        (["--client", "crm", "--days", "0"], "0.001"),
    ],
)
def test_wrong_use_is_refused(keys: Keys, arguments: list[str], said: str) -> None:
    result = keys("create", *arguments)

    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert listed(keys) == []


def test_a_webhook_secret_that_is_none_is_refused(keys: Keys) -> None:
    result = keys("create", "--client", "crm", "--webhook-secret", "secret")

    assert isinstance(result.exception, ConfigurationError)
    assert listed(keys) == []


def test_another_secret_key_than_the_gateway_s_is_noticed(keys: Keys) -> None:
    created(keys)

    result = keys("create", "--client", "crm", secret_key="o" * 32)

    assert "under another SMS_GATEWAY_SECRET_KEY" in str(result.exception)


def test_without_the_secret_key_no_key_is_made(keys: Keys) -> None:
    result = keys("create", "--client", "crm", secret_key="")

    assert "Set SMS_GATEWAY_SECRET_KEY" in str(result.exception)


def test_a_database_that_was_not_migrated_is_left_alone(database: str) -> None:
    result = CliRunner().invoke(app, ["keys", "list"], env={"SMS_GATEWAY_DATABASE_URL": database})

    assert "run `sms-gateway migrate`" in str(result.exception)


def test_a_database_that_does_not_answer_is_an_error_not_a_traceback() -> None:
    url = "postgresql://gateway:secret@127.0.0.1:1/gateway"
    result = CliRunner().invoke(app, ["keys", "list"], env={"SMS_GATEWAY_DATABASE_URL": url})

    assert isinstance(result.exception, StoreOverloaded)
    assert "secret" not in str(result.exception)


def test_without_any_gateway_running_the_embedded_database_is_started_for_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", *arguments], env={"SMS_GATEWAY_DATA_DIR": str(tmp_path)})

    made = json.loads(run("create", "--client", "crm", "--json").stdout)

    assert [row["id"] for row in json.loads(run("list", "--json").stdout)] == [made["id"]]
