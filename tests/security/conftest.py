from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import httpx
import pytest
import uvloop

from service.app import create_app
from service.runtime import Runtime
from tests.api.client import CONFIG
from tests.gateway import make_key, migrated_database, open_gateway, serve

_OF_CONNECTIONS = {"test_wire.py", "test_wire_bounds.py", "test_places.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """`serve` runs on uvloop, and on asyncio where there is none: they differ in how connections end."""
    del config
    plain = {"asyncio": asyncio.new_event_loop}
    return plain | {"uvloop": uvloop.new_event_loop} if item.path.name in _OF_CONNECTIONS else plain


@pytest.fixture(scope="module")
async def dsn(postgres: str, template: str) -> AsyncIterator[str]:
    """A fresh database for the module."""
    async with migrated_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture(scope="module")
async def runtime(dsn: str) -> AsyncIterator[Runtime]:
    async with open_gateway(CONFIG, dsn) as runtime:
        yield runtime


@pytest.fixture(scope="module")
async def base_url(runtime: Runtime) -> AsyncIterator[str]:
    async with serve(create_app(runtime)) as url:
        yield url


async def _caller(runtime: Runtime, base_url: str, client: str) -> httpx.AsyncClient:
    key = await make_key(runtime, "send", "read", "hlr", "admin", client=client)
    return httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60)


@pytest.fixture(scope="module")
async def owner(runtime: Runtime, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client, with every scope."""
    async with await _caller(runtime, base_url, "owner") as http:
        yield http


@pytest.fixture(scope="module")
async def stranger(runtime: Runtime, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Another one, with every scope too."""
    async with await _caller(runtime, base_url, "stranger") as http:
        yield http
