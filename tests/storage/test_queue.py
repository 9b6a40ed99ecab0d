"""Claims, attempts and leases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from service.domain.ids import new_attempt_id, new_id
from service.domain.message import Traffic
from service.storage.queue import Begin, Begun, Move, Settlement, Tried, Walk
from service.storage.upkeep import Upkeep
from tests import rows
from tests.storage.conftest import Store


async def test_a_claim_gives_the_message_to_the_worker(store: Store) -> None:
    message_id = await store.add(text="hello", validity_s=100.0)
    worker_id = await store.worker()
    [claimed] = await store.claim(worker_id)
    assert (claimed.id, claimed.worker_id, claimed.client_id) == (message_id, worker_id, store.client_id)
    assert (claimed.to, claimed.sender, claimed.text) == ("+15555550100", "MyApp", "hello")
    assert (claimed.traffic, claimed.country, claimed.tried) == (Traffic.TRANSACTIONAL, "US", ())
    assert claimed.remaining_s == pytest.approx(100, abs=5)
    assert claimed.waited_s == pytest.approx(0, abs=5)
    assert claimed.age_s == pytest.approx(0, abs=5)
    found = await store.row(message_id)
    assert (found["status"], found["worker_id"], found["due_at"]) == ("sending", worker_id, None)


async def test_a_message_that_was_put_back_is_as_old_as_before(store: Store) -> None:
    message_id = await store.add(send_at=datetime.now(UTC) + timedelta(seconds=40))
    await store.age(message_id, 100)
    await store.database.execute("UPDATE messages SET due_at = now()")
    [claimed] = await store.claim(await store.worker())
    assert claimed.age_s == pytest.approx(60, abs=5)
    assert claimed.waited_s == pytest.approx(0, abs=5)


async def test_a_claim_takes_only_its_lane_and_only_what_is_due(store: Store) -> None:
    worker_id = await store.worker()
    otp = await store.add(traffic="otp")
    later = await store.add(send_at=datetime.now(UTC) + timedelta(hours=1))
    ended = await store.add()
    await store.database.execute("UPDATE messages SET status = 'failed' WHERE id = $1", ended)
    assert await store.claim(worker_id) == []
    assert [message.id for message in await store.claim(worker_id, Traffic.OTP)] == [otp]
    await store.age(later, 3601)
    assert [message.id for message in await store.claim(worker_id)] == [later]


async def test_a_claim_goes_round_the_clients(store: Store) -> None:
    campaign = [await store.add() for _ in range(10)]
    others = [await rows.a_client(store.database, name) for name in ("b", "c")]
    small = [await store.add(client_id=client_id) for client_id in others for _ in range(2)]
    claimed = {message.id for message in await store.claim(await store.worker(), limit=6)}
    assert set(small) <= claimed
    assert claimed - set(small) == set(campaign[:2]), "the oldest of the campaign"


async def test_with_few_places_the_next_claim_goes_on_behind_the_client_of_the_last(store: Store) -> None:
    for _ in range(10):
        await store.add()
    others = [await rows.a_client(store.database, name) for name in ("b", "c")]
    for client_id in others:
        await store.add(client_id=client_id)
    worker_id, walk, claimed = await store.worker(), Walk(), []
    for _ in range(4):
        claimed += await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 1, walk)
    assert sorted(message.client_id for message in claimed[:3]) == sorted([store.client_id, *others])
    assert claimed[3].client_id == store.client_id


async def add_for_clients(store: Store, clients: int, due_in_s: float = 0) -> None:
    """A message for each of so many clients."""
    await store.database.execute(
        "INSERT INTO messages (id, client_id, recipient, sender, traffic, country, encoding, segments, send_at, due_at,"
        " expires_at) SELECT new_id(), gen_random_uuid(), '+15555550100', 'MyApp', 'transactional', 'US', 'gsm-7', 1,"
        " now(), now() + make_interval(secs => $2), now() + interval '2 hours' FROM generate_series(1, $1::int)",
        clients,
        due_in_s,
    )


async def test_a_claim_looks_at_a_bounded_number_of_clients_and_the_next_one_at_the_others(store: Store) -> None:
    await add_for_clients(store, 600)
    worker_id, walk, counts = await store.worker(), Walk(), []
    more = True
    while more:
        counts.append(len(await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 1_000, walk)))
        more = walk.may_be_more
    assert sum(counts) == 600
    assert max(counts) <= 256


async def test_what_is_due_behind_many_clients_whose_messages_are_not_is_found_and_then_the_walk_rests(
    store: Store,
) -> None:
    await add_for_clients(store, 600, due_in_s=3600)
    message_id = await store.add()
    worker_id, walk, found = await store.worker(), Walk(), []
    for _ in range(3):  # of 256 clients each
        found += await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 10, walk)
    assert [message.id for message in found] == [message_id]
    assert walk.may_be_more
    claims = 0
    while walk.may_be_more:
        assert await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 10, walk) == []
        claims += 1
    assert claims <= 6, "twice round"


async def test_of_many_messages_of_many_clients_none_is_left_while_the_walk_rests(store: Store) -> None:
    expected = [await store.add() for _ in range(30)]
    others = [await rows.a_client(store.database, name) for name in ("b", "c", "d")]
    expected += [await store.add(client_id=client_id) for client_id in others]
    worker_id, walk, found = await store.worker(), Walk(), []
    more = True
    while more:
        claimed = await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 20, walk)
        found += claimed
        more = walk.may_be_more or len(claimed) == 20
    assert sorted(message.id for message in found) == sorted(expected)


async def test_a_new_client_needs_no_floor(store: Store) -> None:
    await store.add()
    other_id = await rows.a_client(store.database, "new")
    theirs = await store.add(client_id=other_id)
    floors = {store.client_id: datetime.now(UTC) + timedelta(hours=1)}
    claimed = await store.queue.claim(Traffic.TRANSACTIONAL, await store.worker(), floors, 10)
    assert [message.id for message in claimed] == [theirs]


async def test_a_floor_hides_what_was_due_before_it(store: Store) -> None:
    old, young = await store.add(), await store.add()
    await store.age(old, 100)
    worker_id = await store.worker()
    floors = {store.client_id: datetime.now(UTC) - timedelta(seconds=50)}
    assert [m.id for m in await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, floors, 10)] == [young]
    assert [m.id for m in await store.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 10)] == [old]


async def test_two_workers_never_claim_one_message(store: Store) -> None:
    message_ids = [await store.add() for _ in range(60)]
    workers = [await store.worker() for _ in range(6)]
    rounds = await asyncio.gather(*(store.claim(worker_id, limit=20) for worker_id in workers))
    claimed = [message.id for found in rounds for message in found]
    while found := await store.claim(workers[0]):
        claimed += [message.id for message in found]
    assert sorted(claimed) == sorted(message_ids)


async def test_a_claim_skips_what_somebody_has_locked(store: Store) -> None:
    locked, free = await store.add(), await store.add()
    async with store.database.writing() as connection, connection.transaction():
        await connection.execute("SELECT FROM messages WHERE id = $1 FOR UPDATE", locked)
        claimed = await asyncio.wait_for(store.claim(await store.worker()), 5)
    assert [message.id for message in claimed] == [free]


async def until_somebody_waits_for_a_lock(store: Store) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(60):
        while not await store.database.fetch(waiting):
            pass


async def test_an_otp_is_begun_and_settled_while_a_batch_of_a_campaign_is_held_up(store: Store) -> None:
    worker_id = await store.worker()
    otp, campaign = await store.add(traffic="otp"), await store.add(traffic="marketing")
    await store.claim(worker_id, Traffic.OTP)
    await store.claim(worker_id, Traffic.MARKETING)
    attempts = {message_id: new_attempt_id(message_id) for message_id in (otp, campaign)}

    async def send(message_id: UUID, lane: Traffic) -> str | None:
        assert await store.queue.begin(Begin(attempts[message_id], message_id, "primary", worker_id, lane)) is not None
        sent = Settlement(message_id, worker_id, Move.SENT, attempts[message_id], "accepted", lane=lane)
        return await store.queue.settle(sent)

    async with store.database.writing() as connection, connection.transaction():
        await connection.execute("SELECT FROM messages WHERE id = $1 FOR UPDATE", campaign)
        held = asyncio.create_task(send(campaign, Traffic.MARKETING))
        await until_somebody_waits_for_a_lock(store)
        assert await asyncio.wait_for(send(otp, Traffic.OTP), 5) == "sent"
        assert not held.done()
    assert await held == "sent"


async def test_a_parked_message_is_claimed_again_with_what_was_tried(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    attempt_id = await store.begin(worker_id, message_id)
    settlement = Settlement(message_id, worker_id, Move.PUT_BACK, attempt_id, "unknown", reason="submit_unknown")
    assert await store.queue.settle(settlement) == "sending"
    [claimed] = await store.claim(worker_id)
    assert claimed.tried == (Tried(attempt_id, "primary", open=True, outcome="unknown", calls=1),)


async def test_a_purged_text_is_empty(store: Store) -> None:
    await store.add()
    await store.database.execute("UPDATE messages SET body = NULL")
    [claimed] = await store.claim(await store.worker())
    assert claimed.text == ""


async def test_an_attempt_is_written_with_the_time_that_is_left(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    await store.age(message_id, 500)
    begun = await store.queue.begin(Begin(new_attempt_id(message_id), message_id, "primary", worker_id))
    assert isinstance(begun, Begun)
    assert begun.call_s == pytest.approx(599, abs=5)
    assert 95 <= begun.validity_s <= 100
    [attempt] = await rows.attempts(store.database, message_id)
    assert (attempt["provider"], attempt["outcome"], attempt["open"], attempt["calls"]) == ("primary", None, True, 1)


async def test_a_repeat_counts_a_call_and_has_the_validity_of_the_first(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    begin = Begin(new_attempt_id(message_id), message_id, "primary", worker_id)
    first = await store.queue.begin(begin)
    assert first is not None
    await store.database.execute("UPDATE messages SET expires_at = expires_at - interval '100 seconds'")
    await store.database.execute("UPDATE attempts SET started_at = started_at - interval '100 seconds'")
    second = await store.queue.begin(begin)
    assert second is not None
    assert second.validity_s == first.validity_s
    [attempt] = await rows.attempts(store.database, message_id)
    assert attempt["calls"] == 2


async def test_a_call_may_be_repeated_any_number_of_times(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    attempt_id = await store.begin(worker_id, message_id)
    await store.database.execute("UPDATE attempts SET calls = 32767")
    assert await store.queue.begin(Begin(attempt_id, message_id, "primary", worker_id)) is not None


async def test_a_call_that_a_late_answer_has_decided_meanwhile_is_not_repeated(store: Store) -> None:
    stale, worker_id = await store.worker(), await store.worker()
    message_id = await store.claimed(stale)
    attempt_id = await store.begin(stale, message_id)
    await rows.end_lease(store.database, stale)
    await store.upkeep.take_over(stale)
    [claimed] = await store.claim(worker_id)
    assert claimed.tried == (Tried(attempt_id, "primary", open=True, outcome="unknown", calls=1),)
    await store.queue.settle(Settlement(message_id, stale, Move.KEEP, attempt_id, "unavailable", closes=True))
    assert await store.queue.begin(Begin(attempt_id, message_id, "primary", worker_id)) is None
    [attempt] = await rows.attempts(store.database, message_id)
    assert (attempt["outcome"], attempt["open"], attempt["calls"]) == ("unavailable", False, 1)
    anew = Begin(new_attempt_id(message_id), message_id, "primary", worker_id)
    assert await store.queue.begin(anew) is not None, "a new call may be"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE workers SET expires_at = now()",
        "UPDATE workers SET expires_at = now() + interval '0.9 seconds'",
        "DELETE FROM workers",
        "UPDATE messages SET expires_at = now()",
        "UPDATE messages SET status = 'delivered', worker_id = NULL",
        "UPDATE messages SET worker_id = new_id()",
        "UPDATE messages SET status = 'sending', worker_id = NULL",
    ],
)
async def test_no_attempt_is_begun_by_a_worker_that_may_not(store: Store, change: str) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    await store.database.execute(change)
    assert await store.queue.begin(Begin(new_attempt_id(message_id), message_id, "primary", worker_id)) is None
    assert await rows.attempts(store.database, message_id) == []


async def test_in_one_batch_only_those_who_may_begin(store: Store) -> None:
    mine, dead = await store.worker(), await store.worker()
    first = await store.claimed(mine)
    second = await store.claimed(dead)
    await rows.end_lease(store.database, dead)
    answers = await asyncio.gather(
        store.queue.begin(Begin(new_attempt_id(first), first, "primary", mine)),
        store.queue.begin(Begin(new_attempt_id(second), second, "primary", dead)),
    )
    assert [answer is not None for answer in answers] == [True, False]


async def test_a_lease_is_renewed_until_it_has_run_out(store: Store) -> None:
    worker_id = await store.worker()
    assert await store.queue.renew(worker_id, rows.LEASE)
    assert await store.upkeep.dead_workers() == []
    await rows.end_lease(store.database, worker_id)
    assert not await store.queue.renew(worker_id, rows.LEASE)
    assert await store.upkeep.dead_workers() == [worker_id]
    assert not await store.queue.renew(new_id(), rows.LEASE), "a worker that is not known is not brought back"


async def test_a_worker_that_retires_is_dead_at_once(store: Store) -> None:
    worker_id = await store.worker()
    await store.queue.retire(worker_id)
    assert await store.upkeep.dead_workers() == [worker_id]


async def held_by(store: Store, message_id: UUID) -> object:
    return (await store.row(message_id))["worker_id"]


async def test_a_dead_worker_without_attempts_gives_its_messages_back_to_the_queue(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    await rows.end_lease(store.database, worker_id)
    assert await store.upkeep.take_over(worker_id) == 1
    found = await store.row(message_id)
    assert (found["status"], found["worker_id"]) == ("queued", None)
    assert found["due_at"] is not None
    assert await store.upkeep.dead_workers() == [], "and is forgotten"


async def test_a_call_of_a_dead_worker_is_unknown_and_its_message_parked(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    await store.begin(worker_id, message_id)
    await rows.end_lease(store.database, worker_id)
    assert await store.upkeep.take_over(worker_id) == 1
    [attempt] = await rows.attempts(store.database, message_id)
    assert (attempt["outcome"], attempt["reason"], attempt["open"]) == ("unknown", "worker_died", True)
    found = await store.row(message_id)
    assert (found["status"], found["worker_id"]) == ("sending", None)
    assert [message.id for message in await store.claim(await store.worker())] == [message_id]


async def test_what_was_settled_before_a_worker_died_stays_settled(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    attempt_id = await store.begin(worker_id, message_id)
    await store.queue.settle(Settlement(message_id, worker_id, Move.KEEP, attempt_id, "refused", closes=True))
    await rows.end_lease(store.database, worker_id)
    await store.upkeep.take_over(worker_id)
    [attempt] = await rows.attempts(store.database, message_id)
    assert (attempt["outcome"], attempt["open"]) == ("refused", False)
    assert (await store.row(message_id))["status"] == "queued"


async def test_a_worker_is_not_forgotten_while_somebody_works_on_what_it_left(store: Store) -> None:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id)
    await rows.end_lease(store.database, worker_id)
    async with store.database.writing() as connection, connection.transaction():
        await connection.execute("SELECT FROM messages WHERE id = $1 FOR UPDATE", message_id)
        assert await asyncio.wait_for(store.upkeep.take_over(worker_id), 5) == 0
    assert await store.upkeep.dead_workers() == [worker_id]
    assert await store.upkeep.take_over(worker_id) == 1


async def test_a_worker_that_claims_after_it_was_forgotten_is_found(store: Store) -> None:
    worker_id = new_id()
    message_id = await store.claimed(worker_id)
    assert await store.upkeep.dead_workers() == [worker_id]
    await store.upkeep.take_over(worker_id)
    assert await held_by(store, message_id) is None
    assert await store.upkeep.dead_workers() == []


async def test_what_has_moved_on_is_not_taken_over(store: Store) -> None:
    worker_id = await store.worker()
    moved_on, held = await store.claimed(worker_id), await store.claimed(worker_id)
    await store.database.execute("UPDATE messages SET status = 'sent' WHERE id = $1", moved_on)
    await rows.end_lease(store.database, worker_id)
    assert await asyncio.wait_for(store.upkeep.take_over(worker_id), 5) == 1
    assert (await store.row(moved_on))["status"] == "sent"
    assert (await store.row(held))["status"] == "queued"


async def test_two_recoveries_at_once_free_a_message_once(store: Store) -> None:
    worker_id = await store.worker()
    for _ in range(20):
        await store.claimed(worker_id)
    await rows.end_lease(store.database, worker_id)
    freed = await asyncio.gather(*(store.upkeep.take_over(worker_id) for _ in range(3)))
    assert sum(freed) == 20


async def test_strays_are_what_a_worker_holds_but_does_not_work_on(store: Store) -> None:
    worker_id = await store.worker()
    known, stray = await store.claimed(worker_id), await store.claimed(worker_id)
    await store.claimed(await store.worker())
    assert await store.upkeep.stray_messages(worker_id, [known]) == {stray}
    await store.upkeep.release(worker_id, [stray], [])
    assert await store.upkeep.stray_messages(worker_id, [known]) == set()
    assert (await store.row(stray))["status"] == "queued"
    assert await held_by(store, known) == worker_id


async def test_a_stray_that_has_got_another_worker_meanwhile_is_left_alone(store: Store) -> None:
    stale, worker_id = await store.worker(), await store.worker()
    message_id = await store.claimed(worker_id)
    await store.begin(worker_id, message_id)
    await store.upkeep.release(stale, [message_id], [])
    assert await held_by(store, message_id) == worker_id
    [attempt] = await rows.attempts(store.database, message_id)
    assert attempt["outcome"] is None


async def test_lane_depths_count_what_is_due(store: Store) -> None:
    for _ in range(3):
        old = await store.add(traffic="otp")
    await store.age(old, 90)
    await store.add(send_at=datetime.now(UTC) + timedelta(hours=1))
    depths = await store.upkeep.lane_depths()
    depth, oldest_s = depths["otp"]
    assert (depth, oldest_s) == (3, pytest.approx(90, abs=5))  # type: ignore[comparison-overlap]
    assert depths["transactional"] == depths["marketing"] == (0, 0.0)


async def test_lane_depths_look_at_so_many_clients_and_no_more(store: Store) -> None:
    for number in range(3):
        await store.messages.add(rows.a_message(await rows.a_client(store.database, f"client-{number}")), None)
    assert (await store.upkeep.lane_depths())["transactional"][0] == 3
    assert (await Upkeep(store.database, clients=2).lane_depths())["transactional"][0] == 2
