"""Hints between processes: `serve` rings when it has stored work, and `worker` need not wait for its next poll."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from service.domain.message import Traffic
from service.errors import StoreError
from service.runtime import Hints, Runtime

log = logging.getLogger(__name__)

_WEBHOOKS = "webhooks"
_QUIET_S = 0.02
"""What is stored within this time of a hint shares the next one, so that a flood rings 50 times a second at most, for
OTPs 100 times. (A worker that has just found something new looks again by itself.)"""
_QUIET_OTP_S = 0.01


@asynccontextmanager
async def ringing(runtime: Runtime) -> AsyncIterator[None]:
    """Pass the hints of this process, which has no worker, on to those that have one, while the body runs."""
    async with _background(*(_ring(runtime, name, event) for name, event in _named(runtime.hints).items())):
        yield


@asynccontextmanager
async def hearing(runtime: Runtime) -> AsyncIterator[None]:
    """Take the hints of other processes while the body runs."""
    events = _named(runtime.hints)

    def heard(name: str) -> None:
        if name in events:  # a newer version may ring for what this one does not know
            events[name].set()

    async with _background(runtime.bell.listen(heard)):
        yield


def _named(hints: Hints) -> Mapping[str, asyncio.Event]:
    return {lane.value: event for lane, event in hints.lanes.items()} | {_WEBHOOKS: hints.webhooks}


async def _ring(runtime: Runtime, name: str, event: asyncio.Event) -> None:
    while True:
        await event.wait()
        event.clear()
        try:
            await runtime.bell.ring(name)
        except StoreError as error:
            log.info("a hint was lost", extra={"error": str(error)})
        await asyncio.sleep(_QUIET_OTP_S if name == Traffic.OTP.value else _QUIET_S)


@asynccontextmanager
async def _background(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                log.error("hints ended early; only polling was left", exc_info=ended)
