"""`sms-gateway clients`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.cli.running import sms_gateway
from tests.gateway import migrated_database

SECRET = "clients-test-secret-key-of-32-characters"


@pytest.fixture
async def settings(postgres: str, template: str, tmp_path: Path) -> AsyncIterator[dict[str, object]]:
    async with migrated_database(postgres, template) as dsn:
        yield {"SMS_GATEWAY_DATABASE_URL": dsn, "SMS_GATEWAY_SECRET_KEY": SECRET, "SMS_GATEWAY_DATA_DIR": tmp_path}


async def test_a_clients_limits_are_set_and_listed(settings: dict[str, object]) -> None:
    assert sms_gateway("keys", "create", "--client", "billing", **settings).returncode == 0
    changed = sms_gateway(
        "clients", "set", "billing", "--limit", "send=50:25", "--limit", "bulk=1000:10000",
        "--require-idempotency-key", **settings,
    )  # fmt: skip
    assert (changed.returncode, changed.stdout) == (0, "Changed.\n")
    again = sms_gateway("clients", "set", "billing", "--limit", "send=5:2", "--json", **settings)
    assert json.loads(again.stdout) == {"changed": "billing"}
    (client,) = json.loads(sms_gateway("clients", "list", "--json", **settings).stdout)
    assert client["limits"] == {"send": {"per_s": 5.0, "burst": 2}, "bulk": {"per_s": 1000.0, "burst": 10000}}
    assert client["require_idempotency_key"] is True
    assert "send=5:2" in sms_gateway("clients", "list", **settings).stdout
    assert sms_gateway("clients", "set", "billing", "--limit", "send=default", **settings).returncode == 0
    (client,) = json.loads(sms_gateway("clients", "list", "--json", **settings).stdout)
    assert client["limits"] == {"bulk": {"per_s": 1000.0, "burst": 10000}}


async def test_a_limit_that_is_none_and_a_client_who_is_nobody_are_refused(settings: dict[str, object]) -> None:
    for wrong in ("send=50", "mms=5:5", "send=0:5", "send=5:0", "send=nan:5", "send=1:1:1", "mms=default"):
        assert sms_gateway("clients", "set", "billing", "--limit", wrong, **settings).returncode == 2
    unknown = sms_gateway("clients", "set", "nobody", "--limit", "send=5:5", **settings)
    assert (unknown.returncode, "clients list" in unknown.stderr) == (1, True)


async def test_a_client_is_made_without_a_key(settings: dict[str, object]) -> None:
    for _ in range(2):
        assert sms_gateway("clients", "create", "shop", **settings).stdout == "Made.\n"
    (client,) = json.loads(sms_gateway("clients", "list", "--json", **settings).stdout)
    assert client["name"] == "shop"
    assert sms_gateway("clients", "create", " ", **settings).returncode == 2


async def test_every_client_and_key_is_listed_however_many_there_are(settings: dict[str, object]) -> None:
    connection = await asyncpg.connect(str(settings["SMS_GATEWAY_DATABASE_URL"]))
    try:
        await connection.execute(
            "INSERT INTO clients (id, name, webhook_secret)"
            " SELECT new_id(), 'c' || n, '' FROM generate_series(1, 1001) AS n"
        )
        await connection.execute(
            "INSERT INTO api_keys (id, client_id, key_hash, hint, scopes)"
            " SELECT new_id(), id, sha256(name::bytea), 'sk_', '{}' FROM clients"
        )
    finally:
        await connection.close()
    for command, name in (("clients", "name"), ("keys", "client")):
        listed = json.loads(sms_gateway(command, "list", "--json", **settings).stdout)
        assert {one[name] for one in listed} == {f"c{number}" for number in range(1, 1002)}
        assert len(listed) == 1001


async def test_a_clients_senders_countries_and_rates_are_set_and_listed(settings: dict[str, object]) -> None:
    assert sms_gateway("keys", "create", "--client", "billing", **settings).returncode == 0
    arguments = ("--senders", "MyApp,MyAppOTP", "--countries", "US,DE", "--special-rates")
    assert sms_gateway("clients", "set", "billing", *arguments, **settings).returncode == 0
    (client,) = json.loads(sms_gateway("clients", "list", "--json", **settings).stdout)
    assert (client["senders"], client["countries"]) == (["MyApp", "MyAppOTP"], ["US", "DE"])
    assert client["special_rates"] is True
    assert sms_gateway("clients", "set", "billing", "--senders", "*", **settings).returncode == 0
    (client,) = json.loads(sms_gateway("clients", "list", "--json", **settings).stdout)
    assert (client["senders"], client["countries"]) == (None, ["US", "DE"])
