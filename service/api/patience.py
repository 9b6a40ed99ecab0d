"""Waiting until a deadline, where there is mostly nothing to wait for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


async def at_once_or_by(ends_s: float, awaited: Awaitable[Result]) -> Result:
    """What `awaited` comes to. A timer is set only where that is not known at once: each costs 5 % of an accept.

    Raises:
        TimeoutError: it was not known at `ends_s` (by the loop's clock).
    """
    steps = awaited.__await__()
    try:
        waits_for = next(steps)
    except StopIteration as ended:
        result: Result = ended.value
        return result
    async with asyncio.timeout_at(ends_s):
        return await _rest(steps, waits_for)


@types.coroutine
def _rest(steps: Generator[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    """What comes of `steps`, of which the first was taken: it waits for `waits_for`."""
    try:
        yield waits_for
    except BaseException:
        steps.close()
        raise
    return (yield from steps)
