"""Asking before money is spent."""

from __future__ import annotations

from tests.journeys.world import World


async def test_a_look_up_is_live_once_and_then_cached(world: World) -> None:
    first = (await world.http.get("/v1/hlr/+15555550100")).json()
    assert (first["status"], first["cached"], first["source"]) == ("active", False, "primary")
    second = (await world.http.get("/v1/hlr/%2B15555550100")).json()
    assert second["cached"]
    assert second["checked_at"] == first["checked_at"]
    assert not (await world.http.get("/v1/hlr/+15555550100?max_age=0")).json()["cached"]


async def test_a_dead_number_fails_and_no_money_is_spent(world: World) -> None:
    sent = await world.send("+15555550260")
    receipt = await world.webhook(sent["message_id"])
    assert (receipt["status"], receipt["reason"], receipt["error_code"]) == ("failed", "number_unreachable", 1)
    assert (await world.message(sent["message_id"]))["attempts"] == []
    assert await world.ledger(world.primary, "+15555550260") == []
    metrics = (await world.http.get("/metrics")).text.splitlines()
    assert {"sms_gateway_hlr_cost_total 0.005", "sms_gateway_hlr_saved_total 0.05"} <= set(metrics)


async def test_a_phone_that_is_off_is_sent_to(world: World) -> None:
    assert (await world.http.get("/v1/hlr/+15555550270")).json()["status"] == "absent"
    sent = await world.send("+15555550270")
    assert (await world.ended(sent["message_id"]))["status"] == "delivered"


async def test_without_an_answer_of_the_hlr_the_message_goes_out(world: World) -> None:
    await world.fault(world.primary, "hlr_down")
    sent = await world.send("+15555550140")
    assert (await world.ended(sent["message_id"]))["status"] == "delivered"
    looked_up = (await world.http.get("/v1/hlr/+15555550141")).json()
    assert (looked_up["status"], looked_up["network"]) == ("unknown", None)


async def test_a_number_learnt_to_be_dead_from_a_receipt_costs_nothing_the_next_time(world: World) -> None:
    await world.fault(world.primary, "hlr_down")  # so that only the receipt can tell
    first = await world.send("+15555550210")
    receipt = await world.webhook(first["message_id"])
    assert (receipt["status"], receipt["error_code"]) == ("undelivered", 1)
    second = await world.send("+15555550210")
    assert (await world.webhook(second["message_id"]))["reason"] == "number_unreachable"
    assert len(await world.ledger(world.primary, "+15555550210")) == 1
