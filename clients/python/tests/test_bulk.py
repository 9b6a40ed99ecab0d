"""One text to many, in chunks."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from conftest import Connect
from proxy import Fault, Proxy, problem
from sms_gateway_client import AsyncSmsGateway, BulkProgress, InvalidRequest, NoAnswer

NUMBERS = [f"+155555501{number:02}" for number in range(5)]
TEXT = "We open at nine."


@pytest.fixture
def sms(connect: Connect, proxy: Proxy) -> AsyncSmsGateway:
    return connect(proxy.url)


def chunks(proxy: Proxy) -> list[list[str]]:
    """The recipients of each request."""
    return [seen.body["recipients"] for seen in proxy.seen if seen.path == "/v1/send/bulk"]


async def stored(sms: AsyncSmsGateway, reference: str) -> list[str]:
    return sorted(message.to for message in (await sms.list(reference=reference, limit=500)).messages)


async def test_many_go_out_in_chunks_with_a_key_each_and_progress(sms: AsyncSmsGateway, proxy: Proxy) -> None:
    seen: list[BulkProgress] = []
    done = await sms.bulk(NUMBERS, TEXT, sender="MyAppPromo", chunk_size=2, progress=seen.append)
    assert [result.to for result in done.results] == NUMBERS
    assert [result.to for result in done.accepted] == NUMBERS
    assert done.rejected == ()
    assert seen == [BulkProgress(2, 5), BulkProgress(4, 5), BulkProgress(5, 5)]
    assert chunks(proxy) == [NUMBERS[:2], NUMBERS[2:4], NUMBERS[4:]]
    assert len(set(proxy.keys)) == len(set(done.batch_ids)) == 3
    batch = await sms.batch(done.batch_ids[0])
    assert (batch.accepted, sum(batch.counts.values())) == (2, 2)
    assert (await sms.message(done.results[3].message_id or "")).batch_id == done.batch_ids[1]


async def test_without_a_size_a_chunk_has_10_000_at_most(sms: AsyncSmsGateway, proxy: Proxy) -> None:
    numbers = [f"+1555{number:07}" for number in range(10_001)]
    proxy.script.extend([problem(422, "unknown_sender")])
    with pytest.raises(InvalidRequest):
        await sms.bulk(iter(numbers), TEXT, sender="MyAppPromo")
    assert [len(chunk) for chunk in chunks(proxy)] == [10_000]
    for size in (0, 10_001):
        with pytest.raises(ValueError, match="chunk_size"):
            await sms.bulk(numbers, TEXT, sender="MyAppPromo", chunk_size=size)


async def test_a_number_given_twice_is_sent_once_even_over_chunks(sms: AsyncSmsGateway) -> None:
    reference = uuid4().hex
    twice = [NUMBERS[0], NUMBERS[1], NUMBERS[2], NUMBERS[0]]
    done = await sms.bulk(twice, TEXT, sender="MyAppPromo", chunk_size=2, reference=reference)
    assert [result.error.code if result.error else None for result in done.results] == [
        None,
        None,
        None,
        "duplicate_recipient",
    ]
    assert await stored(sms, reference) == NUMBERS[:3]


async def test_bad_numbers_are_told_one_by_one_even_where_a_chunk_has_no_good_one(sms: AsyncSmsGateway) -> None:
    numbers = ["555-0100", "+1555", NUMBERS[0], "0015555550100"]
    done = await sms.bulk(numbers, TEXT, sender="MyAppPromo", chunk_size=2)
    told = [(result.to, result.error.code if result.error else "ok") for result in done.results]
    assert told == [
        ("555-0100", "number_missing_plus"),
        ("+1555", "number_too_short"),
        (NUMBERS[0], "ok"),
        ("0015555550100", "number_missing_plus"),
    ]
    assert all(result.error.detail for result in done.rejected if result.error)
    assert len(done.batch_ids) == 1


async def test_nobody_is_sent_to_without_a_recipient(sms: AsyncSmsGateway, proxy: Proxy) -> None:
    done = await sms.bulk([], TEXT, sender="MyAppPromo")
    assert (done.results, done.batch_ids, proxy.seen) == ((), (), [])


async def test_what_is_wrong_with_the_whole_is_raised_and_not_told_of_each(sms: AsyncSmsGateway) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await sms.bulk(NUMBERS, TEXT, sender="Nobody", chunk_size=2)
    assert refused.value.code == "unknown_sender"
    assert refused.value.bulk is not None
    assert refused.value.bulk.results == ()


async def test_a_chunk_whose_answer_was_lost_is_sent_once(sms: AsyncSmsGateway, proxy: Proxy) -> None:
    reference = uuid4().hex
    proxy.script.extend([Fault.RESET_AFTER_IT_PASSED, Fault.CUT_ANSWER])
    done = await sms.bulk(NUMBERS, TEXT, sender="MyAppPromo", chunk_size=3, reference=reference)
    assert len(done.accepted) == 5
    assert await stored(sms, reference) == NUMBERS


async def test_a_bulk_that_broke_off_goes_on_where_it_was(connect: Connect, proxy: Proxy) -> None:
    sms = connect(proxy.url, retry=False)
    common: dict[str, Any] = {"sender": "MyAppPromo", "chunk_size": 2, "reference": uuid4().hex}

    def break_the_second(done: BulkProgress) -> None:
        assert done == BulkProgress(2, 5)
        proxy.script.append(Fault.RESET_AFTER_IT_PASSED)

    with pytest.raises(NoAnswer) as failed:
        await sms.bulk(NUMBERS, TEXT, progress=break_the_second, **common)
    assert failed.value.may_be_stored
    before = failed.value.bulk
    assert before is not None
    assert [result.to for result in before.accepted] == NUMBERS[:2]

    done = await sms.bulk(NUMBERS, TEXT, idempotency_key=failed.value.idempotency_key, **common)

    assert done.results[:2] == before.results
    assert len(done.accepted) == 5
    assert await stored(sms, common["reference"]) == NUMBERS
