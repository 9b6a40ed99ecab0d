from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.api.message_models import MessageReply
from service.api.models import SendReply
from tests.api.client import BRITISH, NUMBER, GatewayClient, body


async def test_a_send_is_answered_as_documented(api: GatewayClient) -> None:
    response = await api.send(body(reference="order-17"))
    assert response.status_code == 200
    reply = SendReply.model_validate_json(response.content)
    assert (reply.to, reply.sender, reply.traffic, reply.reference) == (NUMBER, "MyApp", "transactional", "order-17")
    assert (reply.status, reply.segments, reply.encoding) == ("queued", 1, "gsm-7")
    assert response.json()["created_at"].endswith("Z")
    assert abs(datetime.now(UTC) - reply.created_at) < timedelta(minutes=1)
    assert "Idempotency-Replayed" not in response.headers


async def test_a_send_is_committed_before_it_is_answered(api: GatewayClient) -> None:
    message = await _stored(api, body(message="Привет"))
    assert (message.status, message.encoding, message.segments) == ("queued", "ucs-2", 1)


@pytest.mark.parametrize("number", [NUMBER, "+15555550101", BRITISH])
async def test_numbers_reserved_for_examples_are_accepted(api: GatewayClient, number: str) -> None:
    assert (await api.send(body(to=number))).json()["to"] == number


@pytest.mark.parametrize(("sender", "minutes"), [("MyAppOTP", 5), ("MyApp", 24 * 60), ("MyAppPromo", 12 * 60)], ids=str)
async def test_the_validity_goes_by_the_traffic_of_the_sender(api: GatewayClient, sender: str, minutes: int) -> None:
    message = await _stored(api, body(**{"from": sender}))
    assert message.expires_at - message.send_at == timedelta(minutes=minutes)


async def test_a_validity_of_its_own_counts_from_send_at(api: GatewayClient) -> None:
    send_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=34)
    message = await _stored(api, body(send_at=send_at.isoformat(), validity_period=90))
    assert message.send_at == send_at
    assert message.expires_at - send_at == timedelta(seconds=90)


@pytest.mark.parametrize(
    "past", ["2020-01-31T09:30:00Z", "0001-01-01T00:00:00+14:00", "2020-01-31t09:30:00.123456789z"]
)
async def test_a_past_send_at_means_now(api: GatewayClient, past: str) -> None:
    message = await _stored(api, body(send_at=past))
    assert message.send_at == message.created_at


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "application/vnd.sms+json"]
)
async def test_json_may_be_called_by_its_other_names(api: GatewayClient, content_type: str) -> None:
    raw = b'{"to": "+15555550100", "from": "MyApp", "message": "Hello"}'
    assert (await api.send_raw(raw, content_type)).status_code == 200


async def test_null_leaves_an_optional_field_out(api: GatewayClient) -> None:
    fields = body() | dict.fromkeys(["traffic", "callback_url", "reference", "send_at", "validity_period"])
    assert (await api.send(fields)).status_code == 200


async def test_the_traffic_of_the_sender_may_be_given(api: GatewayClient) -> None:
    assert (await api.send(body(traffic="transactional"))).json()["traffic"] == "transactional"


async def test_a_callback_url_is_accepted(api: GatewayClient) -> None:
    assert (await api.send(body(callback_url="https://shop.example.com/receipts?a=1"))).status_code == 200


async def _stored(api: GatewayClient, fields: dict[str, object]) -> MessageReply:
    sent = await api.send(fields)
    assert sent.status_code == 200, sent.text
    response = await api.http.get(f"/v1/messages/{sent.json()['message_id']}")
    return MessageReply.model_validate_json(response.content)
