from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from service.app import create_app
from service.environment import Environment
from service.runtime import Runtime
from tests.api.client import CONFIG, GatewayClient
from tests.gateway import make_key, migrated_database, migrated_template, open_gateway, serve


@pytest.fixture(scope="session")
async def template(postgres: str) -> str:
    """The name of a migrated database."""
    return await migrated_template(postgres)


@pytest.fixture(scope="module")
async def dsn(postgres: str, template: str) -> AsyncIterator[str]:
    """A fresh database for the module."""
    async with migrated_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture(scope="module")
async def runtime(dsn: str) -> AsyncIterator[Runtime]:
    async with open_gateway(CONFIG, dsn, Environment(public_url="https://sms.example.com/base")) as runtime:
        yield runtime


@pytest.fixture(scope="module")
async def base_url(runtime: Runtime) -> AsyncIterator[str]:
    async with serve(create_app(runtime)) as url:
        yield url


@pytest.fixture(scope="module")
async def api(runtime: Runtime, base_url: str) -> AsyncIterator[GatewayClient]:
    """A client with every scope."""
    key = await make_key(runtime, "send", "read", "hlr")
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        yield GatewayClient(http)
