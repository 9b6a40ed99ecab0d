from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from service.environment import Environment
from service.providers.adapter import Capabilities
from service.runtime import Runtime, open_runtime
from service.settings import Settings
from tests import rows
from tests.gateway import SECRET_KEY, migrated_database, migrated_template
from tests.listener import Listener
from tests.pipeline.world import SECRET, WITH_KEY, World, config

MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture(scope="package")
async def base(postgres: str) -> AsyncIterator[Runtime]:
    """A runtime on a database of its own, shared by the tests of this folder."""
    async with migrated_database(postgres, await migrated_template(postgres)) as dsn:
        environment = Environment(database_url=dsn, secret_key=SECRET_KEY, public_url="https://sms.example", drain_s=5)
        async with open_runtime(Settings(environment, config())) as runtime:
            yield runtime


@pytest.fixture
async def make_world(base: Runtime) -> AsyncIterator[MakeWorld]:
    """Makes worlds on the emptied database; several are workers side by side."""
    await rows.empty(base.database)
    client_id = await rows.a_client(base.database, sealed_secret=base.keyring.seal(SECRET))
    async with AsyncExitStack() as stack:

        async def make(capabilities: Capabilities = WITH_KEY, **sections: Any) -> World:
            world = World(base, client_id, config(**sections), capabilities)
            stack.push_async_callback(world.http.aclose)
            await world.lease.begin()
            return world

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """One worker with two providers that know idempotency keys."""
    return await make_world()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as listener:
        yield listener
