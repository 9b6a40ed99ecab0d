"""Numbers that must not be sent to, whichever the provider."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from asyncpg import Record

from service.domain.msisdn import mask
from service.storage.audit import GATEWAY, Actor, record
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("suppressions")


class SuppressionStore:
    """Each client's list. It is read by `NumberStore.screen`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, client_id: UUID | None, numbers: Collection[str], *, reason: str, source: str, by: Actor = GATEWAY
    ) -> int:
        """Let this client (None: nobody) send to the numbers no more; returns how many were not on the list."""
        async with self._database.writing() as connection, connection.transaction():
            # In order, so that two files with the same numbers cannot deadlock.
            added = len(await connection.fetch(_SQL["add"], sorted(set(numbers)), client_id, reason, source))
            if added:
                await record(connection, by, "suppression.import", _named(client_id), added=added)
            return added

    async def put(self, client_id: UUID, number: str, *, reason: str, source: str, by: Actor = GATEWAY) -> Record:
        """The same for one number; returns it as it stands on the list."""
        async with self._database.writing() as connection, connection.transaction():
            row = await connection.fetchrow(_SQL["put"], number, client_id, reason, source)
            assert row is not None  # noqa: S101 - inserted or met, it is returned
            if row["is_new"]:  # whoever says the same every day is noted once
                await record(connection, by, "suppression.add", _named(client_id), number=mask(number))
        return row

    async def opt_out(self, attempt_id: UUID) -> None:
        """Suppress the recipient of an attempt that its provider rejected, for the client that sent to it."""
        await self._database.execute(_SQL["opt_out"], attempt_id)

    async def page(self, client_id: UUID, *, after: str = "", number: str | None = None, limit: int) -> list[Record]:
        """At most `limit` of a client's suppressions in the order of the numbers, from behind `after` on."""
        if number is not None:
            return await self._database.fetch(_SQL["one"], client_id, after, number)
        return await self._database.fetch(_SQL["page"], client_id, after, limit)

    async def remove(self, client_id: UUID, number: str, *, by: Actor = GATEWAY) -> bool:
        """Let the client send to a number again; False where it is not on its list."""
        async with self._database.writing() as connection, connection.transaction():
            found = await connection.fetchval(_SQL["remove"], client_id, number) is not None
            if found:
                await record(connection, by, "suppression.remove", _named(client_id), number=mask(number))
            return found


def _named(client_id: UUID | None) -> str:
    """Whose list it is."""
    return f"suppressions:{client_id or '*'}"
