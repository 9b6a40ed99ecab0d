from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.hlr import HlrResult, HlrStatus
from service.domain.ids import new_id
from tests.storage.conftest import Store

NUMBER = "+15555550100"
RESULT = HlrResult(
    NUMBER, HlrStatus.ACTIVE, datetime(2026, 1, 2, tzinfo=UTC), "primary", "310", "004", "Net", "mobile", True, False, 0
)
HOUR = timedelta(hours=1)


async def test_a_result_comes_back_as_it_was_kept(store: Store) -> None:
    await store.numbers.keep_hlr(RESULT, HOUR)
    assert await store.numbers.hlr(NUMBER) == RESULT
    known = await store.numbers.screen(NUMBER, store.client_id)
    assert (known.hlr, known.suppressed) == (RESULT, False)


async def test_a_newer_result_takes_the_place_of_the_older(store: Store) -> None:
    await store.numbers.keep_hlr(RESULT, HOUR)
    newer = HlrResult(NUMBER, HlrStatus.ABSENT, datetime.now(UTC), "fallback", error_code=27)
    await store.numbers.keep_hlr(newer, HOUR)
    assert await store.numbers.hlr(NUMBER) == newer


async def test_a_result_whose_time_is_over_is_not_found(store: Store) -> None:
    await store.numbers.keep_hlr(RESULT, -HOUR)
    assert await store.numbers.hlr(NUMBER) is None
    assert (await store.numbers.screen(NUMBER, store.client_id)).hlr is None


async def test_a_caller_may_ask_for_a_fresher_result(store: Store) -> None:
    await store.numbers.keep_hlr(replace(RESULT, checked_at=datetime.now(UTC) - HOUR), HOUR)
    assert await store.numbers.hlr(NUMBER, 2 * HOUR) is not None
    assert await store.numbers.hlr(NUMBER, HOUR / 2) is None


@pytest.mark.parametrize("everybody", [True, False])
async def test_a_suppression_holds_for_whom_it_was_made(store: Store, everybody: bool) -> None:
    for _ in range(2):
        client_id = None if everybody else store.client_id
        await store.suppressions.add(client_id, [NUMBER], reason="opted_out", source="test")
    assert (await store.numbers.screen(NUMBER, store.client_id)).suppressed
    assert (await store.numbers.screen(NUMBER, new_id())).suppressed is everybody
    assert not (await store.numbers.screen("+15555550101", store.client_id)).suppressed
    assert len(await store.database.fetch("SELECT FROM suppressions")) == 1


async def test_a_claim_tells_of_each_message_what_is_known_of_its_number(store: Store) -> None:
    await store.suppressions.add(None, ["+15555550105"], reason="opted_out", source="test")
    result = replace(RESULT, number="+15555550107")
    await store.numbers.keep_hlr(result, HOUR)
    await store.numbers.keep_hlr(replace(RESULT, number="+15555550108"), -HOUR)
    numbers = [f"+1555555010{number}" for number in range(10)]
    for number in numbers:
        await store.add(to=number)
    claimed = {message.to: message.known for message in await store.claim(await store.worker())}
    assert {to: known.suppressed for to, known in claimed.items()} == {to: to == numbers[5] for to in numbers}
    assert {to: known.hlr for to, known in claimed.items()} == {
        to: result if to == numbers[7] else None for to in numbers
    }
