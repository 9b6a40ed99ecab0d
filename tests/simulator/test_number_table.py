from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.simulator.number_table import NUMBER_TABLE, behaviour_of
from service.simulator.server import Simulator
from tests.listener import Listener
from tests.simulator.conftest import Client, settings_in

OUTCOMES = [
    ("0100", "delivered", 0, None),
    ("0123", "delivered", 0, None),
    ("0199", "delivered", 0, None),
    ("0200", "undelivered", 27, "absent_subscriber"),
    ("0209", "undelivered", 27, "absent_subscriber"),
    ("0210", "undelivered", 1, "unknown_subscriber"),
    ("0219", "undelivered", 1, "unknown_subscriber"),
    ("0230", "delivered", 0, None),
    ("0240", "failed", None, "provider_failed"),
    ("0249", "failed", None, "provider_failed"),
    ("0260", "undelivered", 1, "unknown_subscriber"),
    ("0269", "undelivered", 1, "unknown_subscriber"),
    ("0270", "delivered", 0, None),
    ("0280", "delivered", 0, None),
    ("0290", "delivered", 0, None),
    ("0310", "delivered", 0, None),
    ("9999", "delivered", 0, None),
]


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_the_last_four_digits_decide_the_receipt(
    client: Client, listener: Listener, outcome: tuple[str, str, int | None, str | None]
) -> None:
    digits, status, error_code, reason = outcome
    sent = (await client.send(f"+1555555{digits}", callback_url=listener.url)).json()
    receipt = (await listener.wait_for(1))[0].json()
    assert (receipt["status"], receipt["error_code"], receipt["reason"]) == (status, error_code, reason)
    assert receipt["message_id"] == sent["message_id"]
    assert (receipt["delivered_at"] is not None) == (status == "delivered")


@pytest.mark.parametrize("digits", ["0220", "0229"])
async def test_some_numbers_never_get_a_receipt(client: Client, listener: Listener, digits: str) -> None:
    await client.send(f"+1555555{digits}", callback_url=listener.url)
    later = (await client.send("+15555550100", callback_url=listener.url)).json()["message_id"]
    assert [received.json()["message_id"] for received in await listener.wait_for(1)] == [later]
    assert len(await client.ledger()) == 2


async def test_a_slow_number_gets_its_receipt_after_the_others(tmp_path: Path, listener: Listener) -> None:
    async with Simulator(settings_in(tmp_path, slow_receipt_delay_s=0.3)) as simulator:
        client = Client(simulator)
        slow = (await client.send("+15555550239", callback_url=listener.url)).json()["message_id"]
        quick = (await client.send("+15555550100", callback_url=listener.url)).json()["message_id"]
        received = await listener.wait_for(2)
        assert [one.json()["message_id"] for one in received] == [quick, slow]
        await client.close()


@pytest.mark.parametrize(
    ("digits", "code"), [("0250", "invalid_number"), ("0259", "invalid_number"), ("0300", "recipient_opted_out")]
)
async def test_some_numbers_are_refused_at_submit(client: Client, digits: str, code: str) -> None:
    answer = await client.send(f"+1555555{digits}")
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await client.ledger() == []


def hlr(status: str = "active", error_code: int = 0, **changes: object) -> dict[str, object]:
    dead = status == "invalid"
    usual: dict[str, object] = {
        "status": status,
        "error_code": error_code,
        "country": "US",
        "mcc": None if dead else "310",
        "mnc": None if dead else "260",
        "network": None if dead else "T-Mobile US",
        "line_type": None if dead else "mobile",
        "ported": None if dead else False,
        "roaming": None if dead else False,
        "cached": False,
        "source": "primary",
    }
    return usual | changes


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ("0100", hlr()),
        ("0200", hlr()),
        ("0210", hlr("invalid", 1)),
        ("0260", hlr("invalid", 1)),
        ("0269", hlr("invalid", 1)),
        ("0270", hlr("absent", 27)),
        ("0280", hlr(ported=True, mnc="410", network="AT&T Mobility")),
        ("0290", hlr(roaming=True)),
    ],
)
@pytest.mark.parametrize("plus", ["+", "%2B"])
async def test_the_last_four_digits_decide_the_look_up(
    client: Client, digits: str, expected: dict[str, Any], plus: str
) -> None:
    answer = await client.api.get(f"/v1/hlr/{plus}1555555{digits}?max_age=0")
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("checked_at").endswith("Z")
    assert body == expected | {"number": f"+1555555{digits}"}


async def test_a_country_without_a_network_in_the_table_has_none(client: Client) -> None:
    body = (await client.api.get("/v1/hlr/+41790000100")).json()
    assert (body["country"], body["status"], body["mcc"], body["mnc"]) == ("CH", "active", None, None)


async def test_a_look_up_of_a_bad_number_is_422(client: Client) -> None:
    answer = await client.api.get("/v1/hlr/15555550100")
    assert (answer.status_code, answer.json()["code"]) == (422, "number_missing_plus")


def test_the_lines_of_the_table_do_not_overlap() -> None:
    for digits, behaviour in NUMBER_TABLE.items():
        for last_four in digits:
            assert behaviour_of(f"+1555555{last_four:04}") is behaviour
