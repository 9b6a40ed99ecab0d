"""A recipient who wants no more messages, and a caller who takes one back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.gateway import make_key
from tests.journeys.world import World

OPTED_OUT = "+15555550300"


async def test_who_opted_out_at_one_provider_is_asked_by_none_again(world: World) -> None:
    first = await world.send(OPTED_OUT)
    receipt = await world.webhook(first["message_id"])
    assert (receipt["status"], receipt["reason"]) == ("failed", "opted_out")
    message = await world.message(first["message_id"])
    assert [(a["provider"], a["outcome"], a["code"]) for a in message["attempts"]] == [
        ("primary", "rejected", "recipient_opted_out")
    ]

    admin = {"Authorization": f"Bearer {await make_key(world.runtime, 'admin')}"}
    listed = (await world.http.get("/v1/suppressions", headers=admin)).json()["suppressions"]
    assert [(one["number"], one["reason"], one["source"]) for one in listed] == [
        (OPTED_OUT, "opted_out", "provider:primary")
    ]

    await world.fault(world.primary, "down")  # the fallback would be next
    second = await world.ended((await world.send(OPTED_OUT))["message_id"])
    assert (second["status"], second["reason"], second["attempts"]) == ("failed", "suppressed", [])
    assert await world.ledger(world.fallback, OPTED_OUT) == []

    await world.fault(world.primary, "none")
    assert (await world.http.delete(f"/v1/suppressions/{OPTED_OUT}", headers=admin)).status_code == 204
    third = await world.ended((await world.send(OPTED_OUT))["message_id"])
    assert third["reason"] == "opted_out", "it is asked again, and says no again"


async def test_what_is_cancelled_in_time_never_reaches_a_provider(world: World) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    scheduled = await world.send("+15555550131", send_at=later)
    cancelled = await world.http.post(f"/v1/messages/{scheduled['message_id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    await world.runtime.database.execute("UPDATE messages SET send_at = now(), expires_at = now() + interval '1 day'")

    sent = await world.send("+15555550132")
    await world.webhook(sent["message_id"])
    too_late = await world.http.post(f"/v1/messages/{sent['message_id']}/cancel")
    assert (too_late.status_code, too_late.json()["code"]) == (409, "not_cancellable")
    assert await world.ledger(world.primary, "+15555550131") == []
    assert [received.json()["message_id"] for received in world.listener.received] == [sent["message_id"]]
    listed = (await world.http.get("/v1/messages", params={"status": "cancelled"})).json()["messages"]
    assert [one["message_id"] for one in listed] == [scheduled["message_id"]]
