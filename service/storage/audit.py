"""The audit log: what operators did. It is only added to, in the transaction of the act itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from asyncpg import Record

from service.domain.ids import ABOVE_ALL, new_id
from service.storage.database import Connection, Database
from service.storage.sql import queries

_SQL = queries("audit")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: `key:<id>`, `token:<issuer> <subject>`, `cli:<user>` or `gateway`; in which request, if in one."""

    name: str
    request_id: str | None = None


GATEWAY: Final = Actor("gateway")
"""The service itself, as when `dev` makes its first client."""


async def record(connection: Connection, by: Actor, action: str, what: str, **details: Any) -> None:
    """Note an act on `what` (`client:billing`), within its transaction. `details` must hold no secret."""
    assert connection.is_in_transaction()  # noqa: S101 - or the note could stay without the act, or the act without it
    noted = orjson.dumps({name: value for name, value in details.items() if value is not None}).decode()
    await connection.execute(_SQL["record"], new_id(), by.name, action, what, noted, by.request_id)


class AuditLog:
    """Reads the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self, *, before: UUID | None = None, limit: int) -> list[Record]:
        """The newest acts first, from below the id `before` on."""
        return await self._database.fetch(_SQL["entries"], before or ABOVE_ALL, limit)
