"""Group commit: many callers wait, one statement stores for all of them.

A commit costs a disk flush whether it holds one row or five hundred. While one batch is on its way, those that come
meanwhile gather for the next, so batches grow with the load and a lone caller does not wait for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from service.errors import StoreOverloaded, Unstorable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_DEADLOCK = "40P01"
_DEADLOCK_TRIES = 5


class Batcher(Generic[Item, Answer]):
    """Gathers items and hands them to `run` in batches, sorted by `lock_key`.

    `run` gets a batch and returns one answer for each item, in order; it must be one transaction. Two batches that lock
    the same rows in different orders deadlock, so every batch is sorted. `flights` batches run at once at most. When
    `max_waiting` items wait already, a new one is turned away: a queue that only grows helps nobody.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        lock_key: Callable[[Item], Any] | None = None,
        max_batch: int = 500,
        max_waiting: int = 20_000,
        flights: int = 1,
    ) -> None:
        self._run = run
        self._lock_key = lock_key
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_flights = flights
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flights: set[asyncio.Task[None] | None] = set()

    async def submit(self, item: Item) -> Answer:
        """Store `item` with whatever else is waiting and return its answer.

        Raises:
            StoreOverloaded: nothing was stored.
            CommitUnknown: it may have been stored.
            Unstorable: PostgreSQL refused this item's data; the others of the batch are not harmed.
        """
        if len(self._waiting) >= self._max_waiting:
            raise StoreOverloaded("too many statements are waiting")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if len(self._flights) < self._max_flights:
            self._flights.add(asyncio.create_task(self._drain()))
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
                if self._lock_key is not None:
                    key = self._lock_key
                    batch.sort(key=lambda entry: key(entry[0]))
                await self._store(batch)
        finally:
            # Here and not in a done callback: that runs after the callers just answered, whose next items would then
            # find a flight that no longer looks.
            self._flights.discard(asyncio.current_task())

    async def _store(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._run_through_deadlocks([item for item, _ in batch])
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
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _run_through_deadlocks(self, items: list[Item]) -> Sequence[Answer]:
        for _ in range(_DEADLOCK_TRIES - 1):
            try:
                return await self._run(items)
            except StoreOverloaded as error:
                if getattr(error.__cause__, "sqlstate", None) != _DEADLOCK:
                    raise
        return await self._run(items)


def _fail(batch: list[tuple[Item, asyncio.Future[Answer]]], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
