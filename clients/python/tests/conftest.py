"""A gateway with two simulated providers, and both clients: each test of their behaviour runs with either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, cast

import pytest
from proxy import Proxy
from sms_gateway_client import AsyncSmsGateway, SmsGateway

from tests.conftest import postgres, template
from tests.gateway import make_key, migrated_database
from tests.journeys.world import World, a_world

__all__ = ["postgres", "template"]


class Clock:
    """Time that passes only by waiting. `during` is what happens in a pause."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.during: Callable[[], Awaitable[object]] | None = None
        self._loop = asyncio.get_running_loop()

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now_s += pause_s
        if self.during is not None:
            await self.during()

    def sleep_in_a_thread(self, pause_s: float) -> None:
        asyncio.run_coroutine_threadsafe(self.sleep(pause_s), self._loop).result(60)


class InThread:
    """The sync client with awaitable methods: here the gateway runs in the loop, which must not be blocked."""

    def __init__(self, sms: SmsGateway) -> None:
        self._sms = sms

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return lambda *given, **named: asyncio.to_thread(getattr(self._sms, name), *given, **named)


class Connect(Protocol):
    """Makes a client, sync or async, which is closed at the end of the test."""

    def __call__(self, url: str | None = None, key: str | None = None, **settings: Any) -> AsyncSmsGateway: ...


@pytest.fixture(scope="session")
async def world(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("world")
    async with migrated_database(postgres, template) as dsn, a_world(dsn, folder) as world:
        yield world


@pytest.fixture(scope="session")
def url(world: World) -> str:
    return str(world.http.base_url)


@pytest.fixture(scope="session")
async def key(world: World) -> str:
    return await make_key(world.runtime, "send", "hlr", "read")


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    async with Proxy(url) as proxy:
        yield proxy


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest, url: str, key: str, clock: Clock) -> AsyncIterator[Connect]:
    opened: list[SmsGateway | AsyncSmsGateway] = []
    default_url, default_key = url, key

    def connect(url: str | None = None, key: str | None = None, **settings: Any) -> AsyncSmsGateway:
        given = {"base_url": url or default_url, "api_key": key or default_key, "monotonic": clock.monotonic}
        if request.param == "async":
            sms = AsyncSmsGateway(**{**given, "sleep": clock.sleep, **settings})
            opened.append(sms)
            return sms
        blocking = SmsGateway(**{**given, "sleep": clock.sleep_in_a_thread, **settings})
        opened.append(blocking)
        return cast("AsyncSmsGateway", InThread(blocking))

    yield connect
    for sms in opened:
        if isinstance(sms, SmsGateway):
            sms.close()
        else:
            await sms.aclose()


@pytest.fixture
def sms(connect: Connect) -> AsyncSmsGateway:
    return connect()
