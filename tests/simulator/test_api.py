from __future__ import annotations

import re
from datetime import datetime

import httpx
import pytest

from tests.simulator.conftest import Client


async def test_a_send_is_queued_and_told_in_full(client: Client) -> None:
    answer = await client.send("+447700900123", reference="order 7", traffic="otp", message="€uro")
    assert answer.status_code == 200
    body = answer.json()
    assert re.fullmatch(r"msg_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", body.pop("message_id"))
    assert datetime.fromisoformat(body.pop("created_at")).tzinfo
    assert body == {
        "status": "queued",
        "to": "+447700900123",
        "from": "MyApp",
        "traffic": "otp",
        "segments": 1,
        "encoding": "gsm-7",
        "reference": "order 7",
    }


async def test_the_ledger_has_every_send_in_order_and_finds_those_to_a_number(client: Client) -> None:
    first = (await client.send("+15555550100", key="k1")).json()["message_id"]
    await client.send("+15555550101")
    third = (await client.send("+15555550100")).json()["message_id"]
    assert [entry["to"] for entry in await client.ledger()] == ["+15555550100", "+15555550101", "+15555550100"]
    found = await client.ledger(to="+15555550100")
    assert [entry["message_id"] for entry in found] == [first, third]
    assert found[0].keys() == {"message_id", "to", "from", "idempotency_key", "at"}
    assert (found[0]["from"], found[0]["idempotency_key"], found[1]["idempotency_key"]) == ("MyApp", "k1", None)
    assert found[0]["at"].endswith("Z")


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "key", "Bearer \xff"])
async def test_a_wrong_key_is_401(client: Client, authorization: str) -> None:
    answer = await client.api.get("/v1/hlr/+15555550100", headers={b"Authorization": authorization.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_health_needs_no_key_on_either_port(client: Client) -> None:
    for base in (client.api.base_url, client.control.base_url):
        async with httpx.AsyncClient(base_url=base) as anyone:
            assert (await anyone.get("/healthz")).json() == {"status": "ok"}


async def test_an_error_is_a_problem_that_echoes_nothing(client: Client) -> None:
    answer = await client.send("0015555550100")
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body = answer.json()
    assert body.keys() == {"type", "title", "status", "detail", "code", "errors", "request_id"}
    assert (body["status"], body["code"]) == (422, "number_missing_plus")
    assert [error["field"] for error in body["errors"]] == ["to"]
    assert "15555550100" not in answer.text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"form": "MyApp"}, "form"),
        ({"from": "NameTooLong12"}, "from"),
        ({"from": "12"}, "from"),
        ({"from": "Привет"}, "from"),
        ({"message": ""}, "message"),
        ({"message": "x" * 1531}, "message"),
        ({"message": 5}, "message"),
        ({"traffic": "spam"}, "traffic"),
        ({"callback_url": "ftp://127.0.0.1/"}, "callback_url"),
        ({"callback_url": "http://[::1"}, "callback_url"),
        ({"callback_url": "/receipts"}, "callback_url"),
        ({"reference": "x" * 129}, "reference"),
        ({"send_at": "2030-01-01T00:00:00"}, "send_at"),
        ({"validity_period": True}, "validity_period"),
    ],
)
async def test_a_bad_field_is_422_and_named(client: Client, changes: dict[str, object], field: str) -> None:
    answer = await client.api.post("/v1/send", json={"to": "+15555550100", "from": "MyApp", "message": "Hi"} | changes)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await client.ledger() == []


@pytest.mark.parametrize("sender", ["MyApp", "A", "12345", "+447700900123", "Été & Cie"])
async def test_every_kind_of_sender_id_is_taken(client: Client, sender: str) -> None:
    assert (await client.send(**{"from": sender})).status_code == 200


async def test_a_message_of_ten_segments_is_taken(client: Client) -> None:
    assert (await client.send(message="x" * 1530)).json()["segments"] == 10


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"message": NaN}', "application/json", 400, "invalid_json"),
        (b"[]", "application/json", 422, "invalid_request"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b" " * 1_100_000, "application/json", 413, "body_too_large"),
    ],
)
async def test_what_is_not_a_json_object_is_refused(
    client: Client, content: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await client.api.post("/v1/send", content=content, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_unknown_path_is_404_and_a_wrong_method_405(client: Client) -> None:
    missing = await client.api.get("/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    wrong = await client.api.get("/v1/send")
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["Allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    ("sender", "status", "code"),
    [
        ("NoFunds", 402, "insufficient_funds"),
        ("Unregistered", 403, "sender_not_registered"),
        ("NotListed", 403, "sender_not_registered"),
    ],
)
async def test_some_senders_are_refused_in_single_and_bulk(client: Client, sender: str, status: int, code: str) -> None:
    for answer in (await client.send(**{"from": sender}), await client.bulk("+15555550100", **{"from": sender})):
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await client.ledger() == []


async def test_the_same_key_and_body_is_answered_alike_and_counted_once(client: Client) -> None:
    first = await client.send(key="k")
    again = await client.api.post(
        "/v1/send",
        content=b'{ "message": "Hello",  "from": "MyApp", "to": "+15555550100" }',
        headers={"Idempotency-Key": "k", "Content-Type": "application/json"},
    )
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(await client.ledger()) == 1


async def test_the_same_key_with_another_body_is_refused(client: Client) -> None:
    await client.send(key="k")
    answer = await client.send("+15555550101", key="k")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await client.ledger()) == 1


async def test_a_refused_send_does_not_use_up_its_key(client: Client) -> None:
    assert (await client.send("+15555550250", key="k")).status_code == 422
    assert (await client.send("+15555550100", key="k")).status_code == 200


async def test_a_key_belongs_to_its_endpoint(client: Client) -> None:
    await client.send(key="k")
    assert (await client.bulk("+15555550100", key="k")).status_code == 200
    assert len(await client.ledger()) == 2


@pytest.mark.parametrize("key", ["with space", "x" * 256])
async def test_an_unusable_key_is_refused(client: Client, key: str) -> None:
    assert (await client.send(key=key)).json()["code"] == "invalid_idempotency_key"


async def test_bulk_sends_the_good_numbers_and_names_the_bad_ones(client: Client) -> None:
    recipients = ["+15555550100", "555-555-0100", "+15555550101", "+15555550100", "+15555550300"]
    answer = await client.bulk(*recipients, key="k", reference="campaign")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], body["rejected"], body["status"], body["reference"]) == (2, 3, "queued", "campaign")
    assert body["batch_id"].startswith("batch_")
    assert [result["to"] for result in body["results"]] == recipients
    codes = [result.get("error", {}).get("code") for result in body["results"]]
    assert codes == [None, "number_missing_plus", None, "duplicate_recipient", "recipient_opted_out"]
    ledger = await client.ledger()
    assert [entry["message_id"] for entry in ledger] == [
        body["results"][0]["message_id"],
        body["results"][2]["message_id"],
    ]
    assert {entry["idempotency_key"] for entry in ledger} == {"k"}
    assert (await client.bulk(*recipients, key="k", reference="campaign")).content == answer.content


async def test_bulk_with_no_good_number_is_422(client: Client) -> None:
    answer = await client.bulk("555-555-0100", "+15555550250")
    assert (answer.status_code, answer.json()["code"]) == (422, "no_valid_recipients")
    assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == [
        ("recipients.0", "number_missing_plus"),
        ("recipients.1", "invalid_number"),
    ]


@pytest.mark.parametrize("count", [0, 10_001])
async def test_bulk_takes_one_to_ten_thousand_recipients(client: Client, count: int) -> None:
    assert (await client.bulk(*["+15555550100"] * count)).status_code == 422
    assert await client.ledger() == []
