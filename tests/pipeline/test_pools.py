"""Who shares connections with whom: nobody who is slow takes those of anybody else."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from service.errors import MaybeSent
from service.http import Transport
from service.pipeline.trial import try_endpoint
from service.runtime import Runtime, reopen_runtime
from service.storage.endpoints import Endpoint
from tests.http.raw_server import OK, Server, hang, post, serving
from tests.pipeline.world import SECRET, config

_MANY = 600
"""More than all providers together once had."""


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """Each call of these takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def runtime(base: Runtime) -> AsyncIterator[Runtime]:
    few = config(webhooks={"concurrency": 2}, hlr={"provider": "primary"})
    async with reopen_runtime(base, few) as runtime:
        yield runtime


@asynccontextmanager
async def _hanging(server: Server, transport: Transport, calls: int) -> AsyncIterator[None]:
    """So many calls are under way that get no answer."""
    under_way = [
        asyncio.create_task(transport.send(post(server.url), timeout_s=120, connect_timeout_s=60)) for _ in range(calls)
    ]
    try:
        async with asyncio.timeout(60):
            while len(server.requests) < calls:
                server.requested.clear()
                await server.requested.wait()
        yield
    finally:
        for one in under_way:
            one.cancel()
        await asyncio.wait(under_way)


async def test_a_slow_provider_takes_no_connection_from_another_nor_from_look_ups(runtime: Runtime) -> None:
    slow, other = runtime.provider_http["primary"], runtime.provider_http["fallback"]
    async with serving(then=hang) as hanging, serving(OK, OK) as quick, _hanging(hanging, slow, _MANY):
        for unhindered in (other, runtime.lookup_http):
            assert (await unhindered.send(post(quick.url), timeout_s=10)).content == b"ok"


async def test_slow_look_ups_take_no_connection_from_the_messages_of_their_account(runtime: Runtime) -> None:
    async with serving(then=hang) as hanging, serving(OK) as quick, _hanging(hanging, runtime.lookup_http, _MANY):
        account = runtime.provider_http["primary"]
        assert (await account.send(post(quick.url), timeout_s=10)).content == b"ok"


async def test_webhooks_take_no_connection_from_a_trial_nor_trials_from_webhooks(runtime: Runtime) -> None:
    def endpoint(server: Server) -> Endpoint:
        sealed = runtime.keyring.seal(SECRET)
        return Endpoint(uuid4(), server.url, None, sealed, None, None, datetime.now(UTC), None, None)

    async with serving(then=hang) as hanging, serving(OK, OK) as quick:
        async with _hanging(hanging, runtime.webhook_http, 2):
            assert (await try_endpoint(runtime, endpoint(quick))).delivered
        trials = [asyncio.create_task(try_endpoint(runtime, endpoint(hanging))) for _ in range(2)]
        async with asyncio.timeout(30):
            while len(hanging.requests) < 4:
                hanging.requested.clear()
                await hanging.requested.wait()
        assert (await runtime.webhook_http.send(post(quick.url), timeout_s=10)).status_code == 200
        for trial in trials:
            trial.cancel()
        await asyncio.wait(trials)


async def test_as_many_webhooks_as_are_allowed_have_a_connection_each(base: Runtime) -> None:
    many = config(webhooks={"concurrency": 300})
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(reopen_runtime(base, many))
        hanging = await stack.enter_async_context(serving(then=hang))
        await stack.enter_async_context(_hanging(hanging, runtime.webhook_http, 300))
        assert hanging.connections == 300


async def test_much_is_read_of_nobody(runtime: Runtime) -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    async with serving(large) as server:
        for transport in (*runtime.provider_http.values(), runtime.lookup_http):
            with pytest.raises(MaybeSent, match="ReplyTooLarge"):
                await transport.send(post(server.url), timeout_s=30)
        for transport in (runtime.webhook_http, runtime.trial_http):
            assert (await transport.send(post(server.url), timeout_s=30)).content == b""
