"""The worker: every background loop under one lease, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from service.environment import WEBHOOKS
from service.pipeline.deliver import Deliver
from service.pipeline.lease import Lease
from service.pipeline.lookup import Lookup
from service.pipeline.notify import Notify
from service.pipeline.receive import Receive
from service.pipeline.recover import Recover
from service.pipeline.screen import Screen
from service.pipeline.submit import Submit
from service.runtime import Runtime

log = logging.getLogger(__name__)

_LAST_COUNTS_S: Final = 1.0


@asynccontextmanager
async def working(runtime: Runtime) -> AsyncIterator[None]:
    """Deliver, notify and recover while the body runs.

    At the end claims stop first; calls to providers and webhooks that are under way get `drain_s` to end and be
    settled; then the lease is given back, and what was counted last is shared if that takes no longer than 1 s.
    """
    lease = Lease(runtime)
    lookup = Lookup(runtime)
    submit = Submit(runtime)
    deliver = Deliver(runtime, lease, Screen(runtime, lookup), submit)
    notify = Notify(runtime, lease)
    recover = Recover(runtime, lease, deliver, Receive(runtime, lookup), notify)
    await submit.health.follow_pauses()  # both before the first claim
    await submit.health.sync()
    await lease.begin()
    keeping = asyncio.create_task(lease.keep())
    work = set(runtime.settings.environment.work)
    runs = [recover.run(), submit.health.keep()]
    if work - {WEBHOOKS}:
        runs.append(deliver.run())
    if WEBHOOKS in work:
        runs.append(notify.run())
    loops = [asyncio.create_task(run) for run in runs]
    body = asyncio.current_task()
    assert body is not None  # noqa: S101 - a context manager is entered by a task
    for loop in (keeping, *loops):
        loop.add_done_callback(lambda ended: None if ended.cancelled() else body.cancel("a worker loop ended"))
    try:
        yield
    finally:
        await _end(loops)
        drain_s = runtime.settings.environment.drain_s
        await asyncio.gather(deliver.drain(drain_s), notify.drain(drain_s))
        await _end([keeping])
        submit.health.hide()
        await lease.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_COUNTS_S):
                await submit.health.close()


async def _end(loops: list[asyncio.Task[None]]) -> None:
    for loop in loops:
        loop.cancel()
    for ended in await asyncio.gather(*loops, return_exceptions=True):
        if isinstance(ended, Exception):
            log.error("a worker loop ended", exc_info=ended)
