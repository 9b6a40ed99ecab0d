"""The main job: HTTP in, a provider, a signed webhook out."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from tests.journeys.world import World


async def test_a_message_is_delivered_and_its_caller_gets_the_signed_receipt(world: World) -> None:
    sent = await world.send(reference="order-4711")
    receipt = await world.webhook(sent["message_id"])
    assert receipt["status"] == "delivered"
    assert receipt["type"] == "message.delivered"
    assert receipt["delivered_at"].endswith("Z")
    assert (receipt["to"], receipt["from"], receipt["reference"]) == ("+15555550100", "MyApp", "order-4711")

    message = await world.message(sent["message_id"])
    assert message["status"] == "delivered"
    assert [(a["provider"], a["outcome"]) for a in message["attempts"]] == [("primary", "accepted")]
    assert [(r["provider"], r["status"]) for r in message["receipts"]] == [("primary", "delivered")]
    assert len(await world.ledger(world.primary, "+15555550100")) == 1


async def test_a_bulk_is_delivered_and_its_batch_tells_when_it_is_done(world: World) -> None:
    numbers = ["+15555550100", "+15555550101", "+447700900123", "555-555-0100", "+15555550100"]
    answer = await world.http.post(
        "/v1/send/bulk", json={"from": "MyAppPromo", "message": "Sale", "recipients": numbers}
    )
    bulk = answer.json()
    assert (answer.status_code, bulk["accepted"], bulk["rejected"]) == (200, 3, 2)
    codes = [result.get("error", {}).get("code") for result in bulk["results"]]
    assert codes == [None, None, None, "number_missing_plus", "duplicate_recipient"]
    for result in bulk["results"][:3]:
        assert (await world.ended(result["message_id"]))["status"] == "delivered"
    batch = (await world.http.get(f"/v1/batches/{bulk['batch_id']}")).json()
    assert batch["done"]
    assert batch["counts"]["delivered"] == 3


async def test_what_the_carrier_says_of_a_failure_reaches_the_caller(world: World) -> None:
    absent = await world.send("+15555550200")
    receipt = await world.webhook(absent["message_id"])
    assert (receipt["status"], receipt["error_code"], receipt["reason"]) == ("undelivered", 27, "absent_subscriber")
    assert receipt["delivered_at"] is None


async def test_twenty_requests_with_one_key_make_one_message(world: World) -> None:
    replies = await asyncio.gather(*(world.send("+15555550105", key="same") for _ in range(20)))
    assert len({reply["message_id"] for reply in replies}) == 1
    assert len({reply["created_at"] for reply in replies}) == 1
    await world.webhook(replies[0]["message_id"])
    assert len(await world.ledger(world.primary, "+15555550105")) == 1


async def test_a_scheduled_message_waits_for_its_time(world: World) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    scheduled = await world.send("+15555550106", send_at=later)
    at_once = await world.send("+15555550107")
    await world.webhook(at_once["message_id"])
    message = await world.message(scheduled["message_id"])
    assert (message["status"], message["attempts"]) == ("queued", [])
    await world.runtime.database.execute("UPDATE messages SET due_at = now() WHERE status = 'queued'")
    assert (await world.ended(scheduled["message_id"]))["status"] == "delivered"


async def test_a_receipt_that_comes_twice_or_early_makes_one_webhook(world: World) -> None:
    for number, fault in enumerate(("duplicate_receipt", "early_receipt")):
        await world.fault(world.primary, fault)
        sent = await world.send(f"+1555555011{number}")
        await world.webhook(sent["message_id"])
        await world.fault(world.primary, "none")
        after = await world.send(f"+1555555012{number}")
        await world.webhook(after["message_id"])
        assert len(await world.webhooks(sent["message_id"], 1)) == 1
        assert (await world.message(sent["message_id"]))["status"] == "delivered"


async def test_a_webhook_is_repeated_with_the_same_id_until_it_is_acknowledged(world: World) -> None:
    world.listener.reply_status = 500
    sent = await world.send("+15555550108")
    first = (await world.listener.wait_for(1))[0]
    world.listener.reply_status = 204
    await world.runtime.database.execute("DELETE FROM webhook_targets")
    async with asyncio.timeout(60):
        while len(world.listener.received) < 2:
            await world.runtime.database.execute(
                "UPDATE webhook_deliveries SET due_at = now() WHERE due_at IS NOT NULL AND attempts > 0"
            )
            await world.runtime.database.execute("DELETE FROM webhook_targets")
            await asyncio.sleep(0.02)
    second = world.listener.received[1]
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert second.json()["message_id"] == sent["message_id"]
