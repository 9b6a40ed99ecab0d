"""Places and turns, so that what is asked for at once is bounded and no client takes what is there for the others.

A place is room in this process: whoever finds none is turned away at once. A turn is work that only so many do at a
time: whoever has none waits a little for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final

from service.api.problems import of_store
from service.errors import Problem, StoreOverloaded


def overloaded() -> Problem:
    """503 for those who must come again later, because too much is asked of the process."""
    return of_store(StoreOverloaded("no place is free"))


def too_many_at_once() -> Problem:
    """429 for a client who asks for too much itself: others still get in."""
    return Problem(
        429,
        "too_many_at_once",
        "This client has too many requests at once. Wait for their answers, then repeat. Nothing was stored.",
        headers={"Retry-After": "1"},
    )


_MOST_REST_S: Final = 0.5


class Places:
    """`most` requests at once, shared by those who ask.

    One may take another place while it holds fewer than are free: the dynamic threshold of switches with a shared
    buffer (Choudhury and Hahne 1998, alpha = 1). So one alone has at most half, two that are full a third each, and
    whoever has none finds some. `beyond_share` is what one hears who has places and gets no more.
    """

    def __init__(self, most: int, beyond_share: Callable[[], Problem] = too_many_at_once) -> None:
        self._free = most
        self._held: dict[Hashable, int] = {}
        self._beyond_share = beyond_share

    @property
    def taken(self) -> int:
        """How many are taken."""
        return sum(self._held.values())

    def of(self, holder: Hashable) -> Share:
        """What `holder` takes its places by, as a context."""
        return Share(self, holder)

    def take(self, holder: Hashable) -> None:
        """Take a place.

        Raises:
            Problem: 503 where none is free, 429 (`beyond_share`) where those that are free are left for others.
        """
        held = self._held.get(holder, 0)
        if held >= self._free:
            raise self._beyond_share() if held else overloaded()
        self._free -= 1
        self._held[holder] = held + 1

    def give_back(self, holder: Hashable) -> None:
        """Give a place back."""
        self._free += 1
        held = self._held.pop(holder) - 1
        if held:
            self._held[holder] = held


class Share:
    """A place while the body runs. Raises as `Places.take` does."""

    __slots__ = ("_holder", "_places")

    def __init__(self, places: Places, holder: Hashable) -> None:
        self._places = places
        self._holder = holder

    def __enter__(self) -> None:
        self._places.take(self._holder)

    def __exit__(self, *_: object) -> None:
        self._places.give_back(self._holder)


class Turns:
    """`at_once` are worked on at a time, `each` of one holder; the others wait `patience_s` at most.

    Who waits comes in rounds over the holders, so that a long queue of one delays nobody else. Bound by places how many
    wait. After its work a turn rests for `rest` times as long as that took: work that computes is so kept to a part of
    the event loop's time.
    """

    def __init__(self, at_once: int, *, each: int, patience_s: float, rest: float = 0.0) -> None:
        self._free = at_once
        self._each = each
        self._patience_s = patience_s
        self._rest = rest
        self._working: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """In the order in which the holders come."""

    @asynccontextmanager
    async def turn(self, holder: Hashable) -> AsyncIterator[None]:
        """Wait to be one of those who are worked on.

        Raises:
            Problem: that takes too long: 429 where the holder's own requests are worked on, else 503.
        """
        if self._may_begin(holder):
            self._begin(holder)
        else:
            await self._wait(holder)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            yield
        finally:
            if self._rest:
                # No more, where it was the database that took so long.
                rest_s = min(self._rest * (loop.time() - began_s), _MOST_REST_S)
                loop.call_later(rest_s, self._end, holder)
            else:
                self._end(holder)

    def _may_begin(self, holder: Hashable) -> bool:
        return self._free > 0 and self._working.get(holder, 0) < self._each

    def _begin(self, holder: Hashable) -> None:
        self._free -= 1
        self._working[holder] = self._working.get(holder, 0) + 1

    async def _wait(self, holder: Hashable) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(holder, deque()).append(called)
        try:
            async with asyncio.timeout(self._patience_s):
                await called
        except BaseException as error:
            self._leave(holder, called)
            if isinstance(error, TimeoutError):
                raise too_many_at_once() if self._working.get(holder, 0) >= self._each else overloaded() from None
            raise

    def _leave(self, holder: Hashable, called: asyncio.Future[None]) -> None:
        if not called.cancelled():  # its turn came in the moment in which it gave up
            self._end(holder)
            return
        queue = self._waiting.get(holder, deque())
        if called in queue:
            queue.remove(called)
        if not queue:
            self._waiting.pop(holder, None)

    def _end(self, holder: Hashable) -> None:
        self._free += 1
        working = self._working.pop(holder) - 1
        if working:
            self._working[holder] = working
        while (following := next((each for each in self._waiting if self._may_begin(each)), None)) is not None:
            queue = self._waiting.pop(following)
            called = queue.popleft()
            if queue:
                self._waiting[following] = queue  # behind the others
            if not called.cancelled():
                self._begin(following)
                called.set_result(None)
