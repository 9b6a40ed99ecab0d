from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.simulator.ledger import Ledger
from service.simulator.receipts import Receipts
from service.simulator.server import Simulator
from tests.listener import Listener
from tests.simulator.conftest import SECRET, Client, a_send, settings_in


async def test_a_receipt_is_signed_and_complete(client: Client, listener: Listener) -> None:
    sent = (await client.send(callback_url=f"{listener.url}/v1/receipts?t=1", reference="order 7")).json()
    received = (await listener.wait_for(1))[0]
    body = Webhook(SECRET).verify(received.body, dict(received.headers))
    assert received.path == "/v1/receipts?t=1"
    assert body.pop("delivered_at").endswith("Z")
    assert body == {
        "type": "message.delivered",
        "message_id": sent["message_id"],
        "status": "delivered",
        "error_code": 0,
        "reason": None,
        "to": "+15555550100",
        "from": "MyApp",
        "reference": "order 7",
        "batch_id": None,
        "segments": 1,
    }
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_AAAA").verify(received.body, dict(received.headers))


async def test_each_recipient_of_a_bulk_gets_a_receipt_with_the_batch(client: Client, listener: Listener) -> None:
    batch = (await client.bulk("+15555550100", "+15555550200", callback_url=listener.url)).json()
    receipts = [received.json() for received in await listener.wait_for(2)]
    assert {receipt["to"]: receipt["status"] for receipt in receipts} == {
        "+15555550100": "delivered",
        "+15555550200": "undelivered",
    }
    assert {receipt["batch_id"] for receipt in receipts} == {batch["batch_id"]}


async def test_a_refused_receipt_is_repeated_with_the_same_id_and_body(client: Client, listener: Listener) -> None:
    listener.reply_status = 500
    await client.send(callback_url=listener.url)
    await listener.wait_for(1)
    listener.reply_status = 204
    first, second = await listener.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


async def test_a_redirect_is_a_failure_and_not_followed(client: Client, listener: Listener) -> None:
    listener.reply_status = 307
    listener.reply_headers = {"Location": f"{listener.url}/elsewhere"}
    await client.send(callback_url=f"{listener.url}/here")
    received = await listener.wait_for(2)
    assert {one.path for one in received} == {"/here"}


async def test_a_send_without_url_uses_the_accounts(tmp_path: Path, listener: Listener) -> None:
    account = f"{listener.url}/account"
    async with Simulator(settings_in(tmp_path, account_callback_url=account)) as simulator:
        client = Client(simulator)
        await client.send()
        await listener.wait_for(1)
        await client.send(callback_url=f"{listener.url}/own")
        assert [received.path for received in await listener.wait_for(2)] == ["/account", "/own"]
        await client.close()


async def test_a_message_for_later_has_its_receipt_after_send_at(client: Client, listener: Listener) -> None:
    send_at = datetime.now(UTC) + timedelta(seconds=0.3)
    later = (await client.send(callback_url=listener.url, send_at=send_at.isoformat())).json()["message_id"]
    now = (await client.send(callback_url=listener.url)).json()["message_id"]
    assert [received.json()["message_id"] for received in await listener.wait_for(2)] == [now, later]
    assert datetime.now(UTC) > send_at


async def test_a_receipt_that_nobody_takes_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listener: Listener
) -> None:
    await listener.stop()
    ledger = Ledger.open(tmp_path / "primary.jsonl")
    receipts = Receipts(ledger, SECRET, backoff_s=(0.0, 0.0))
    send = a_send("msg_1", listener.url)
    ledger.accept([send], None)
    assert list(ledger.pending) == ["msg_1"]
    with caplog.at_level(logging.WARNING):
        for task in receipts.begin([send]):
            await task
    assert list(ledger.pending) == []
    assert [record.getMessage() for record in caplog.records] == [
        "receipt of msg_1 given up: its target acknowledged none"
    ]
    await receipts.close()
    ledger.close()
