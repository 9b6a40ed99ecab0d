"""Another `gateway.yaml` in a running process, at SIGHUP.

The process then has a new generation: a runtime under the new file, and a worker on it where it works. It begins before
the old one ends, so nothing waits for it; the old one takes nothing new and finishes what it has begun.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

from service.errors import ConfigurationError, StoreError
from service.pipeline.worker import working
from service.runtime import Runtime, reopen_runtime
from service.settings import GatewayConfig

log = logging.getLogger(__name__)

_REQUESTS_S: Final = 30.0
"""Longer than any request takes: a body may come for 20 s, a test event to a webhook may take 15 s."""

ReadConfig = Callable[[], GatewayConfig]
Turn = Callable[[Runtime], Awaitable[None]]


class _Generation:
    """What lives under one `gateway.yaml`, in a task of its own."""

    def __init__(self, opening: AbstractAsyncContextManager[Runtime], *, work: bool) -> None:
        self.runtime: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._live(opening, work=work))

    async def _live(self, opening: AbstractAsyncContextManager[Runtime], *, work: bool) -> None:
        async with opening as runtime:
            async with working(runtime) if work else nullcontext():
                self.runtime.set_result(runtime)
                await self._leave.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_REQUESTS_S):
                    await self._end.wait()

    async def up(self) -> Runtime:
        """Its runtime, once it works.

        Raises:
            ConfigurationError | StoreError: it cannot.
        """
        waited: set[asyncio.Future[Any]] = {self.task, self.runtime}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self.runtime.done():
            await self.task
        return self.runtime.result()

    def leave(self) -> None:
        """Take nothing new, finish what was begun, and end once requests that are inside are through."""
        self._leave.set()

    def end(self) -> None:
        """The same where no request is inside any more."""
        self._leave.set()
        self._end.set()


class Generations:
    """The present generation, and those before it that have not quite ended. `turn` gives the API a new runtime."""

    def __init__(self, base: Runtime, *, work: bool, turn: Turn) -> None:
        self._base = base
        self._work = work
        self._turn = turn
        self._owner = asyncio.current_task()
        self._present: _Generation | None = None
        self._living: dict[asyncio.Task[None], _Generation] = {}

    async def begin(self) -> None:
        """The first generation, under the settings of the start."""
        self._present = await self._new(nullcontext(self._base))

    async def follow(self, config: GatewayConfig) -> None:
        """Go on under another `gateway.yaml`.

        Raises:
            ConfigurationError | StoreError: that cannot be; all stays as it was.
        """
        new = await self._new(reopen_runtime(self._base, config))
        try:
            await self._turn(new.runtime.result())
        except BaseException:
            new.leave()
            raise
        old, self._present = self._present, new
        if old is not None:
            old.leave()
        if new.task.done() and self._owner is not None:  # it broke while the API was turned to it
            self._owner.cancel("a worker loop ended")

    async def _new(self, opening: AbstractAsyncContextManager[Runtime]) -> _Generation:
        generation = _Generation(opening, work=self._work)
        self._living[generation.task] = generation
        try:
            await generation.up()
        except BaseException:
            generation.task.cancel()
            await asyncio.wait({generation.task})
            del self._living[generation.task]
            raise
        generation.task.add_done_callback(self._ended)
        return generation

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._living[task]
        present = self._present is not None and self._present.task is task
        if present and self._owner is not None:
            self._owner.cancel("a worker loop ended")
        elif not task.cancelled() and task.exception() is not None:
            log.error("what lived under an earlier gateway.yaml ended early", exc_info=task.exception())

    async def end(self) -> None:
        """End them all. Being cancelled meanwhile hurries each part on, but leaves none out."""
        self._present = None
        for generation in self._living.values():
            generation.end()
        cancelled: asyncio.CancelledError | None = None
        while self._living:
            try:
                await asyncio.wait(self._living)
            except asyncio.CancelledError as error:
                cancelled = error
                for task in self._living:
                    task.cancel()
        if cancelled is not None:
            raise cancelled


@dataclass(frozen=True, slots=True)
class Reloads:
    """`asked` is set by SIGHUP; `read` reads `gateway.yaml`."""

    asked: asyncio.Event
    read: ReadConfig


@contextmanager
def at_sighup(read: ReadConfig) -> Iterator[Reloads]:
    """Listen to SIGHUP: from before the file is first read, so that no signal is lost, until the process ends.

    Without a handler the signal would kill what still starts, or is being drained.
    """
    reloads = Reloads(asyncio.Event(), read)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reloads.asked.set)
    try:
        yield reloads
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@asynccontextmanager
async def generations(base: Runtime, *, work: bool, turn: Turn, reloads: Reloads | None) -> AsyncIterator[None]:
    """Work under the settings of `base` while the body runs; with `reloads`, at SIGHUP under what is read then."""
    living = Generations(base, work=work, turn=turn)
    await living.begin()
    following = asyncio.create_task(_follow(living, reloads)) if reloads is not None else None
    try:
        yield
    finally:
        if following is not None:
            following.cancel()
            await asyncio.wait({following})
        await living.end()


async def _follow(living: Generations, reloads: Reloads) -> None:
    while True:
        await reloads.asked.wait()
        reloads.asked.clear()
        try:
            await living.follow(await asyncio.to_thread(reloads.read))
        except (ConfigurationError, StoreError) as error:
            log.error("not reloaded: all stays as it was", extra={"error": str(error)})  # noqa: TRY400 - its text says all
        except Exception:
            log.exception("not reloaded: all stays as it was")
        else:
            log.info("reloaded")
