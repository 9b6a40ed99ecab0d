"""Accepting: messages, idempotency keys, bulks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from service.domain.ids import new_id
from service.errors import StoreOverloaded, Unstorable
from service.storage.messages import Batch, Earlier, Key, MessageStore
from tests import rows
from tests.storage.conftest import Store


def key(client_id: UUID, name: str = "k-1", body: bytes = b"hash", endpoint: str = "send") -> Key:
    return Key(client_id, endpoint, name, body)


async def count(store: Store, table: str = "messages") -> int:
    return len(await store.database.fetch(f"SELECT FROM {table}"))


async def expire_keys(store: Store) -> None:
    await store.database.execute("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")


async def test_a_message_is_stored_as_it_was_given(store: Store) -> None:
    message = rows.a_message(store.client_id, reference="r-1", text="héllo", segments=3, encoding="ucs-2")
    created_at = await store.messages.add(message, None)
    assert isinstance(created_at, datetime)
    found = await rows.row(store.database, message.id)
    assert (found["body"], found["reference"], found["segments"], found["encoding"]) == ("héllo", "r-1", 3, "ucs-2")
    assert (found["status"], found["created_at"]) == ("queued", created_at)
    assert found["due_at"] == found["send_at"]
    assert found["expires_at"] - found["send_at"] == timedelta(seconds=600)


async def test_a_message_for_later_is_due_then_and_valid_from_then(store: Store) -> None:
    send_at = datetime.now(UTC) + timedelta(hours=2)
    message_id = await store.add(send_at=send_at)
    found = await rows.row(store.database, message_id)
    assert found["due_at"] == found["send_at"] == send_at
    assert found["expires_at"] == send_at + timedelta(seconds=600)


async def test_a_time_in_the_past_means_now(store: Store) -> None:
    message_id = await store.add(send_at=datetime.now(UTC) - timedelta(days=1))
    found = await rows.row(store.database, message_id)
    assert abs(found["due_in_s"]) < 5
    assert found["left_s"] == pytest.approx(600, abs=5)


async def test_the_same_key_twice_in_one_batch_makes_one_message(store: Store) -> None:
    first, second = rows.a_message(store.client_id), rows.a_message(store.client_id)
    same = key(store.client_id)
    answers = await asyncio.gather(store.messages.add(first, same), store.messages.add(second, same))
    stored = [answer for answer in answers if isinstance(answer, datetime)]
    [earlier] = [answer for answer in answers if isinstance(answer, Earlier)]
    assert len(stored) == await count(store) == 1
    assert earlier == Earlier(b"hash", first.id)


async def test_the_same_key_in_two_batches_at_once_makes_one_message(store: Store) -> None:
    others = [MessageStore(store.database, keep_keys=timedelta(hours=1)) for _ in range(4)]
    for number in range(10):
        same = key(store.client_id, f"k-{number}")
        messages = [rows.a_message(store.client_id) for _ in others]
        answers = await asyncio.gather(
            *(other.add(message, same) for other, message in zip(others, messages, strict=True))
        )
        winners = [m.id for m, answer in zip(messages, answers, strict=True) if isinstance(answer, datetime)]
        assert len(winners) == 1
        losers = [answer for answer in answers if isinstance(answer, Earlier)]
        assert losers == [Earlier(b"hash", winners[0])] * 3
    assert await count(store) == 10


async def test_many_keys_in_opposite_orders_do_not_deadlock(store: Store) -> None:
    others = [MessageStore(store.database, keep_keys=timedelta(hours=1)) for _ in range(2)]
    for _ in range(5):
        await store.database.execute("DELETE FROM idempotency_keys")
        orders = [range(50), range(49, -1, -1)]
        await asyncio.gather(
            *(
                other.add(rows.a_message(store.client_id), key(store.client_id, f"k-{number}"))
                for other, order in zip(others, orders, strict=True)
                for number in order
            )
        )
    assert await count(store) == 250


async def test_a_key_tells_what_body_came_with_it_first(store: Store) -> None:
    message = rows.a_message(store.client_id)
    await store.messages.add(message, key(store.client_id, body=b"one"))
    assert await store.messages.add(rows.a_message(store.client_id), key(store.client_id, body=b"two")) == Earlier(
        b"one", message.id
    )
    assert await store.messages.earlier(key(store.client_id)) == Earlier(b"one", message.id)


async def test_an_expired_key_is_free_again(store: Store) -> None:
    await store.messages.add(rows.a_message(store.client_id), key(store.client_id, body=b"one"))
    await expire_keys(store)
    assert await store.messages.earlier(key(store.client_id)) is None
    second = rows.a_message(store.client_id)
    assert isinstance(await store.messages.add(second, key(store.client_id, body=b"two")), datetime)
    assert await store.messages.earlier(key(store.client_id)) == Earlier(b"two", second.id)


async def test_a_key_that_expires_at_this_very_moment_is_told_to_come_back(store: Store) -> None:
    class Unlucky(MessageStore):
        async def _insert(self, items: Any) -> Any:
            answers = await super()._insert(items)
            return [None if isinstance(answer, Earlier) else answer for answer in answers]

    unlucky = Unlucky(store.database, keep_keys=timedelta(hours=1))
    await unlucky.add(rows.a_message(store.client_id), key(store.client_id))
    with pytest.raises(StoreOverloaded):
        await unlucky.add(rows.a_message(store.client_id), key(store.client_id))


async def test_a_key_of_another_client_or_endpoint_is_another_key(store: Store) -> None:
    other_id = await rows.a_client(store.database, "other")
    await store.messages.add(rows.a_message(store.client_id), key(store.client_id))
    assert isinstance(await store.messages.add(rows.a_message(other_id), key(other_id)), datetime)
    assert await store.messages.earlier(key(store.client_id, endpoint="bulk")) is None
    both = [(store.client_id, "k-2"), (other_id, "k-2")]
    answers = await asyncio.gather(*(store.messages.add(rows.a_message(who), key(who, name)) for who, name in both))
    assert all(isinstance(answer, datetime) for answer in answers)


async def test_many_keys_that_are_asked_for_at_once_each_tell_of_their_own(store: Store) -> None:
    """They are read together: the same key at another endpoint, or of another client, is another key all the same."""
    other_id = await rows.a_client(store.database, "other")
    made = {}
    for who, endpoint, name in [
        (store.client_id, "send", "k"),
        (other_id, "send", "k"),
        (store.client_id, "send", "l"),
    ]:
        message = rows.a_message(who)
        await store.messages.add(message, key(who, name, endpoint=endpoint))
        made[who, endpoint, name] = message.id
    asked = [*made, (store.client_id, "bulk", "k"), (other_id, "send", "l")] * 20
    found = await asyncio.gather(*(store.messages.earlier(key(w, n, endpoint=e)) for w, e, n in asked))
    assert [one and one.subject_id for one in found] == [made.get(one) for one in asked]
    rows_of = await asyncio.gather(*(store.messages.replayed(id_, who) for (who, *_), id_ in made.items()))
    assert [row and row["id"] for row in rows_of] == list(made.values())
    assert await store.messages.replayed(made[store.client_id, "send", "k"], other_id) is None


@pytest.mark.parametrize("text", ["nul \x00", "lone surrogate \ud800"])
async def test_a_text_that_postgresql_cannot_hold_fails_alone(store: Store, text: str) -> None:
    good = [rows.a_message(store.client_id) for _ in range(7)]
    bad = rows.a_message(store.client_id, text=text)
    answers = await asyncio.gather(
        *(store.messages.add(message, None) for message in [*good[:3], bad, *good[3:]]), return_exceptions=True
    )
    assert isinstance(answers.pop(3), Unstorable)
    assert all(isinstance(answer, datetime) for answer in answers)
    assert await count(store) == 7


async def test_a_poisonous_message_takes_its_key_with_it(store: Store) -> None:
    with pytest.raises(Unstorable):
        await store.messages.add(rows.a_message(store.client_id, text="\x00"), key(store.client_id))
    assert await store.messages.earlier(key(store.client_id)) is None


async def test_a_message_is_shown_to_its_client_only(store: Store) -> None:
    message_id = await store.add()
    found = await store.messages.message(message_id, store.client_id)
    assert found is not None
    assert (found["id"], found["recipient"]) == (message_id, "+15555550100")
    assert await store.messages.message(message_id, new_id()) is None
    assert await store.messages.history(message_id) == ([], [])


def a_batch(store: Store, answer: bytes = b"{}") -> Batch:
    return Batch(new_id(), store.client_id, 1, answer)


async def test_a_bulk_is_stored_whole_and_counted(store: Store) -> None:
    batch = a_batch(store, b'{"accepted": 3}')
    messages = [rows.a_message(store.client_id, to=f"+1555555010{number}") for number in range(3)]
    messages[2] = rows.a_message(store.client_id, send_at=datetime.now(UTC) + timedelta(hours=1))
    assert await store.messages.add_batch(batch, messages, None) is None
    await store.database.execute("UPDATE messages SET status = 'sent' WHERE id = $1", messages[0].id)
    found = await store.messages.batch(batch.id, store.client_id)
    assert found is not None
    assert (found["accepted"], found["rejected"], found["counts"]) == (3, 1, {"sent": 1, "queued": 2})
    assert await store.messages.batch_answer(batch.id, store.client_id) == b'{"accepted": 3}'
    later = await rows.row(store.database, messages[2].id)
    assert later["due_in_s"] == pytest.approx(3600, abs=5)
    assert later["left_s"] == pytest.approx(4200, abs=5)


async def test_a_bulk_of_somebody_else_is_not_shown(store: Store) -> None:
    batch = a_batch(store)
    await store.messages.add_batch(batch, [rows.a_message(store.client_id)], None)
    assert await store.messages.batch(batch.id, new_id()) is None
    assert await store.messages.batch_answer(batch.id, new_id()) is None


async def test_a_bulk_with_a_bad_row_stores_nothing(store: Store) -> None:
    messages = [rows.a_message(store.client_id), rows.a_message(store.client_id, text="\x00")]
    with pytest.raises(Unstorable):
        await store.messages.add_batch(a_batch(store), messages, key(store.client_id, endpoint="bulk"))
    assert (await count(store), await count(store, "batches"), await count(store, "idempotency_keys")) == (0, 0, 0)


async def test_the_same_bulk_twice_at_once_is_stored_once(store: Store) -> None:
    same = key(store.client_id, endpoint="bulk")
    batches = [a_batch(store) for _ in range(3)]
    answers = await asyncio.gather(
        *(store.messages.add_batch(batch, [rows.a_message(store.client_id)], same) for batch in batches)
    )
    [winner] = [batch.id for batch, answer in zip(batches, answers, strict=True) if answer is None]
    assert [answer for answer in answers if answer] == [Earlier(b"hash", winner)] * 2
    assert (await count(store), await count(store, "batches")) == (1, 1)


async def test_an_expired_key_of_a_bulk_is_free_again(store: Store) -> None:
    same = key(store.client_id, endpoint="bulk")
    await store.messages.add_batch(a_batch(store), [rows.a_message(store.client_id)], same)
    await expire_keys(store)
    assert await store.messages.add_batch(a_batch(store), [rows.a_message(store.client_id)], same) is None
    assert await count(store, "batches") == 2


async def test_expired_keys_are_forgotten_and_living_ones_are_not(store: Store) -> None:
    await store.messages.add(rows.a_message(store.client_id), key(store.client_id, "old"))
    await expire_keys(store)
    await store.messages.add(rows.a_message(store.client_id), key(store.client_id, "young"))
    await store.database.execute(
        "INSERT INTO idempotency_keys SELECT $1, 'send', 'n-' || n, '', $1, now() - interval '1 second'"
        " FROM generate_series(1, 5001) AS n",
        store.client_id,
    )
    await store.upkeep.forget_keys()
    assert [row["key"] for row in await store.database.fetch("SELECT key FROM idempotency_keys")] == ["young"]
