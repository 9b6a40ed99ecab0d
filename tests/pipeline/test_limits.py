"""Limits of the callers, against the real rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import pytest

from service.domain.ids import new_id
from service.domain.pacing import Rate
from service.environment import Environment
from service.errors import Problem
from service.pipeline.limits import LEASE_S, Limit, Limits
from service.runtime import Runtime
from service.storage.clients import Principal
from tests.gateway import migrated_database, open_gateway

CONFIG = """
providers: {primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
limits: {rates: {send: {per_s: 1, burst: 3}}}
"""


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
async def runtime(postgres: str, template: str) -> AsyncIterator[Runtime]:
    async with migrated_database(postgres, template) as dsn, open_gateway(CONFIG, dsn, Environment()) as runtime:
        yield runtime


def a_caller(**limits: Rate) -> Principal:
    return Principal(new_id(), "shop", frozenset(), False, None, None, limits)


async def granted(limits: Limits, caller: Principal, tries: int, limit: Limit = Limit.SEND) -> int:
    count = 0
    for _ in range(tries):
        with suppress(Problem):
            await limits.take(caller, limit)
            count += 1
    return count


async def test_after_the_burst_a_caller_hears_429_and_how_long_to_wait(runtime: Runtime) -> None:
    limits, caller = Limits(runtime), a_caller()
    assert await granted(limits, caller, 3) == 3
    with pytest.raises(Problem) as refused:
        await limits.take(caller, Limit.SEND)
    assert (refused.value.status, refused.value.code) == (429, "rate_limited")
    assert refused.value.headers == {
        "Retry-After": "1",
        "RateLimit": '"send";r=0;t=1',
        "RateLimit-Policy": '"send";q=3;w=3',
    }


async def test_two_replicas_share_one_limit(runtime: Runtime) -> None:
    caller = a_caller()
    one, other = Limits(runtime), Limits(runtime)
    counts = await asyncio.gather(granted(one, caller, 5), granted(other, caller, 5))
    assert sum(counts) == 3


async def test_clients_and_kinds_do_not_share(runtime: Runtime) -> None:
    limits = Limits(runtime)
    assert await granted(limits, a_caller(), 5) == 3
    caller = a_caller(hlr=Rate(1, 2))
    assert await granted(limits, caller, 5) == 3
    assert await granted(limits, caller, 5, Limit.HLR) == 2


async def test_a_client_has_its_own_limit_over_the_default_and_a_change_takes_effect(runtime: Runtime) -> None:
    limits, caller = Limits(runtime), a_caller(send=Rate(1, 5))
    assert await granted(limits, caller, 9) == 5
    assert await granted(limits, replace(caller, limits={"send": Rate(1000, 50)}), 20) == 20


async def test_without_a_limit_nothing_is_counted(runtime: Runtime) -> None:
    assert await granted(Limits(runtime), a_caller(), 50, Limit.BULK) == 50


async def test_a_bulk_that_no_waiting_would_let_in_is_422(runtime: Runtime) -> None:
    caller = a_caller(bulk=Rate(10, 100))
    limits = Limits(runtime)
    with pytest.raises(Problem) as refused:
        await limits.take(caller, Limit.BULK, 101)
    assert (refused.value.status, refused.value.code) == (422, "too_many_for_limit")
    await limits.take(caller, Limit.BULK, 100)
    with pytest.raises(Problem) as refused:
        await limits.take(caller, Limit.BULK, 50)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "5")


async def test_a_large_bulk_does_not_hide_what_a_small_one_may_still_have(runtime: Runtime) -> None:
    caller, limits = a_caller(bulk=Rate(1, 100)), Limits(runtime)
    await limits.take(caller, Limit.BULK, 60)
    with pytest.raises(Problem):
        await limits.take(caller, Limit.BULK, 50)
    await limits.take(caller, Limit.BULK, 30)


async def test_a_replica_takes_a_tenth_of_a_second_at_once_and_drops_what_it_did_not_spend(runtime: Runtime) -> None:
    clock, caller = Clock(), a_caller(send=Rate(100, 200))
    one = Limits(runtime, clock)
    await one.take(caller, Limit.SEND)
    before = await _tat(runtime, caller)
    for _ in range(9):  # the rest of ten, all from the first question
        await one.take(caller, Limit.SEND)
    assert await _tat(runtime, caller) == before
    await one.take(caller, Limit.SEND)
    assert await _tat(runtime, caller) > before
    before = await _tat(runtime, caller)
    clock.now_s += LEASE_S
    await one.take(caller, Limit.SEND)  # what was left is dropped: the database is asked again
    assert await _tat(runtime, caller) > before


async def test_a_refusal_is_remembered_for_as_long_as_it_holds(runtime: Runtime) -> None:
    clock, caller = Clock(), a_caller(send=Rate(1, 1))
    limits = Limits(runtime, clock)
    assert await granted(limits, caller, 2) == 1
    await runtime.database.execute("DELETE FROM pacing")  # it would be granted, if the database were asked
    assert await granted(limits, caller, 1) == 0
    clock.now_s += 1
    assert await granted(limits, caller, 1) == 1


async def test_what_a_replay_spent_is_given_back_for_every_replica_and_not_only_at_once(runtime: Runtime) -> None:
    clock, caller = Clock(), a_caller(send=Rate(0.001, 1), bulk=Rate(0.001, 100))
    limits, other = Limits(runtime, clock), Limits(runtime, clock)
    await limits.take(caller, Limit.SEND)
    await limits.give_back(caller, Limit.SEND)
    clock.now_s += 10 * LEASE_S
    await other.take(caller, Limit.SEND)
    await limits.take(caller, Limit.BULK, 100)
    await limits.give_back(caller, Limit.BULK, 100)
    clock.now_s += 10 * LEASE_S
    await other.take(caller, Limit.BULK, 100)
    await limits.give_back(a_caller(), Limit.SEND)  # of one that never asked: nothing to give back


async def test_a_refused_bulk_takes_nothing_from_the_others_and_says_the_true_wait(runtime: Runtime) -> None:
    caller, limits = a_caller(bulk=Rate(1, 100)), Limits(runtime, Clock())
    await limits.take(caller, Limit.BULK, 60)

    async def outcome(cost: int) -> str | None:
        try:
            await limits.take(caller, Limit.BULK, cost)
        except Problem as problem:
            return problem.headers["Retry-After"]
        return None

    waits = await asyncio.gather(outcome(50), outcome(1), outcome(90), outcome(10))
    assert [wait is None for wait in waits] == [False, True, False, True]
    assert int(waits[0] or 0) in range(9, 22)
    assert await outcome(25) is None


async def _tat(runtime: Runtime, caller: Principal) -> datetime:
    key = f"limit:send:{caller.client_id}:%"
    row = await runtime.database.fetchrow("SELECT max(tat) AS tat FROM pacing WHERE key LIKE $1", key)
    assert row is not None
    tat: datetime = row["tat"]
    return tat
