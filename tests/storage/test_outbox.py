"""The outbox: who gets which webhook, and what becomes of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from service.domain.ids import new_id
from service.storage.outbox import Delivery, DeliveryResult
from tests import rows
from tests.storage.conftest import Store

MANY_WEBHOOKS = (
    "INSERT INTO webhook_deliveries (id, client_id, message_id, endpoint_id, target, status, event_at, due_at)"
    " SELECT new_id(), $1, new_id(), $2::uuid, $2::uuid::text, 'delivered', now(), now()"
    " FROM generate_series(1, $3::int)"
)


async def a_webhook(store: Store, target: str = "a", *, due_in_s: float = 0.0, endpoint_id: UUID | None = None) -> UUID:
    """A webhook of a new message, for the target of that name."""
    message_id = await store.add(reference="r-1")
    delivery_id = new_id()
    await store.database.execute(
        "INSERT INTO webhook_deliveries (id, client_id, message_id, endpoint_id, target, status, event_at, due_at)"
        " VALUES ($1, $2, $3, $4, $5, 'delivered', now(), now() + make_interval(secs => $6))",
        delivery_id,
        store.client_id,
        message_id,
        endpoint_id,
        target,
        due_in_s,
    )
    return delivery_id


async def an_endpoint(store: Store) -> UUID:
    endpoint_id = new_id()
    await store.database.execute(
        "INSERT INTO webhook_endpoints (id, client_id, url, secret) VALUES ($1, $2, 'https://shop.example', '')",
        endpoint_id,
        store.client_id,
    )
    return endpoint_id


async def claim(store: Store, limit: int = 100, per_target: int = 100, **calls: int) -> list[Delivery]:
    return await rows.claim_webhooks(store.outbox, await store.worker(), limit, per_target, **calls)


async def state(store: Store, delivery_id: UUID) -> tuple[str, UUID | None, bool]:
    """State, worker, and whether it is in the queue."""
    row = await store.database.fetchrow("SELECT * FROM webhook_deliveries WHERE id = $1", delivery_id)
    assert row is not None
    return row["state"], row["worker_id"], row["due_at"] is not None


async def test_a_claimed_webhook_carries_all_that_is_sent(store: Store) -> None:
    delivery_id = await a_webhook(store)
    worker_id = await store.worker()
    [delivery] = await rows.claim_webhooks(store.outbox, worker_id)
    assert (delivery.id, delivery.target, delivery.status, delivery.attempts) == (delivery_id, "a", "delivered", 1)
    assert (delivery.recipient, delivery.sender, delivery.reference) == ("+15555550100", "MyApp", "r-1")
    assert (delivery.url, delivery.secret, delivery.previous_secret) == ("http://shop.example/hook", b"sealed", None)
    assert (delivery.failures, delivery.worker_id) == (0, worker_id)
    assert await state(store, delivery_id) == ("pending", worker_id, False)
    assert "sealed" not in repr(delivery)
    assert await claim(store) == []


async def test_an_endpoints_webhook_has_its_url_and_its_secrets(store: Store) -> None:
    endpoint_id = new_id()
    await store.database.execute(
        "INSERT INTO webhook_endpoints (id, client_id, url, secret, previous_secret, previous_secret_until)"
        " VALUES ($1, $2, 'https://shop.example/all', 'new', 'old', now() + interval '1 hour')",
        endpoint_id,
        store.client_id,
    )
    await a_webhook(store, endpoint_id=endpoint_id)
    [delivery] = await claim(store)
    assert (delivery.url, delivery.secret, delivery.previous_secret) == ("https://shop.example/all", b"new", b"old")
    await store.database.execute("UPDATE webhook_endpoints SET previous_secret_until = now()")
    await a_webhook(store, endpoint_id=endpoint_id)
    [delivery] = await claim(store)
    assert delivery.previous_secret is None


async def test_what_is_not_due_yet_is_not_claimed(store: Store) -> None:
    await a_webhook(store, due_in_s=60)
    assert await claim(store) == []


async def test_no_target_gets_more_than_its_share(store: Store) -> None:
    for target in ("a", "b"):
        for _ in range(5):
            await a_webhook(store, target)
    assert sorted(delivery.target for delivery in await claim(store, per_target=2)) == ["a", "a", "b", "b"]
    assert sorted(delivery.target for delivery in await claim(store, per_target=2, a=2, b=1)) == ["b"]


async def test_targets_that_are_called_least_come_first(store: Store) -> None:
    for target in ("a", "b", "z"):
        for _ in range(5):
            await a_webhook(store, target)
    assert [delivery.target for delivery in await claim(store, limit=1, a=4, b=4)] == ["z"]
    assert sorted(delivery.target for delivery in await claim(store, limit=3)) == ["a", "b", "z"]


async def test_a_blocked_target_is_passed_over_and_then_probed_once(store: Store) -> None:
    for target in ("dead", "good"):
        for _ in range(3):
            await a_webhook(store, target)
    await store.outbox.block("dead", 1, 60.0)
    assert {delivery.target for delivery in await claim(store)} == {"good"}
    await store.outbox.block("dead", 2, -1.0)
    [probe] = await claim(store)
    assert (probe.target, probe.failures) == ("dead", 2)
    assert await claim(store, dead=1) == [], "while it is probed nothing more goes there"
    await store.outbox.unblock("dead")
    assert len(await claim(store)) == 2


async def test_two_workers_never_claim_one_webhook(store: Store) -> None:
    delivery_ids = [await a_webhook(store, f"t{number % 5}") for number in range(40)]
    rounds = await asyncio.gather(*(claim(store, per_target=3) for _ in range(4)))
    claimed = [delivery.id for found in rounds for delivery in found]
    while found := await claim(store):
        claimed += [delivery.id for delivery in found]
    assert sorted(claimed) == sorted(delivery_ids)


def result(delivery: Delivery, state: str = "delivered", retry_in_s: float | None = None) -> DeliveryResult:
    return DeliveryResult(delivery.id, delivery.worker_id, state, retry_in_s, 204, None)


@pytest.mark.parametrize("ended", ["delivered", "dead"])
async def test_a_webhook_that_has_ended_is_not_sent_again(store: Store, ended: str) -> None:
    delivery_id = await a_webhook(store)
    [delivery] = await claim(store)
    await store.outbox.settle(result(delivery, ended))
    assert await state(store, delivery_id) == (ended, None, False)
    assert await claim(store) == []


async def test_a_webhook_is_tried_again_after_its_delay(store: Store) -> None:
    delivery_id = await a_webhook(store)
    [delivery] = await claim(store)
    await store.outbox.settle(result(delivery, "pending", 30.0))
    assert await state(store, delivery_id) == ("pending", None, True)
    assert await claim(store) == []
    await store.database.execute("UPDATE webhook_deliveries SET due_at = due_at - interval '30 seconds'")
    [again] = await claim(store)
    assert (again.id, again.attempts) == (delivery_id, 2)


async def test_a_webhook_may_be_tried_any_number_of_times(store: Store) -> None:
    await a_webhook(store)
    await store.database.execute("UPDATE webhook_deliveries SET attempts = 32767")
    [delivery] = await claim(store)
    assert delivery.attempts == 32768


async def test_the_result_of_a_worker_that_lost_the_webhook_is_not_taken(store: Store) -> None:
    delivery_id = await a_webhook(store)
    [stale] = await claim(store)
    assert await store.upkeep.take_over(stale.worker_id) == 0
    [fresh] = await claim(store)
    await store.outbox.settle(result(stale))
    assert await state(store, delivery_id) == ("pending", fresh.worker_id, False)


async def test_a_dead_workers_webhooks_are_free_again(store: Store) -> None:
    delivery_id = await a_webhook(store)
    [delivery] = await claim(store)
    await rows.end_lease(store.database, delivery.worker_id)
    assert await store.upkeep.dead_workers() == [delivery.worker_id]
    await store.upkeep.take_over(delivery.worker_id)
    assert await state(store, delivery_id) == ("pending", None, True)
    assert await store.upkeep.dead_workers() == []


async def test_webhooks_of_a_worker_that_was_forgotten_are_found(store: Store) -> None:
    delivery_id = await a_webhook(store)
    worker_id = new_id()
    await rows.claim_webhooks(store.outbox, worker_id)
    assert await store.upkeep.dead_workers() == [worker_id]
    await store.upkeep.take_over(worker_id)
    assert await state(store, delivery_id) == ("pending", None, True)


async def test_stray_webhooks_are_freed_and_those_worked_on_are_not(store: Store) -> None:
    for _ in range(2):
        await a_webhook(store)
    worker_id = await store.worker()
    known, stray = await rows.claim_webhooks(store.outbox, worker_id)
    assert await store.upkeep.stray_deliveries(worker_id, [known.id]) == {stray.id}
    await store.upkeep.release(worker_id, [], [stray.id])
    assert await state(store, stray.id) == ("pending", None, True)
    assert await state(store, known.id) == ("pending", worker_id, False)


async def test_a_disabled_endpoint_gets_nothing_more(store: Store) -> None:
    endpoint_id = await an_endpoint(store)
    waiting = await a_webhook(store, str(endpoint_id), endpoint_id=endpoint_id, due_in_s=60)
    under_way = [await a_webhook(store, str(endpoint_id), endpoint_id=endpoint_id) for _ in range(2)]
    others = await a_webhook(store, "b")
    deliveries = {delivery.id: delivery for delivery in await claim(store)}
    await store.outbox.disable_endpoint(endpoint_id, "answered 410 Gone")
    for each in (waiting, *under_way):
        assert await state(store, each) == ("dead", None, False)
    await store.outbox.settle(result(deliveries[under_way[0]], "pending", 30.0))
    await store.outbox.settle(result(deliveries[under_way[1]]))
    assert [await state(store, each) for each in under_way] == [("dead", None, False)] * 2, "too late"
    assert (await state(store, others))[0] == "pending"
    row = await store.database.fetchrow("SELECT * FROM webhook_endpoints")
    assert row is not None
    assert (row["disabled_at"] is not None, row["disabled_reason"]) == (True, "answered 410 Gone")


async def test_what_waits_for_an_endpoint_is_ended_in_pieces(store: Store) -> None:
    endpoint_id = await an_endpoint(store)
    await store.database.execute(MANY_WEBHOOKS, store.client_id, endpoint_id, 2_500)
    await store.database.execute("CREATE TABLE pieces (ended int)")
    await store.database.execute(
        "CREATE FUNCTION note_piece() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO pieces SELECT count(*) FROM moved; RETURN NULL; END $$"
    )
    await store.database.execute(
        "CREATE TRIGGER note_piece AFTER UPDATE ON webhook_deliveries REFERENCING NEW TABLE AS moved"
        " FOR EACH STATEMENT EXECUTE FUNCTION note_piece()"
    )
    try:
        await store.outbox.disable_endpoint(endpoint_id, "answered 410 Gone")
        pieces = [row["ended"] for row in await store.database.fetch("SELECT ended FROM pieces")]
    finally:
        await store.database.execute("DROP TABLE pieces")
        await store.database.execute("DROP FUNCTION note_piece CASCADE")
    assert pieces == [1_000, 1_000, 500]


async def test_a_webhook_left_behind_by_its_disabled_endpoint_has_no_url(store: Store) -> None:
    endpoint_id = await an_endpoint(store)
    await store.outbox.disable_endpoint(endpoint_id, "answered 410 Gone")
    await a_webhook(store, str(endpoint_id), endpoint_id=endpoint_id)
    [delivery] = await claim(store)
    assert (delivery.url, delivery.disabled) == (None, True)


async def test_results_of_many_webhooks_are_stored_together(store: Store) -> None:
    for _ in range(10):
        await a_webhook(store)
    deliveries = await claim(store)
    await asyncio.gather(*(store.outbox.settle(result(delivery)) for delivery in deliveries))
    assert [await state(store, delivery.id) for delivery in deliveries] == [("delivered", None, False)] * 10
    assert timedelta(0) <= timedelta(seconds=deliveries[0].age_s) < timedelta(seconds=10)


async def test_a_failing_target_that_nothing_was_sent_to_for_a_day_is_forgotten(store: Store) -> None:
    await store.outbox.block("gone", 3, -86_401.0)
    await store.outbox.block("failing", 3, -86_000.0)
    await store.upkeep.forget_targets()
    assert [row["target"] for row in await store.database.fetch("SELECT target FROM webhook_targets")] == ["failing"]


async def test_targets_whose_next_try_is_still_to_come_are_passed_over_and_take_no_turn_from_those_in_use(
    store: Store,
) -> None:
    """A client may have any number of origins that never answer."""
    for number in range(5):
        await a_webhook(store, f"dead{number}", due_in_s=3600)
    await a_webhook(store, "shop")
    first, after = await store.outbox.due_targets("", 3)
    assert (first, after) == ([], "dead2")
    second, after = await store.outbox.due_targets(after, 3)
    assert ([due.target for due in second], after) == (["shop"], "shop")
    assert await store.outbox.due_targets(after, 3) == ([], "")
    used, _ = await store.outbox.due_targets("", 3, {"shop": store.client_id})
    assert [(due.target, due.client_id) for due in used] == [("shop", store.client_id)]
    once, _ = await store.outbox.due_targets("dead4", 3, {"shop": store.client_id})
    assert [due.target for due in once] == ["shop"]
