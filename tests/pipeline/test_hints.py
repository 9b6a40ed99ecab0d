"""Hints between processes: rung by who stores work, heard by who does it. Losing one costs a poll, no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import asyncpg
import pytest

from service.domain.message import Traffic
from service.errors import StoreError
from service.pipeline.hints import hearing, ringing
from service.runtime import Hints, Runtime
from service.storage.bell import Bell
from tests.gateway import migrated_database, open_gateway, unreachable

CONFIG = """
providers: {primary: {adapter: smsroute, base_url: "http://primary.test", api_key: key}}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
"""


@pytest.fixture
async def store(postgres: str, template: str) -> AsyncIterator[tuple[Runtime, str]]:
    async with migrated_database(postgres, template) as dsn, open_gateway(CONFIG, dsn) as runtime:
        yield runtime, dsn


def process(runtime: Runtime, dsn: str) -> Runtime:
    """Another process on the same database, as far as hints go."""
    return replace(runtime, hints=Hints(), bell=Bell(runtime.database, dsn, reconnect_s=0.01))


async def until_listening(runtime: Runtime, number: int = 1) -> None:
    count = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'"  # the statement is over
    )
    async with asyncio.timeout(60):
        while True:  # the server tells nobody when a session begins to listen
            found = await runtime.database.fetchrow(count)
            if found is not None and found[0] >= number:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("lane", Traffic)
async def test_every_worker_hears_that_a_lane_has_work(store: tuple[Runtime, str], lane: Traffic) -> None:
    serve, first, second = (process(*store) for _ in range(3))
    async with hearing(first), hearing(second), ringing(serve):
        await until_listening(serve, 2)
        serve.hints.lanes[lane].set()
        async with asyncio.timeout(60):
            await asyncio.gather(*(worker.hints.lanes[lane].wait() for worker in (first, second)))
        others = [event for other, event in first.hints.lanes.items() if other is not lane]
        assert not any(event.is_set() for event in [*others, first.hints.webhooks])
        assert not serve.hints.lanes[lane].is_set()


async def test_a_receipt_wakes_the_webhooks_of_the_workers(store: tuple[Runtime, str]) -> None:
    serve, worker = process(*store), process(*store)
    async with hearing(worker), ringing(serve):
        await until_listening(serve)
        serve.hints.webhooks.set()
        async with asyncio.timeout(60):
            await worker.hints.webhooks.wait()


async def test_a_worker_listens_again_after_its_connection_was_cut(store: tuple[Runtime, str]) -> None:
    serve, worker = process(*store), process(*store)
    async with hearing(worker), ringing(serve):
        await until_listening(serve)
        await serve.database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        )
        await until_listening(serve)
        serve.hints.webhooks.set()
        async with asyncio.timeout(60):
            await worker.hints.webhooks.wait()


@pytest.mark.parametrize("error", [asyncpg.InternalClientError("unexpected"), asyncio.IncompleteReadError(b"", 1)])
async def test_whatever_ends_the_listening_it_begins_again(store: tuple[Runtime, str], error: Exception) -> None:
    runtime, dsn = store
    errors = [error]

    class Failing(Bell):
        async def _listen_once(self, heard: Callable[[str], None]) -> None:
            if errors:
                raise errors.pop()
            await super()._listen_once(heard)

    worker = replace(runtime, hints=Hints(), bell=Failing(runtime.database, dsn, reconnect_s=0.01))
    async with hearing(worker):
        await until_listening(runtime)
    assert not errors


async def test_hints_go_on_after_the_database_was_away(store: tuple[Runtime, str], postgres: str) -> None:
    serve, worker = process(*store), process(*store)
    async with hearing(worker), ringing(serve):
        await until_listening(serve)
        async with unreachable(postgres, store[1]):
            with pytest.raises(StoreError):
                await serve.bell.ring("otp")
            serve.hints.webhooks.set()  # this one is lost, without harm
        await until_listening(serve)
        serve.hints.webhooks.set()
        async with asyncio.timeout(60):
            await worker.hints.webhooks.wait()


async def test_what_a_newer_version_rings_for_is_passed_over(store: tuple[Runtime, str]) -> None:
    worker = process(*store)
    async with hearing(worker):
        await until_listening(worker)
        await worker.bell.ring("coffee")
        await worker.bell.ring("otp")
        async with asyncio.timeout(60):
            await worker.hints.lanes[Traffic.OTP].wait()
        assert not worker.hints.webhooks.is_set()
