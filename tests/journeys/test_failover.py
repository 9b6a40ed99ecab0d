"""The other provider: when it takes over, and when it must not."""

from __future__ import annotations

import asyncio

from tests.journeys.world import World


async def test_with_the_primary_down_the_fallback_delivers_and_both_attempts_are_shown(world: World) -> None:
    await world.fault(world.primary, "down")
    sent = await world.send("+15555550130")
    assert (await world.webhook(sent["message_id"]))["status"] == "delivered"
    message = await world.message(sent["message_id"])
    assert [(a["provider"], a["outcome"]) for a in message["attempts"]] == [
        ("primary", "unavailable"),
        ("fallback", "accepted"),
    ]
    assert message["provider"] == "fallback"


async def test_an_otp_of_unknown_fate_is_repeated_once_and_then_goes_through_the_fallback(world: World) -> None:
    await world.fault(world.primary, "drop_after_accept")
    sent = await world.send("+15555550131", "MyAppOTP")
    assert (await world.webhook(sent["message_id"]))["status"] == "delivered"
    message = await world.message(sent["message_id"])
    assert [(a["provider"], a["outcome"], a["calls"]) for a in message["attempts"]] == [
        ("primary", "unknown", 2),
        ("fallback", "accepted", 1),
    ]
    (counted,) = await world.ledger(world.primary, "+15555550131")
    assert counted["idempotency_key"]
    assert len(await world.ledger(world.fallback, "+15555550131")) == 1


async def test_a_campaign_message_of_unknown_fate_is_held_and_never_doubled(world: World) -> None:
    await world.fault(world.primary, "drop_after_accept")
    sent = await world.send("+15555550132", "MyAppPromo")
    message = await world.message_when(
        sent["message_id"], lambda seen: bool(seen["attempts"]) and seen["attempts"][0]["calls"] >= 2
    )
    assert (message["status"], message["reason"]) in {("sending", "submit_unknown"), ("sending", None)}
    assert [(a["provider"], a["outcome"], a["open"]) for a in message["attempts"]] == [("primary", "unknown", True)]
    assert len(await world.ledger(world.primary, "+15555550132")) == 1

    await world.fault(world.primary, "none")
    assert (await world.webhook(sent["message_id"]))["status"] == "delivered"
    assert len(await world.ledger(world.primary, "+15555550132")) == 1
    assert await world.ledger(world.fallback, "+15555550132") == []


async def test_an_answer_that_cannot_be_read_is_settled_by_its_receipt_not_by_a_second_send(world: World) -> None:
    await world.fault(world.primary, "garbage")
    sent = await world.send("+15555550133", "MyAppPromo")
    assert (await world.webhook(sent["message_id"]))["status"] == "delivered"
    assert len(await world.ledger(world.primary, "+15555550133")) == 1
    assert await world.ledger(world.fallback, "+15555550133") == []


async def test_a_provider_that_hangs_is_unknown_and_an_otp_does_not_wait_for_it(world: World) -> None:
    await world.fault(world.primary, "hang")
    sent = await world.send("+15555550134", "MyAppOTP")
    assert (await world.webhook(sent["message_id"]))["status"] == "delivered"
    assert (await world.message(sent["message_id"]))["provider"] == "fallback"


async def test_a_rejected_number_is_never_tried_elsewhere(world: World) -> None:
    sent = await world.send("+15555550250")
    receipt = await world.webhook(sent["message_id"])
    assert (receipt["status"], receipt["reason"]) == ("failed", "invalid_number")
    assert [a["outcome"] for a in (await world.message(sent["message_id"]))["attempts"]] == ["rejected"]


async def test_a_throttled_message_waits_as_told_and_stays_with_its_provider(world: World) -> None:
    await world.fault(world.primary, "throttle")
    sent = await world.send("+15555550135")
    await world.message_when(sent["message_id"], lambda seen: seen["reason"] == "provider_busy")
    await world.fault(world.primary, "none")
    assert (await world.webhook(sent["message_id"]))["status"] == "delivered"
    attempts = (await world.message(sent["message_id"]))["attempts"]
    assert {a["provider"] for a in attempts} == {"primary"}
    assert [attempts[0]["outcome"], attempts[-1]["outcome"]] == ["throttled", "accepted"]


async def test_a_stale_otp_is_never_sent(world: World) -> None:
    for simulator in (world.primary, world.fallback):
        await world.fault(simulator, "down")
    sent = await world.send("+15555550136", "MyAppOTP", validity_period=1)
    receipt = await world.webhook(sent["message_id"])
    assert (receipt["status"], receipt["reason"]) == ("failed", "expired")
    for simulator in (world.primary, world.fallback):
        await world.fault(simulator, "none")
    later = await world.send("+15555550137", "MyAppOTP")
    await world.webhook(later["message_id"])
    for simulator in (world.primary, world.fallback):
        assert await world.ledger(simulator, "+15555550136") == []


async def test_many_messages_survive_the_primary_going_down_and_coming_back(world: World) -> None:
    async def send(number: int) -> str:
        if number == 20:
            await world.fault(world.primary, "down")
        if number == 40:
            await world.fault(world.primary, "none")
        return str((await world.send(f"+15555550{number:03}", "MyApp"))["message_id"])

    ids = await asyncio.gather(*(send(number) for number in range(100, 160)))
    for message_id in ids:
        assert (await world.ended(message_id))["status"] == "delivered"
    for number in range(100, 160):
        copies = [await world.ledger(it, f"+15555550{number:03}") for it in (world.primary, world.fallback)]
        assert len(copies[0]) + len(copies[1]) == 1
