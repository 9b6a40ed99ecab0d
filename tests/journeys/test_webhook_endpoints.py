"""Registered endpoints: from a send to the signed webhook, through rotation, replay, 410 and deletion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.gateway import make_key
from tests.journeys.world import World


@pytest.fixture
async def admin(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """An admin key of the client that sends."""
    key = await make_key(world.runtime, "admin")
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=world.http.base_url, headers=headers) as http:
        yield http


async def register(admin: httpx.AsyncClient, world: World, **fields: Any) -> dict[str, Any]:
    response = await admin.post("/v1/webhooks", json={"url": f"{world.listener.url}/registered"} | fields)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def deliveries(admin: httpx.AsyncClient, endpoint: dict[str, Any]) -> list[dict[str, Any]]:
    response = await admin.get(f"/v1/webhooks/{endpoint['endpoint_id']}/deliveries")
    return list(response.json()["deliveries"])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns once the condition holds."""
    async with asyncio.timeout(60):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)  # over HTTP there is nothing to wait on


async def deliveries_are(admin: httpx.AsyncClient, endpoint: dict[str, Any], state: str, count: int = 1) -> None:
    """Returns once so many webhooks are in that state."""

    async def holds() -> bool:
        return [one["state"] for one in await deliveries(admin, endpoint)].count(state) >= count

    await until(holds)


async def test_a_registered_endpoint_gets_the_receipts_that_it_asked_for(
    world: World, admin: httpx.AsyncClient
) -> None:
    everything = await register(admin, world)
    failures = await register(admin, world, url=f"{world.listener.url}/failures", events=["message.undelivered"])
    delivered = await world.send(callback_url=None)
    absent = await world.send("+15555550200", callback_url=None)
    received = await world.listener.wait_for(3)
    verified = {
        (one.path, Webhook(endpoint["secret"]).verify(one.body, dict(one.headers))["message_id"])
        for one in received
        for endpoint in [everything if one.path == "/registered" else failures]
    }
    assert verified == {
        ("/registered", delivered["message_id"]),
        ("/registered", absent["message_id"]),
        ("/failures", absent["message_id"]),
    }
    await deliveries_are(admin, everything, "delivered", 2)
    shown = await deliveries(admin, everything)
    assert {one["webhook_id"] for one in shown} == {
        one.headers["webhook-id"] for one in received if one.path == "/registered"
    }


async def test_while_a_rotation_overlaps_both_secrets_verify(world: World, admin: httpx.AsyncClient) -> None:
    endpoint = await register(admin, world)
    path = f"/v1/webhooks/{endpoint['endpoint_id']}/rotate"
    rotated = (await admin.post(path, json={"overlap_s": 600})).json()
    await world.send(callback_url=None)
    [during] = await world.listener.wait_for(1)
    for secret in (endpoint["secret"], rotated["secret"]):
        Webhook(secret).verify(during.body, dict(during.headers))

    last = (await admin.post(path, json={"overlap_s": 0})).json()
    await world.send("+15555550101", callback_url=None)
    after = (await world.listener.wait_for(2))[1]
    Webhook(last["secret"]).verify(after.body, dict(after.headers))
    for secret in (endpoint["secret"], rotated["secret"]):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(after.body, dict(after.headers))


async def test_410_disables_an_endpoint_and_its_dead_webhook_is_replayed_when_it_is_back(
    world: World, admin: httpx.AsyncClient
) -> None:
    endpoint = await register(admin, world)
    path = f"/v1/webhooks/{endpoint['endpoint_id']}"
    world.listener.reply_status = 410
    sent = await world.send(callback_url=None)
    [first] = await world.listener.wait_for(1)
    await deliveries_are(admin, endpoint, "dead")

    async def is_disabled() -> bool:
        return not (await admin.get(path)).json()["enabled"]

    await until(is_disabled)
    assert (await admin.get(path)).json()["disabled_reason"] == "answered 410 Gone"
    unheard = await world.send("+15555550101", callback_url=None)
    await world.ended(unheard["message_id"])

    world.listener.reply_status = 204
    assert (await admin.patch(path, json={"enabled": True})).json()["enabled"]
    replay = await admin.post(f"/v1/webhooks/deliveries/{first.headers['webhook-id']}/replay")
    assert replay.status_code == 202
    second = (await world.listener.wait_for(2))[1]
    assert (second.headers["webhook-id"], second.body) == (first.headers["webhook-id"], first.body)
    assert Webhook(endpoint["secret"]).verify(second.body, dict(second.headers))["message_id"] == sent["message_id"]
    await deliveries_are(admin, endpoint, "delivered")
    assert [one["message_id"] for one in await deliveries(admin, endpoint)] == [sent["message_id"]]


async def test_a_range_of_delivered_webhooks_comes_again(world: World, admin: httpx.AsyncClient) -> None:
    endpoint = await register(admin, world)
    for number in ("+15555550100", "+15555550101"):
        await world.send(number, callback_url=None)
    before = await world.listener.wait_for(2)
    await deliveries_are(admin, endpoint, "delivered", 2)
    span = {"from": "2026-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z", "state": "delivered"}
    answer = await admin.post(f"/v1/webhooks/{endpoint['endpoint_id']}/replay", json=span)
    assert answer.json() == {"replayed": 2}
    again = (await world.listener.wait_for(4))[2:]
    assert {one.headers["webhook-id"] for one in again} == {one.headers["webhook-id"] for one in before}


async def test_a_deleted_endpoint_gets_nothing_more(world: World, admin: httpx.AsyncClient) -> None:
    deleted = await register(admin, world)
    world.listener.reply_status = 500
    await world.send(callback_url=None)
    [unacknowledged] = await world.listener.wait_for(1)
    await deliveries_are(admin, deleted, "pending")
    assert (await admin.delete(f"/v1/webhooks/{deleted['endpoint_id']}")).status_code == 204
    world.listener.reply_status = 204
    row = await world.runtime.database.fetchrow("SELECT state, due_at, last_error FROM webhook_deliveries")
    assert row is not None
    assert tuple(row) == ("dead", None, "endpoint_deleted")

    kept = await register(admin, world, url=f"{world.listener.url}/kept")
    after = await world.send("+15555550101", callback_url=None)
    received = (await world.listener.wait_for(2))[1:]
    assert [(one.path, one.json()["message_id"]) for one in received] == [("/kept", after["message_id"])]
    await deliveries_are(admin, kept, "delivered")
    assert len(world.listener.received) == 2
    assert unacknowledged.path == "/registered"


async def test_a_webhook_whose_endpoint_was_deleted_while_it_was_made_ends_at_once(
    world: World, admin: httpx.AsyncClient
) -> None:
    endpoint = await register(admin, world)
    await world.send(callback_url=None)
    await world.listener.wait_for(1)
    await deliveries_are(admin, endpoint, "delivered")
    await world.runtime.database.execute("DELETE FROM webhook_endpoints")
    await world.runtime.database.execute("UPDATE webhook_deliveries SET state = 'pending', due_at = now()")

    async def has_ended() -> bool:
        query = "SELECT FROM webhook_deliveries WHERE state = 'dead' AND last_error = 'endpoint_deleted'"
        return bool(await world.runtime.database.fetch(query))

    await until(has_ended)
    assert len(world.listener.received) == 1
