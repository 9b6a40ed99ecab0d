"""Removing what is past its time: texts by small batches, rows by dropping the partition of their month.

Nothing here is urgent, and the messages that travel come first: a change of tables that would have to wait for others
gives up after a fifth of a second, and the next round tries again. See docs/retention.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import UUID

from asyncpg import Record
from asyncpg import exceptions as pg

from service.domain.ids import smallest_at
from service.storage.database import Connection, Database
from service.storage.sql import queries

_SQL = queries("retention")
_TABLES: Final = ("messages", "attempts", "receipts", "batches", "webhook_deliveries")
"""In this order: what belongs to messages goes after them."""
_LOCK: Final = 0x534D5350
"""The advisory lock of whoever changes something here; beside that of migrations/env.py."""
_AT_ONCE: Final = 500
_BREATH_S: Final = 0.02
"""Between two batches, which leaves others most of the disk."""
_MUST_WAIT: Final = (pg.LockNotAvailableError, pg.QueryCanceledError)


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of one traffic that are to go. `oldest`: when the first of their messages ended."""

    traffic: str
    count: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Partition:
    """A month of one table whose time has come. `rows`: about how many. `in_use`: something in it has not ended."""

    table: str
    name: str
    month: date
    rows: int
    bytes: int
    in_use: bool = False


class Retention:
    """Removes texts `texts` (by traffic) after their messages' end, and rows `rows` after the month they were made in.

    Any number of processes may do so at once.
    """

    def __init__(self, database: Database, *, texts: Mapping[str, timedelta], rows: timedelta) -> None:
        self._database = database
        self._texts = texts
        self._rows = rows

    async def due_texts(self) -> list[Texts]:
        """What `purge_texts` would remove."""
        due = []
        for row in await self._due():
            found = await self._database.fetchrow(_SQL["count_texts"], row["traffic"], row["since"], row["until"])
            if found is not None and found["texts"]:
                due.append(Texts(row["traffic"], found["texts"], found["oldest"]))
        return due

    async def purge_texts(self, at_most: int) -> int:
        """Remove texts whose time has come, batch by batch, and stop after `at_most`; returns how many went."""
        purged = 0
        for row in await self._due():
            since = row["since"]
            while (since is None or since < row["until"]) and purged < at_most:
                step = await self._purge_batch(row["traffic"], since, row["until"])
                if step is None:
                    return purged
                since, count = step
                purged += count
                await asyncio.sleep(_BREATH_S)
        return purged

    async def _purge_batch(self, traffic: str, since: datetime | None, until: datetime) -> tuple[datetime, int] | None:
        """Returns how far it came and how many texts went; None while another process does the same."""
        async with self._database.writing() as connection, connection.transaction():
            if not await connection.fetchval(_SQL["one_at_a_time"], _LOCK):
                return None
            done = await connection.fetchrow(_SQL["purge_texts"], traffic, since, until, _AT_ONCE)
            assert done is not None  # noqa: S101 - an aggregate has a row
            reached: datetime = done["last"] if done["texts"] == _AT_ONCE else until
            await connection.execute(_SQL["texts_are_purged"], traffic, reached)
            return reached, done["texts"]

    async def _due(self) -> list[Record]:
        return await self._database.fetch(_SQL["texts_due"], list(self._texts), list(self._texts.values()))

    async def make_partitions(self) -> int:
        """Make what is missing for this month and the next; returns how many."""
        made = 0
        for row in await self._database.fetch(_SQL["missing_partitions"], _TABLES):
            parent, month = row["parent"], row["month"]

            async def make(connection: Connection, parent: str = parent, month: date = month) -> bool:
                if await _exists(connection, parent, month):
                    return False
                await connection.execute(_SQL["make_partition"], parent, month)
                return True

            made += await self._change(make)
        return made

    async def due_partitions(self) -> list[Partition]:
        """What `drop_partitions` would drop, and what it would not because it is in use."""
        due: list[Partition] = []
        kept: set[date] = set()
        async with self._database.reading() as connection:
            for row in await connection.fetch(_SQL["old_partitions"], _TABLES, self._rows):
                partition = Partition(**row)
                in_use = partition.month in kept
                if f"{partition.table}_in_use" in _SQL:
                    in_use = await _in_use(connection, partition)
                if in_use and partition.table == "messages":
                    kept.add(partition.month)
                due.append(replace(partition, in_use=in_use))
        return due

    async def drop_partitions(self) -> list[Partition]:
        """Drop what is past its time and not in use; returns what went."""
        return [one for one in await self.due_partitions() if not one.in_use and await self._drop(one)]

    async def _drop(self, partition: Partition) -> bool:
        names = {"table": partition.table, "partition": partition.name}

        async def drop(connection: Connection) -> bool:
            if not await _exists(connection, partition.table, partition.month):
                return False
            await connection.execute(_SQL["lock_partition"].format(**names))
            await connection.execute(_SQL["haste"])
            if await _in_use(connection, partition):
                return False
            await connection.execute(_SQL["drop_partition"].format(**names))
            return True

        return await self._change(drop)

    async def _change(self, work: Callable[[Connection], Awaitable[bool]]) -> bool:
        """Run `work` in a transaction; False where it does nothing, has to wait, or another process is at it."""
        async with self._database.writing() as connection:
            try:
                async with connection.transaction():
                    if not await connection.fetchval(_SQL["one_at_a_time"], _LOCK):
                        return False
                    await connection.execute(_SQL["patience"])
                    return await work(connection)
            except _MUST_WAIT:
                return False

    async def forget_strays(self) -> None:
        """Remove some old rows whose ids come from a wrong clock, so that they lie in no month's partition."""
        for table in _TABLES:
            await self._database.execute(_SQL[f"forget_stray_{table}"], self._rows, _AT_ONCE)


async def _exists(connection: Connection, table: str, month: date) -> bool:
    there: bool = await connection.fetchval(_SQL["exists"], f"{table}_{month:%Y_%m}")
    return there


async def _in_use(connection: Connection, partition: Partition) -> bool:
    """Whether something in it has not ended. What belongs to messages is in use as long as they are there."""
    query = _SQL.get(f"{partition.table}_in_use")
    if query is None:
        return await _exists(connection, "messages", partition.month)
    bounds = _bounds(partition.month) if partition.table == "messages" else ()
    in_use: bool = await connection.fetchval(query.format(partition=partition.name), *bounds)
    return in_use


def _bounds(month: date) -> tuple[UUID, UUID]:
    """The least id of the month, and of the next."""
    begin = datetime(month.year, month.month, 1, tzinfo=UTC)
    return smallest_at(begin), smallest_at((begin + timedelta(days=31)).replace(day=1))
