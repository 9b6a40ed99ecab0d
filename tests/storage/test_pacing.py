"""Slots of a provider's MPS, shared by every process. Time is what the slots say; nothing waits for it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from service.storage.database import Database
from service.storage.pacing import PacingStore, Slot
from tests.storage.conftest import Store

MPS = 20.0
RESERVE = 0.2
ALL = {"mps:primary": 1 / MPS}
OTHER = ALL | {"mps:primary:other": 1 / (MPS * (1 - RESERVE))}
HORIZON_S = 0.1


async def start(store: Store) -> float:
    """The database's time, in seconds."""
    return await now(store.database)


async def now(database: Database) -> float:
    row = await database.fetchrow("SELECT extract(epoch FROM clock_timestamp())::float8 AS s")
    assert row is not None
    s: float = row["s"]
    return s


async def taken(store: Store, key: str = "mps:primary") -> float:
    """Up to when a key's slots are taken, in seconds."""
    row = await store.database.fetchrow("SELECT extract(epoch FROM tat)::float8 AS s FROM pacing WHERE key = $1", key)
    assert row is not None
    s: float = row["s"]
    return s


async def pass_time(store: Store, seconds: float) -> None:
    await store.database.execute("UPDATE pacing SET tat = tat - make_interval(secs => $1)", seconds)


def reserved(slots: list[Slot]) -> list[float]:
    return [slot.in_s for slot in slots if slot.reserved]


def assert_spaced(slots: list[Slot], wanted_s: list[float]) -> None:
    assert [slot.in_s for slot in slots] == pytest.approx(wanted_s, abs=1e-6)


async def test_slots_are_evenly_spaced_and_reserved_only_within_the_horizon(store: Store) -> None:
    slots = await store.pacing.reserve(ALL, 5, HORIZON_S)
    assert_spaced(slots, [0, 0.05, 0.1, 0.15, 0.2])
    assert [slot.reserved for slot in slots] == [True, True, True, False, False]


async def test_no_more_slots_are_reserved_than_wanted_and_none_where_none_is(store: Store) -> None:
    assert [slot.reserved for slot in await store.pacing.reserve(ALL, 2, 10.0)] == [True, True]
    taken_s = await taken(store)
    assert await store.pacing.reserve(ALL, 0, 10.0) == []
    assert await taken(store) == taken_s


async def test_who_comes_when_it_was_told_to_gets_its_slot(store: Store) -> None:
    for horizon_s in (0.0, 0.02, 0.1):
        await store.pacing.reserve(ALL, 50, 1.0)
        [told] = await store.pacing.reserve(ALL, 1, horizon_s)
        assert not told.reserved
        await pass_time(store, told.in_s - horizon_s)
        [given] = await store.pacing.reserve(ALL, 1, horizon_s)
        assert given.reserved


async def test_a_time_that_is_far_off_is_waited_for(store: Store) -> None:
    await store.pacing.reserve(ALL, 1, HORIZON_S)
    await pass_time(store, -1e9)
    [slot] = await store.pacing.reserve(ALL, 1, HORIZON_S)
    assert not slot.reserved
    assert slot.in_s == pytest.approx(1e9, rel=0.01)


async def test_slots_never_come_closer_than_their_interval(store: Store) -> None:
    random = Random(5)  # noqa: S311 - any will do
    last_s = 0.0
    for _ in range(60):
        passed_s = random.choice([0.0, 0.01, 0.3])
        await pass_time(store, passed_s)
        wanted = random.randint(1, 6)
        count = len(reserved(await store.pacing.reserve(OTHER, wanted, random.choice([0.0, 0.05, 0.4]))))
        if count:
            end_s = await taken(store, "mps:primary:other")
            first_s = end_s - count * OTHER["mps:primary:other"]
            assert first_s >= last_s - passed_s - 1e-5, "it overlaps with an earlier one"
            last_s = end_s
        else:
            last_s -= passed_s


async def test_slots_that_were_not_reserved_are_free_for_the_next(store: Store) -> None:
    first = await store.pacing.reserve(ALL, 5, HORIZON_S)
    again = await store.pacing.reserve(ALL, 5, HORIZON_S)
    assert len(reserved(first)) == 3
    assert 0.05 < again[0].in_s <= 0.15, "right after the three"


async def test_slots_are_shared_by_two_processes(store: Store, dsn: str) -> None:
    other = await Database.open(dsn, connections=5)
    stores = [store.pacing, PacingStore(other)]
    began_s = await start(store)
    granted = 0
    for _ in range(10):
        answers = await asyncio.gather(*(pacing.reserve(ALL, 3, HORIZON_S) for pacing in stores for _ in range(3)))
        granted += sum(len(reserved(slots)) for slots in answers)
        # As much time passes as was handed out, less what passes of itself.
        ahead_s = await taken(store) - await now(store.database)
        await pass_time(store, max(0.0, ahead_s))
        began_s -= max(0.0, ahead_s)
    await other.close()
    took_s = await now(store.database) - began_s
    assert granted >= 30
    assert granted <= took_s * MPS + 1, "never more than the rate and one to begin with"
    assert granted >= took_s * MPS * 0.5


async def test_a_rest_earns_no_burst(store: Store) -> None:
    await store.pacing.reserve(ALL, 1, HORIZON_S)
    await pass_time(store, 3600)
    await store.pacing.reserve(OTHER, 1, HORIZON_S)
    granted = [len(reserved(await store.pacing.reserve(ALL, 50, HORIZON_S))) for _ in range(5)]
    assert 2 <= sum(granted) <= 4


async def test_a_provider_slower_than_the_horizon_gives_one_slot_at_a_time(store: Store) -> None:
    slow = {"mps:slow": 2.0}
    first = await store.pacing.reserve(slow, 3, 2.0)
    assert [slot.reserved for slot in first] == [True, True, False]
    assert_spaced(first, [0, 2, 4])


async def test_marketing_cannot_exceed_its_share(store: Store) -> None:
    granted, passed_s = 0, 0.0
    began_s = await start(store)
    for _ in range(40):
        granted += len(reserved(await store.pacing.reserve(OTHER, 50, HORIZON_S)))
        await pass_time(store, HORIZON_S)
        passed_s += HORIZON_S
    took_s = passed_s + await now(store.database) - began_s  # some time passes of itself
    assert granted <= took_s * MPS * (1 - RESERVE) + 3
    assert granted >= passed_s * MPS * (1 - RESERVE) * 0.9


async def test_an_otp_waits_a_tenth_of_a_second_and_a_slot_at_most_while_marketing_takes_all_it_can(
    store: Store,
) -> None:
    waits_s = []
    for _ in range(40):
        await store.pacing.reserve(OTHER, 50, HORIZON_S)
        [otp] = await store.pacing.reserve(ALL, 1, HORIZON_S)
        waits_s.append(otp.in_s)
        assert otp.reserved or otp.in_s <= HORIZON_S + 1 / MPS
        await pass_time(store, HORIZON_S)
    assert max(waits_s) <= HORIZON_S + 1 / MPS + 1e-3


async def test_a_slot_that_may_be_used_early_waits_for_nothing_that_others_reserved(store: Store) -> None:
    await store.pacing.reserve(OTHER, 50, HORIZON_S)
    early = await store.pacing.reserve(ALL, 2, 0.0, early_s=HORIZON_S + 1 / MPS)
    assert early[0] == Slot(0.0, reserved=True)


async def test_slots_that_are_used_early_are_ahead_of_the_rate_by_no_more(store: Store) -> None:
    slots = reserved(await store.pacing.reserve(ALL, 50, 1.0, early_s=HORIZON_S))
    again = reserved(await store.pacing.reserve(ALL, 50, 1.0, early_s=HORIZON_S))
    assert len(slots) == MPS + 1
    assert len(again) == HORIZON_S * MPS, "what was early is early once only"
    assert again[0] >= slots[-1] + 1 / MPS - HORIZON_S - 0.01


async def test_all_traffic_together_keeps_to_the_providers_rate(store: Store) -> None:
    granted, began_s = 0, await start(store)
    for _ in range(40):
        for intervals_s in (OTHER, ALL):
            granted += len(reserved(await store.pacing.reserve(intervals_s, 50, HORIZON_S)))
        await pass_time(store, HORIZON_S)
        began_s -= HORIZON_S
    took_s = await now(store.database) - began_s
    assert granted <= (took_s + HORIZON_S) * MPS * 1.1 + 2


async def test_a_crash_that_empties_the_table_costs_a_burst_and_nothing_else(store: Store) -> None:
    await store.pacing.reserve(OTHER, 50, HORIZON_S)
    await store.database.execute("TRUNCATE pacing")
    assert len(reserved(await store.pacing.reserve(OTHER, 2, HORIZON_S))) == 2


async def test_many_who_start_at_once_do_not_quarrel_over_the_first_row(store: Store) -> None:
    began_s = await start(store)
    answers = await asyncio.gather(*(store.pacing.reserve(OTHER, 1, HORIZON_S) for _ in range(8)))
    took_s = await now(store.database) - began_s
    assert 2 <= sum(len(reserved(slots)) for slots in answers) <= 4 + took_s * MPS * (1 - RESERVE)


async def test_what_many_give_back_at_once_is_added_up_key_by_key(store: Store) -> None:
    for limiter in ("send:a", "send:b"):
        await store.pacing.admit(limiter, 1.0, 100, 50, 50)
    before = [await taken(store, limiter) for limiter in ("send:a", "send:b")]
    await asyncio.gather(
        *(store.pacing.give_back("send:a", 0.5) for _ in range(40)), store.pacing.give_back("send:b", 3.0)
    )
    after = [await taken(store, limiter) for limiter in ("send:a", "send:b")]
    assert [one - other for one, other in zip(before, after, strict=True)] == pytest.approx([20.0, 3.0])
