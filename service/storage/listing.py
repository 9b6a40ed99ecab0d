"""Lists of messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from asyncpg import Record

from service.domain.ids import ABOVE_ALL, smallest_at
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("listing")
_ALL: Final = _SQL["messages"].format(source="messages")
_OF_BATCH: Final = _SQL["messages"].format(source=_SQL["of_batch"])
_OF_REFERENCE: Final = _SQL["messages"].format(source=_SQL["of_reference"])
_TO_RECIPIENT: Final = _SQL["messages"].format(source=_SQL["to_recipient"])
_SKEW: Final = timedelta(minutes=5)
"""How far apart an id and its created_at may be: the clocks of a replica and the database, and a bulk's wait."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages: of one client, created in a window (without an end: None), and as the filters say (any: None)."""

    client_id: UUID
    created_after: datetime
    created_before: datetime | None
    status: str | None = None
    to: str | None = None
    sender: str | None = None
    traffic: str | None = None
    batch_id: UUID | None = None
    reference: str | None = None


class MessageListing:
    """Reads messages page by page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, wanted: Wanted, below: UUID | None, limit: int) -> list[Record]:
        """At most `limit` messages, newest first; `below` is the last id of the page before."""
        end = smallest_at(wanted.created_before + _SKEW) if wanted.created_before else ABOVE_ALL
        return await self._database.fetch(
            _query(wanted),
            wanted.client_id, smallest_at(wanted.created_after - _SKEW), min(end, below or end),
            wanted.created_after, wanted.created_before, wanted.status, wanted.to, wanted.sender, wanted.traffic,
            wanted.batch_id, wanted.reference, limit,
        )  # fmt: skip


def _query(wanted: Wanted) -> str:
    """The shortest way. The walk finds what many messages have, but would read the whole window for a few of them."""
    if wanted.batch_id is not None:
        return _OF_BATCH
    if wanted.reference is not None:
        return _OF_REFERENCE
    return _ALL if wanted.to is None else _TO_RECIPIENT
