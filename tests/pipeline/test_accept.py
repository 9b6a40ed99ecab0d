from __future__ import annotations

import pytest

from service.domain.ids import new_id
from service.domain.message import Traffic
from service.errors import Problem, StoreOverloaded
from service.pipeline.accept import Accept
from service.storage.messages import Batch, Key
from tests import rows
from tests.pipeline.world import World


def key(world: World, body: bytes = b"hash", endpoint: str = "send") -> Key:
    return Key(world.client_id, endpoint, "k-1", body)


def sample(world: World, name: str, **labels: str) -> float | None:
    return world.runtime.metrics.registry.get_sample_value(f"sms_gateway_{name}", labels)


async def test_an_accepted_message_is_answered_counted_and_its_lane_woken(world: World) -> None:
    message = rows.a_message(world.client_id, traffic="otp", reference="r-1")
    answer = await Accept(world.runtime).send(message, None)
    row = await world.message(message.id)
    assert (answer.message_id, answer.created_at, answer.replayed) == (message.id, row["created_at"], False)
    assert (answer.to, answer.sender, answer.traffic) == ("+15555550100", "MyApp", "otp")
    assert (answer.segments, answer.encoding, answer.reference) == (1, "gsm-7", "r-1")
    assert sample(world, "messages_accepted_total", traffic="otp") == 1
    assert world.runtime.hints.lanes[Traffic.OTP].is_set()
    assert not world.runtime.hints.lanes[Traffic.MARKETING].is_set()


async def test_a_repeated_key_answers_what_it_answered_first(world: World) -> None:
    accept = Accept(world.runtime)
    first = await accept.send(rows.a_message(world.client_id, reference="r-1"), key(world))
    second = await accept.send(rows.a_message(world.client_id, reference="r-1"), key(world))
    replay = await accept.replay(key(world))
    assert replay == second
    assert second.replayed
    assert (second.message_id, second.created_at, second.reference) == (first.message_id, first.created_at, "r-1")
    assert sample(world, "messages_accepted_total", traffic="transactional") == 1
    assert sample(world, "messages_replayed_total") == 2


async def test_a_key_with_another_body_is_refused(world: World) -> None:
    accept = Accept(world.runtime)
    await accept.send(rows.a_message(world.client_id), key(world))
    for attempt in (
        accept.send(rows.a_message(world.client_id), key(world, b"other")),
        accept.replay(key(world, b"other")),
    ):
        with pytest.raises(Problem) as problem:
            await attempt
        assert (problem.value.status, problem.value.code) == (422, "idempotency_key_reused")


async def test_a_key_that_never_answered_has_nothing_to_replay(world: World) -> None:
    accept = Accept(world.runtime)
    assert await accept.replay(key(world)) is None
    assert await accept.replay_bulk(key(world, endpoint="bulk")) is None


async def test_a_key_that_outlived_what_it_made_is_told_to_come_back(world: World) -> None:
    accept = Accept(world.runtime)
    await accept.send(rows.a_message(world.client_id), key(world))
    batch = Batch(new_id(), world.client_id, 0, b"{}")
    await accept.bulk(batch, [rows.a_message(world.client_id)], key(world, endpoint="bulk"))
    await world.database.execute("DELETE FROM messages")
    await world.database.execute("DELETE FROM batches")
    with pytest.raises(StoreOverloaded):
        await accept.replay(key(world))
    with pytest.raises(StoreOverloaded):
        await accept.replay_bulk(key(world, endpoint="bulk"))


async def test_a_bulk_is_answered_and_replayed_byte_for_byte(world: World) -> None:
    accept = Accept(world.runtime)
    messages = [rows.a_message(world.client_id, traffic="marketing") for _ in range(3)]
    answers = [
        await accept.bulk(Batch(new_id(), world.client_id, 0, answer), messages, key(world, endpoint="bulk"))
        for answer in (b"first", b"second")
    ]
    assert answers == [(b"first", False), (b"first", True)]
    assert await accept.replay_bulk(key(world, endpoint="bulk")) == b"first"
    assert sample(world, "messages_accepted_total", traffic="marketing") == 3
    assert world.runtime.hints.lanes[Traffic.MARKETING].is_set()


async def test_a_bulk_key_with_another_body_is_refused(world: World) -> None:
    accept = Accept(world.runtime)
    batch = Batch(new_id(), world.client_id, 0, b"{}")
    await accept.bulk(batch, [rows.a_message(world.client_id)], key(world, endpoint="bulk"))
    with pytest.raises(Problem):
        await accept.replay_bulk(key(world, b"other", endpoint="bulk"))
