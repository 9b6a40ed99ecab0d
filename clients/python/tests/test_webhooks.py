"""Webhooks, as the gateway signs and sends them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from sms_gateway_client import AsyncSmsGateway, ForgedWebhook, Receipt, UnexpectedAnswer, WebhookTest, verify_webhook
from standardwebhooks.webhooks import Webhook

from service.domain.ids import new_id
from service.pipeline.trial import try_endpoint
from service.storage.endpoints import Endpoint
from tests.journeys.world import SIGNING_SECRET, World
from tests.listener import Received

OTHER_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(scope="module")
async def received(world: World) -> Received:
    """The webhook of a delivered message."""
    sent = await world.send(reference="order-4711")
    await world.webhook(sent["message_id"])
    return next(one for one in world.listener.received if one.json()["message_id"] == sent["message_id"])


def signed(event: object, at: datetime, secret: str = SIGNING_SECRET) -> tuple[bytes, dict[str, str]]:
    body = event if isinstance(event, bytes) else orjson.dumps(event)
    signature = Webhook(secret).sign("whd_1", at, body.decode())
    timestamp = str(int(at.timestamp()))
    return body, {"Webhook-Id": "whd_1", "Webhook-Timestamp": timestamp, "Webhook-Signature": signature}


async def test_a_receipt_is_verified_and_typed(received: Received, url: str, key: str) -> None:
    event = verify_webhook(received.body, received.headers, SIGNING_SECRET)
    assert isinstance(event, Receipt)
    async with AsyncSmsGateway(url, key) as sms:
        message = await sms.message(event.message_id)
    assert (event.type, event.status, event.error_code) == ("message.delivered", "delivered", 0)
    assert (event.to, event.sender, event.reference) == (message.to, message.sender, "order-4711")
    assert event.delivered_at is not None
    assert event.delivered_at.tzinfo is UTC
    assert event.webhook_id == received.headers["webhook-id"]


def test_every_field_of_a_receipt_is_there(received: Received) -> None:
    fields = {"sender" if name == "from" else name for name in received.json()}
    assert fields | {"webhook_id"} == set(Receipt.__slots__)


async def test_a_test_event_is_told_apart(world: World) -> None:
    endpoint = Endpoint(
        id=new_id(),
        url=f"{world.listener.url}/trial",
        events=None,
        secret=world.runtime.keyring.seal(OTHER_SECRET),
        previous_secret=None,
        previous_secret_until=None,
        disabled_at=None,
        disabled_reason=None,
        created_at=datetime.now(UTC),
    )
    trial = await try_endpoint(world.runtime, endpoint)
    sent = next(one for one in world.listener.received if one.path == "/trial")
    event = verify_webhook(sent.body, sent.headers, OTHER_SECRET)
    assert isinstance(event, WebhookTest)
    assert (event.type, event.webhook_id) == ("webhook.test", trial.webhook_id)


@pytest.mark.parametrize(
    "header", [("webhook-signature", "v1,bm8="), ("webhook-signature", "v1"), ("webhook-timestamp", "soon"), ("x", "y")]
)
def test_a_header_that_is_changed_or_missing_is_a_forgery(received: Received, header: tuple[str, str]) -> None:
    name, value = header
    changed = {**received.headers, name: value}
    if name == "x":
        del changed["webhook-id"]
    with pytest.raises(ForgedWebhook):
        verify_webhook(received.body, changed, SIGNING_SECRET)


def test_another_body_or_another_secret_is_a_forgery(received: Received) -> None:
    for body, secret in (
        (received.body.replace(b"delivered", b"failed"), SIGNING_SECRET),
        (received.body, OTHER_SECRET),
        (b"\xff", SIGNING_SECRET),
        (b"", SIGNING_SECRET),
    ):
        with pytest.raises(ForgedWebhook) as told:
            verify_webhook(body, received.headers, secret)
        assert secret not in str(told.value)


def test_a_webhook_of_yesterday_is_a_replay(received: Received) -> None:
    body, headers = signed(received.json(), datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(ForgedWebhook):
        verify_webhook(body, headers, SIGNING_SECRET)


@pytest.mark.parametrize("event", [b"not JSON", [], {}, {"type": "message.new"}, {"type": "webhook.test"}])
def test_what_is_genuine_but_not_understood_is_told_so(event: object) -> None:
    with pytest.raises(UnexpectedAnswer):
        verify_webhook(*signed(event, datetime.now(UTC)), SIGNING_SECRET)


def test_what_a_later_gateway_adds_is_ignored(received: Received) -> None:
    body, headers = signed({**received.json(), "price": 4}, datetime.now(UTC))
    assert isinstance(verify_webhook(body, headers, SIGNING_SECRET), Receipt)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_ü", "c2VjcmV0"])
def test_a_secret_that_is_none_is_the_programmers_mistake(received: Received, secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        verify_webhook(received.body, received.headers, secret)
