"""A table in memory, kept up by what changes in it. See docs/decisions/0015-keys-by-change.md."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from asyncpg import Record

from service.errors import CommitUnknown, StoreError, StoreOverloaded
from service.storage.batch import Batcher
from service.storage.database import Database
from service.storage.sql import queries

log = logging.getLogger(__name__)

_PAGE: Final = 250
"""How many rows are read at once, so that the event loop is held for some milliseconds at most."""
_PASS_EVERY_S: Final = 300.0
_LOOK_UP_EVERY_S: Final = 0.1
_LOOK_UP_PATIENCE_S: Final = 1.0
_LOOKED_UP_WAITING: Final = 5_000
_BEFORE_ALL: Final = UUID(int=0)

Key = TypeVar("Key")
Row = TypeVar("Row")


class Snapshot(Generic[Key, Row]):
    """The living rows of a table by their keys, as of the last `follow`.

    `rows` is their query, with the columns `id`, `key`, `changed_xid` and `ended`; `read` makes of a record what is
    kept. Changes are found by the transactions that made them. Every five minutes all is read beside, page by page: so
    what came another way is found too, by a restored backup or by SQL that deletes. A failed reading changes nothing.
    """

    def __init__(
        self,
        database: Database,
        rows: str,
        read: Callable[[Record], Row],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._sql = {name: query.format(rows=rows) for name, query in queries("changes").items()}
        self._read = read
        self._clock = clock
        self._rows: dict[Key, Row] = {}
        self._seen: str | None = None
        """PostgreSQL's snapshot of the last reading."""
        self._turn = asyncio.Lock()
        """Or what one statement read would be kept over what a later one did."""
        self._passing: asyncio.Task[None] | None = None
        self._pass_at_s = -math.inf
        self._look_ups: Batcher[Key, Row | None] = Batcher(
            self._look_up,
            max_batch=_PAGE,
            max_waiting=_LOOKED_UP_WAITING,
            every_s=_LOOK_UP_EVERY_S,
            patience_s=_LOOK_UP_PATIENCE_S,
        )

    def __len__(self) -> int:
        return len(self._rows)

    async def find(self, key: Key) -> Row | None:
        """The row of that key. One that is not in memory is looked up, with others together and every 100 ms at most.

        Raises:
            StoreOverloaded: it is not in memory, and the database does not answer within a second.
        """
        found = self._rows.get(key)
        if found is not None:
            return found
        try:
            return await self._look_ups.submit(key)
        except CommitUnknown as error:  # what reads stores nothing
            raise StoreOverloaded(str(error)) from error

    async def follow(self) -> None:
        """Read what has changed.

        Raises:
            StoreError: it could not be read.
        """
        async with self._turn:
            before = self._seen
            self._seen = await (self._present() if before is None else self._changes(before, self._rows))
        now_s = self._clock()
        if _went_back(before, self._seen):
            self._pass_at_s = min(self._pass_at_s, now_s)
        if now_s >= self._pass_at_s and (self._passing is None or self._passing.done()):
            self._passing = asyncio.create_task(self._pass())

    async def fill(self) -> None:
        """The same, and wait for the first full pass.

        Raises:
            StoreError: it could not be read.
        """
        await self.follow()
        if self._pass_at_s == -math.inf and self._passing is not None:
            await asyncio.shield(self._passing)
            if self._pass_at_s == -math.inf:
                raise StoreOverloaded("a table could not be read")

    async def _pass(self) -> None:
        try:
            await self._read_all()
        except StoreError as error:  # begun again by the next `follow`
            log.warning("a table could not be read in full", extra={"error": str(error)})

    async def _read_all(self) -> None:
        fresh: dict[Key, Row] = {}
        began = await self._present()
        after = _BEFORE_ALL
        while page := await self._database.fetch(self._sql["page"], after, _PAGE):
            for record in page:
                self._keep(record, fresh)
            after = page[-1]["id"]
        async with self._turn:
            now = await self._changes(began, fresh)
            if _went_back(began, now):
                return
            self._rows, self._seen = fresh, now
            self._pass_at_s = self._clock() + _PASS_EVERY_S

    async def _present(self) -> str:
        present: str = (await self._database.fetch(self._sql["present"]))[0][0]
        return present

    async def _changes(self, since: str, rows: dict[Key, Row]) -> str:
        """Bring `rows` from the snapshot `since` to the present one, which is returned."""
        snapshot: str | None = None
        xid, row_id = _xmin(since), _BEFORE_ALL
        while True:
            page = await self._database.fetch(self._sql["changed"], since, xid, row_id, _PAGE)
            # That of the first page: what the others see besides is seen again.
            snapshot = snapshot or page[0]["snapshot"]
            for record in page:
                if record["ended"]:
                    rows.pop(record["key"], None)
                elif record["id"] is not None:
                    self._keep(record, rows)
            if len(page) < _PAGE:
                return snapshot
            xid, row_id = page[-1]["changed_xid"], page[-1]["id"]

    async def _look_up(self, keys: Sequence[Key]) -> list[Row | None]:
        async with self._turn:
            if self._seen is None:  # first: else what changes after the look-up would not be read
                self._seen = await self._present()
            for record in await self._database.fetch(self._sql["by_key"], list(set(keys))):
                self._keep(record, self._rows)
        return [self._rows.get(key) for key in keys]

    def _keep(self, record: Any, rows: dict[Key, Row]) -> None:
        """As the same object where it is the same: a full pass then needs little memory."""
        row, known = self._read(record), self._rows.get(record["key"])
        rows[record["key"]] = row if known is None or known != row else known


def _went_back(before: str | None, now: str) -> bool:
    """Whether the server has forgotten transactions: a backup was restored, or a standby had not heard of all."""
    return before is not None and _xmin(now) < _xmin(before)


def _xmin(snapshot: str) -> int:
    """The oldest transaction that was running."""
    return int(snapshot.partition(":")[0])
