"""A look-up that nobody waits for any more."""

from __future__ import annotations

import asyncio

from service.pipeline.lookup import Lookup
from service.runtime import Runtime
from tests.gateway import open_gateway
from tests.listener import Listener

NUMBER = "+15555550100"
HOURS_S = 10_000.0


def config(source: Listener) -> str:
    return f"""
providers: {{primary: {{adapter: smsroute, base_url: "{source.url}", api_key: key}}}}
senders: {{MyApp: {{traffic: transactional}}}}
routes: [{{providers: [primary]}}]
hlr: {{provider: primary, timeout_s: 30}}
"""


async def give_up(*asking: asyncio.Task[object]) -> None:
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)


async def on_their_way() -> int:
    await asyncio.sleep(0)
    return sum("Lookup._ask" in repr(task) for task in asyncio.all_tasks())


async def asked(runtime: Runtime, source: Listener, callers: int) -> tuple[Lookup, list[asyncio.Task[object]]]:
    lookup = Lookup(runtime)
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(lookup.live(NUMBER, HOURS_S)) for _ in range(callers)]
    await source.wait_for(1)
    return lookup, tasks


async def test_a_look_up_ends_when_all_who_asked_have_left(dsn: str) -> None:
    async with Listener() as source, open_gateway(config(source), dsn) as runtime:
        source.delay = HOURS_S
        lookup, callers = await asked(runtime, source, 3)
        await give_up(*callers[:2])
        assert await on_their_way() == 1
        await give_up(callers[2])
        assert await on_their_way() == 0
        source.delay, source.reply_status = 0.0, 500
        await lookup.live(NUMBER, HOURS_S)
        assert len(source.received) == 2


async def test_a_look_up_whose_budget_is_over_goes_on_for_whoever_asks_next(dsn: str) -> None:
    async with Listener() as source, open_gateway(config(source), dsn) as runtime:
        source.delay = HOURS_S
        lookup = Lookup(runtime)
        assert await lookup.live(NUMBER, 0.0) is None
        assert await on_their_way() == 1
