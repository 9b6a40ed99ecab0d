"""Providers that operators took out of service for a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from service.storage.audit import Actor, record
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("pauses")


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a provider gets no messages, by whom, and since when."""

    reason: str
    paused_by: str
    paused_at: datetime


class PauseStore:
    """Reads and writes pauses. What it writes stands in the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pauses(self) -> dict[str, Pause]:
        """Those that hold, by the provider's name."""
        rows = await self._database.fetch(_SQL["pauses"])
        return {row["provider"]: Pause(row["reason"], row["paused_by"], row["paused_at"]) for row in rows}

    async def pause(self, provider: str, reason: str, by: Actor) -> None:
        """Send nothing to the provider from now on. One that is paused already gets the new reason."""
        async with self._database.writing() as connection, connection.transaction():
            await connection.execute(_SQL["pause"], provider, reason, by.name)
            await record(connection, by, "provider.pause", f"provider:{provider}", reason=reason)

    async def resume(self, provider: str, by: Actor) -> bool:
        """Send to the provider again; False where it was not paused."""
        async with self._database.writing() as connection, connection.transaction():
            found = await connection.fetchval(_SQL["resume"], provider)
            if found is not None:
                await record(connection, by, "provider.resume", f"provider:{provider}")
        return found is not None

    async def under_way(self) -> dict[str, int]:
        """How many calls to each provider are being made; a provider without any is left out."""
        return {row["provider"]: row["calls"] for row in await self._database.fetch(_SQL["under_way"])}
