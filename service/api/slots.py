"""Places for requests that cost much: so many are worked on, a few more wait a little, the next is turned away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.api.problems import of_store
from service.errors import Problem, StoreOverloaded


def overloaded() -> Problem:
    """503 for those who must come again later."""
    return of_store(StoreOverloaded("no place is free"))


class Slots:
    """`at_once` requests are worked on at a time; `waiting` more wait for that, each `patience_s` at most."""

    def __init__(self, at_once: int, *, waiting: int, patience_s: float) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._places = at_once + waiting
        self._patience_s = patience_s

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, before anything of the request is read.

        Raises:
            Problem: 503 at once, where there is none.
        """
        if self._places == 0:
            raise overloaded()
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait to be one of those who are worked on.

        Raises:
            Problem: 503, where that takes too long.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turns.acquire()
        except TimeoutError:
            raise overloaded() from None
        try:
            yield
        finally:
            self._turns.release()
