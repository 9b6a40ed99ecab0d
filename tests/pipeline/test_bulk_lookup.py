"""HLR for a bulk: the numbers of a campaign are looked up side by side, not one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import httpx
import orjson
import pytest

from service.domain.hlr import HlrStatus
from service.environment import Environment
from service.http import Transport
from service.pipeline.lookup import Lookup
from service.runtime import Runtime
from tests.gateway import migrated_database, open_gateway

AT_ONCE = 40
CONFIG = """
providers: {primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}}
senders: {MyAppPromo: {traffic: marketing}}
routes: [{providers: [primary], hlr: required}]
hlr: {provider: primary, cost: 0.25}
"""


class AllOrNobody:
    """A transport that answers when so many look-ups are on their way together, and not before."""

    def __init__(self) -> None:
        self._together = asyncio.Barrier(AT_ONCE)

    async def send(self, request: httpx.Request, *, timeout_s: float) -> httpx.Response:
        number = request.url.path.rpartition("/")[2]
        async with asyncio.timeout(timeout_s):
            await self._together.wait()
        content = orjson.dumps({"number": number, "status": "active"})
        return httpx.Response(200, content=content, headers={"content-type": "application/json"}, request=request)


@pytest.fixture
async def runtime(postgres: str, template: str) -> AsyncIterator[Runtime]:
    async with migrated_database(postgres, template) as dsn, open_gateway(CONFIG, dsn, Environment()) as opened:
        yield replace(opened, lookup_http=cast("Transport", AllOrNobody()))


async def test_forty_numbers_are_looked_up_at_once_and_each_costs_once(runtime: Runtime) -> None:
    lookup = Lookup(runtime)
    numbers = [f"+155555501{number:02}" for number in range(AT_ONCE)]
    results = await asyncio.gather(*(lookup.live(number, budget_s=5) for number in numbers for _ in range(2)))
    assert {result.status for result in results if result} == {HlrStatus.ACTIVE}
    assert len([result for result in results if result]) == 2 * AT_ONCE
    assert runtime.metrics.registry.get_sample_value("sms_gateway_hlr_cost_total") == AT_ONCE * 0.25
