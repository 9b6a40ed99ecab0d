"""Group commit: many callers wait, one statement stores for all of them.

A commit costs a disk flush whether it holds one row or five hundred. While one batch is on its way, those that come
meanwhile gather for the next, so batches grow with the load and a lone caller does not wait for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final, Generic, TypeVar

from service.domain.message import Traffic
from service.errors import CommitUnknown, StoreOverloaded, Unstorable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

PATIENCE_S: Final = 4.0
"""How long a caller of the API waits for a batch. Some requests need two, and many callers hang up after 10 s."""
TO_PROVIDER_EVERY_S: Final = {Traffic.OTP: 0.0, Traffic.TRANSACTIONAL: 0.005, Traffic.MARKETING: 0.02}
"""How soon one batch of a lane may follow another on the way to the provider. See docs/decisions/0014-company.md."""
UNHURRIED_S: Final = 0.04
"""The same for what is stored after the call: settlements, receipts, results of webhooks."""
SETTLE_EVERY_S: Final = {Traffic.OTP: 0.0, Traffic.TRANSACTIONAL: UNHURRIED_S, Traffic.MARKETING: UNHURRIED_S}
"""The same for settlements. An OTP may go on to the next provider after one."""
_LONG_S: Final = 0.005
_BACK_AT_ONCE: Final = 0.1
"""The part of `every_s` within which callers who go on one after another are back with their next items."""
_DEADLOCK = "40P01"
_DEADLOCK_TRIES = 5


class _Entry(Generic[Item, Answer]):
    """An item, the answer that its caller waits for, and since when (by the loop's clock)."""

    __slots__ = ("answer", "item", "since_s")

    def __init__(self, item: Item, answer: asyncio.Future[Answer], since_s: float) -> None:
        self.item = item
        self.answer = answer
        self.since_s = since_s


class Batcher(Generic[Item, Answer]):
    """Gathers items and hands them to `run` in batches, sorted by `lock_key`.

    `run` gets a batch and returns one answer for each item, in order; it must be one transaction. Two batches that lock
    the same rows in different orders deadlock, so every batch is sorted. `flights` batches run at once at most: the
    first for whoever comes, another where `crowd` items wait or one does for long, because a statement for few costs
    much of what one for many does. For the same reason each flight begins its batches no less than `every_s` apart.
    `serial` callers go on one after another: where as many as were just answered are back at once, no others are
    expected, and the next batch begins.
    When `max_waiting` items wait already, a new one is turned away: a queue that only grows helps nobody. A caller
    waits `patience_s` and at most a tenth longer (None: as long as it takes), even where
    PostgreSQL hangs.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        lock_key: Callable[[Item], Any] | None = None,
        max_batch: int = 500,
        max_waiting: int = 20_000,
        flights: int = 1,
        crowd: int = 1,
        every_s: float = 0.0,
        serial: bool = False,
        patience_s: float | None = None,
    ) -> None:
        self._run = run
        self._lock_key = lock_key
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_flights = flights
        self._crowd = crowd
        self._every_s = every_s
        self._serial = serial
        self._patience_s = patience_s
        self._waiting: deque[_Entry[Item, Answer]] = deque()
        self._flights: set[asyncio.Task[None] | None] = set()
        self._flying: list[list[_Entry[Item, Answer]]] = []
        self._look: asyncio.TimerHandle | None = None
        self._patrol: asyncio.TimerHandle | None = None

    async def submit(self, item: Item) -> Answer:
        """Store `item` with whatever else is waiting and return its answer.

        Raises:
            StoreOverloaded: nothing was stored.
            CommitUnknown: it may have been stored.
            Unstorable: PostgreSQL refused this item's data; the others of the batch are not harmed.
        """
        if len(self._waiting) >= self._max_waiting:
            raise StoreOverloaded("too many statements are waiting")
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Answer] = _Entry(item, loop.create_future(), loop.time())
        self._waiting.append(entry)
        self._take_off(loop)
        if self._patience_s is not None and self._look is None:
            self._look = loop.call_later(self._patience_s / 10, self._give_up, loop, self._patience_s)
        return await entry.answer

    def _give_up(self, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        """Tell those who have waited for too long. What still waits is not stored after this.

        One timer for all: one for each would cost a tenth of an accept.
        """
        since_s = loop.time() - patience_s
        late = "PostgreSQL did not answer in time"
        for batch in self._flying:
            _fail((entry for entry in batch if entry.since_s <= since_s), CommitUnknown(late))
        _fail(takewhile(lambda entry: entry.since_s <= since_s, self._waiting), StoreOverloaded(late))
        busy = self._waiting or self._flying
        self._look = loop.call_later(patience_s / 10, self._give_up, loop, patience_s) if busy else None

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting and self._worth(len(self._flights), began_s := loop.time()):
                if not (batch := self._next_batch()):
                    break
                self._flying.append(batch)
                try:
                    await self._store(batch)
                finally:
                    self._flying.remove(batch)
                # Also where nobody waits by now: who comes next waits for the rest of the time.
                if (rest_s := began_s + self._every_s - loop.time()) > 0:
                    await self._rest(len(batch), rest_s)
        finally:
            # Here and not in a done callback: that runs after the callers just answered, whose next items would then
            # find a flight that no longer looks.
            self._flights.discard(asyncio.current_task())
            if self._waiting and self._flights:
                self._take_off(loop)  # the other flight may hang, and nobody else looks

    async def _rest(self, answered: int, seconds: float) -> None:
        """Wait for company for so long at most."""
        if self._serial:
            at_once_s = min(seconds, self._every_s * _BACK_AT_ONCE)
            await asyncio.sleep(at_once_s)
            if len(self._waiting) >= answered:
                return
            seconds -= at_once_s
        await asyncio.sleep(seconds)

    def _take_off(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin another flight now, or look again when those who wait have waited for long."""
        if self._worth(len(self._flights) + 1, loop.time()):
            self._flights.add(asyncio.create_task(self._drain()))
        elif len(self._flights) < self._max_flights and self._patrol is None:
            self._patrol = loop.call_later(_LONG_S, self._look_again, loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._patrol = None
        if self._waiting:
            self._take_off(loop)

    def _worth(self, flights: int, now_s: float) -> bool:
        """Whether those who wait (there is one) need so many flights."""
        if flights <= 1:
            return True
        crowded = len(self._waiting) >= self._crowd or self._waiting[0].since_s < now_s - _LONG_S
        return flights <= self._max_flights and crowded

    def _next_batch(self) -> list[_Entry[Item, Answer]]:
        """Those who have waited longest, without those who have given up or left."""
        batch: list[_Entry[Item, Answer]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.popleft()
            if not entry.answer.done():
                batch.append(entry)
        if self._lock_key is not None:
            key = self._lock_key
            batch.sort(key=lambda entry: key(entry.item))
        return batch

    async def _store(self, batch: list[_Entry[Item, Answer]]) -> None:
        try:
            answers = await self._run_through_deadlocks([entry.item for entry in batch])
        except Unstorable as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One poisonous row must fail alone: halve until it is found.
            await self._store(batch[: len(batch) // 2])
            await self._store(batch[len(batch) // 2 :])
        except Exception as error:  # noqa: BLE001 - whatever happened, those who wait must hear of it
            _fail(batch, error)
        else:
            for entry, answer in zip(batch, answers, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(answer)

    async def _run_through_deadlocks(self, items: list[Item]) -> Sequence[Answer]:
        for _ in range(_DEADLOCK_TRIES - 1):
            try:
                return await self._run(items)
            except StoreOverloaded as error:
                if getattr(error.__cause__, "sqlstate", None) != _DEADLOCK:
                    raise
        return await self._run(items)


def by_lane(
    run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
    every_s: Mapping[Traffic, float],
    lock_key: Callable[[Item], Any] | None = None,
) -> dict[Traffic, Batcher[Item, Answer]]:
    """Batches of its own for each class of traffic, so that an OTP never waits for a campaign's."""
    return {lane: Batcher(run, lock_key=lock_key, every_s=seconds) for lane, seconds in every_s.items()}


def _fail(batch: Iterable[_Entry[Any, Any]], error: BaseException) -> None:
    for entry in batch:
        if not entry.answer.done():
            entry.answer.set_exception(error)
