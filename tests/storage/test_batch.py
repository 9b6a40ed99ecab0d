"""Group commit, with a store that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from service.domain.message import Traffic
from service.errors import CommitUnknown, StoreOverloaded, Unstorable
from service.storage.batch import TO_PROVIDER_EVERY_S, Batcher, by_lane


class Recording:
    """Keeps the batches that it was given; a batch that holds a poisonous item is refused."""

    def __init__(self, *poison: int) -> None:
        self.batches: list[list[int]] = []
        self.stored: list[int] = []
        self._poison = set(poison)

    async def run(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        if self._poison & set(items):
            raise Unstorable("SQLSTATE 22021")
        self.stored += items
        return [item * 10 for item in items]


class Held(Recording):
    """Stores nothing before `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.begun = asyncio.Event()

    async def run(self, items: Sequence[int]) -> list[int]:
        self.begun.set()
        await self.go.wait()
        return await super().run(items)


def failing(*errors: Exception) -> tuple[Batcher[int, int], list[list[int]]]:
    """A batcher whose first runs fail so, and the batches that it ran."""
    left, batches = list(errors), []

    async def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        if left:
            raise left.pop(0)
        return list(items)

    return Batcher(run), batches


def deadlock() -> StoreOverloaded:
    error = StoreOverloaded("PostgreSQL: SQLSTATE 40P01")
    error.__cause__ = asyncpg.DeadlockDetectedError("deadlock detected")
    return error


async def test_those_who_wait_together_are_stored_together_and_each_gets_its_own_answer() -> None:
    store = Recording()
    batcher = Batcher(store.run)
    assert await asyncio.gather(*map(batcher.submit, range(100))) == [number * 10 for number in range(100)]
    assert [len(batch) for batch in store.batches] == [100]


async def test_a_batch_is_sorted_by_its_lock_key() -> None:
    store = Recording()
    batcher = Batcher(store.run, lock_key=lambda item: -item)
    assert await asyncio.gather(*map(batcher.submit, [3, 1, 2])) == [30, 10, 20]
    assert store.batches == [[3, 2, 1]]


async def test_a_batch_has_a_largest_size() -> None:
    store = Recording()
    batcher = Batcher(store.run, max_batch=4)
    await asyncio.gather(*map(batcher.submit, range(10)))
    assert [len(batch) for batch in store.batches] == [4, 4, 2]


async def test_while_one_batch_is_on_its_way_the_next_gathers() -> None:
    store = Held()
    batcher = Batcher(store.run)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    rest = [asyncio.create_task(batcher.submit(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    store.go.set()
    await asyncio.gather(first, *rest)
    assert store.batches == [[1], [2, 3, 4]]


async def test_two_flights_do_not_wait_for_each_other() -> None:
    store = Held()
    batcher = Batcher(store.run, flights=2)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    store.begun.clear()
    second = asyncio.create_task(batcher.submit(2))
    await asyncio.wait_for(store.begun.wait(), 5)
    store.go.set()
    await asyncio.gather(first, second)
    assert sorted(store.batches) == [[1], [2]]


async def test_another_flight_takes_off_only_for_a_crowd() -> None:
    store = Held()
    batcher = Batcher(store.run, flights=2, crowd=3)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    store.begun.clear()
    few = [asyncio.create_task(batcher.submit(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not store.begun.is_set()
    third = asyncio.create_task(batcher.submit(4))
    await asyncio.wait_for(store.begun.wait(), 5)
    store.go.set()
    await asyncio.gather(first, *few, third)
    assert sorted(store.batches) == [[1], [2, 3, 4]]


async def test_another_flight_takes_off_for_one_who_waits_long() -> None:
    store = Held()
    batcher = Batcher(store.run, flights=2, crowd=3, patience_s=0.5)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    store.begun.clear()
    second = asyncio.create_task(batcher.submit(2))
    await asyncio.wait_for(store.begun.wait(), 5)
    store.go.set()
    await asyncio.gather(first, second)
    assert sorted(store.batches) == [[1], [2]]


async def test_who_submits_right_after_being_answered_is_never_stranded() -> None:
    batcher = Batcher(Recording().run)

    async def caller(start: int) -> None:
        for number in range(50):
            assert await batcher.submit(start + number) == (start + number) * 10

    await asyncio.wait_for(asyncio.gather(*(caller(1000 * number) for number in range(5))), 10)


async def test_one_poisonous_row_fails_alone() -> None:
    store = Recording(5)
    batcher = Batcher(store.run)
    answers = await asyncio.gather(*map(batcher.submit, range(8)), return_exceptions=True)
    assert isinstance(answers[5], Unstorable)
    assert [answer for answer in answers if answer is not answers[5]] == [0, 10, 20, 30, 40, 60, 70]
    assert sorted(store.stored) == [0, 1, 2, 3, 4, 6, 7], "each once"


async def test_a_batch_of_nothing_but_poison_fails_whole() -> None:
    batcher = Batcher(Recording(0, 1, 2).run)
    answers = await asyncio.gather(*map(batcher.submit, range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unstorable] * 3


async def test_a_deadlock_is_retried_whole() -> None:
    batcher, batches = failing(deadlock(), deadlock())
    assert await asyncio.gather(*map(batcher.submit, range(3))) == [0, 1, 2]
    assert batches == [[0, 1, 2]] * 3


async def test_a_deadlock_that_comes_back_five_times_is_told() -> None:
    batcher, batches = failing(*(deadlock() for _ in range(5)))
    with pytest.raises(StoreOverloaded):
        await batcher.submit(1)
    assert len(batches) == 5


@pytest.mark.parametrize("error", [StoreOverloaded("no connection"), CommitUnknown("broken"), ValueError("a bug")])
async def test_any_other_failure_is_told_to_all_of_the_batch_and_to_nobody_else(error: Exception) -> None:
    batcher, batches = failing(error)
    answers = await asyncio.gather(*map(batcher.submit, range(3)), return_exceptions=True)
    assert answers == [error] * 3
    assert len(batches) == 1, "it is not repeated"
    assert await batcher.submit(7) == 7


async def test_a_queue_that_is_full_turns_the_next_one_away() -> None:
    store = Held()
    batcher = Batcher(store.run, max_waiting=2)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    waiting = [asyncio.create_task(batcher.submit(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    with pytest.raises(StoreOverloaded):
        await batcher.submit(4)
    store.go.set()
    assert await asyncio.gather(first, *waiting) == [10, 20, 30]
    assert 4 not in store.stored


async def test_a_caller_who_has_left_disturbs_nobody() -> None:
    store = Held()
    batcher = Batcher(store.run)
    callers = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
    await store.begun.wait()
    callers[0].cancel()
    await asyncio.gather(callers[0], return_exceptions=True)
    store.go.set()
    assert await callers[1] == 20
    assert store.stored == [1, 2], "what was on its way is stored"


async def test_a_caller_who_has_left_hears_of_no_failure() -> None:
    go = asyncio.Event()

    async def run(_: Sequence[int]) -> list[int]:
        await go.wait()
        raise StoreOverloaded("no connection")

    batcher = Batcher(run)
    callers = [asyncio.create_task(batcher.submit(number)) for number in (1, 2)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.gather(callers[0], return_exceptions=True)
    go.set()
    with pytest.raises(StoreOverloaded):
        await callers[1]


async def test_one_who_waits_behind_a_hanging_batch_hears_in_time_that_nothing_was_stored() -> None:
    store = Held()
    batcher = Batcher(store.run, patience_s=0.05)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    with pytest.raises(StoreOverloaded):
        await batcher.submit(2)
    store.go.set()
    with pytest.raises(CommitUnknown):
        await first
    assert await batcher.submit(3) == 30
    assert store.stored == [1, 3], "what was told to be not stored is not"


async def test_one_whose_batch_hangs_hears_in_time_that_its_fate_is_unknown() -> None:
    store = Held()
    batcher = Batcher(store.run, patience_s=0.01)
    with pytest.raises(CommitUnknown):
        await batcher.submit(1)
    store.go.set()
    assert await batcher.submit(2) == 20
    assert store.stored == [1, 2]


async def test_one_who_leaves_before_its_batch_began_is_not_stored() -> None:
    store = Held()
    batcher = Batcher(store.run)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    gone = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    store.go.set()
    await first
    assert await batcher.submit(3) == 30
    assert store.stored == [1, 3]


async def test_one_behind_a_hanging_batch_is_stored_by_the_other_flight_even_where_that_had_just_ended() -> None:
    go, begun = {1: asyncio.Event(), 2: asyncio.Event()}, asyncio.Event()

    async def run(items: Sequence[int]) -> list[int]:
        if items[0] in go:
            begun.set()
            await go[items[0]].wait()
        return list(items)

    batcher = Batcher(run, flights=2, crowd=8)
    callers = []
    for number in go:
        callers.append(asyncio.create_task(batcher.submit(number)))
        await asyncio.wait_for(begun.wait(), 5)
        begun.clear()
    third = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    go[2].set()
    assert await asyncio.wait_for(third, 5) == 3, "while the first still hangs"
    go[1].set()
    await asyncio.gather(*callers)


async def test_who_comes_soon_after_a_batch_waits_for_company() -> None:
    store = Recording()
    batcher = Batcher(store.run, every_s=0.3)
    await asyncio.gather(batcher.submit(1), batcher.submit(2))
    third = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0.1)
    assert not third.done()
    assert await batcher.submit(4) == 40
    assert await third == 30
    assert store.batches == [[1, 2], [3, 4]]


async def test_callers_who_go_on_one_after_another_wait_for_nobody_else() -> None:
    store = Recording()

    async def caller(first: int) -> None:
        for number in range(first, first + 3):
            await batcher.submit(number)

    batcher = Batcher(store.run, every_s=0.5, serial=True)
    async with asyncio.timeout(0.4):  # else the second batch alone would wait half a second
        await asyncio.gather(caller(10), caller(20))
    assert store.batches == [[10, 20], [11, 21], [12, 22]]


async def test_who_comes_long_after_a_batch_waits_for_nobody() -> None:
    store = Recording()
    batcher = Batcher(store.run, every_s=0.01)
    await batcher.submit(1)
    await asyncio.sleep(0.02)
    second = asyncio.create_task(batcher.submit(2))
    for _ in range(5):
        await asyncio.sleep(0)
    assert second.done()


async def test_batches_of_one_lane_do_not_wait_for_those_of_another() -> None:
    store = Held()
    batchers = by_lane(store.run, TO_PROVIDER_EVERY_S)
    campaign = asyncio.create_task(batchers[Traffic.MARKETING].submit(1))
    await store.begun.wait()
    store.begun.clear()
    otp = asyncio.create_task(batchers[Traffic.OTP].submit(2))
    await asyncio.wait_for(store.begun.wait(), 5)
    store.go.set()
    assert (await campaign, await otp) == (10, 20)
    assert store.batches == [[1], [2]]
