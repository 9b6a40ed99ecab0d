"""Waiting until a deadline, where there is mostly nothing to wait for."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar, cast

Result = TypeVar("Result")


class Begun(Generic[Result]):
    """An awaitable whose first step was taken: either its result is known (`waits` is False), or it has to wait.

    One that waits must be awaited next, with `rest` or `by`, or given up with `close`: nothing else may be awaited
    before. Raises what that first step raises.
    """

    __slots__ = ("_result", "_steps", "_waits_for", "waits")

    def __init__(self, awaited: Awaitable[Result]) -> None:
        self._steps = awaited.__await__()
        self._result: Result | None = None
        self.waits = True
        try:
            self._waits_for = next(self._steps)
        except StopIteration as ended:
            self.waits, self._result = False, ended.value

    async def rest(self) -> Result:
        """What it comes to."""
        return await _rest(self._steps, self._waits_for) if self.waits else cast("Result", self._result)

    async def by(self, ends_s: float) -> Result:
        """What it comes to. A timer is set only where that is not known yet: each costs 5 % of an accept.

        Raises:
            TimeoutError: it was not known at `ends_s` (by the loop's clock).
        """
        if not self.waits:
            return cast("Result", self._result)
        async with asyncio.timeout_at(ends_s):
            return await _rest(self._steps, self._waits_for)

    def close(self) -> None:
        """Give it up: it runs its `finally`."""
        if self.waits:
            self._steps.close()


async def at_once_or_by(ends_s: float, awaited: Awaitable[Result]) -> Result:
    """What `awaited` comes to; see `Begun.by`."""
    return await Begun(awaited).by(ends_s)


@types.coroutine
def _rest(steps: Generator[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    """What comes of `steps`, of which the first was taken: it waits for `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001 - it is what `steps` waited for, or meant for them
            try:
                waits_for = steps.throw(error)
            except StopIteration as ended:
                return cast("Result", ended.value)
        else:
            return (yield from steps)
