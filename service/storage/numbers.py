"""What is known of numbers before a send: HLR results and suppressions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from service.domain.hlr import HlrResult, HlrStatus
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("numbers")


@dataclass(frozen=True, slots=True)
class Known:
    """What is on record of a number for one client: may it be sent to, and the living HLR result, if any."""

    suppressed: bool
    hlr: HlrResult | None


class NumberStore:
    """Looks numbers up. A message's number is looked up by its claim."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def screen(self, number: str, client_id: UUID) -> Known:
        """Suppression and cached HLR result of a number."""
        return known(await self._database.fetchrow(_SQL["screen"], number, client_id))

    async def hlr(self, number: str, max_age: timedelta | None = None) -> HlrResult | None:
        """The cached result of a number, if it is alive and no older than `max_age`."""
        row = await self._database.fetchrow(_SQL["hlr"], number, max_age)
        return _hlr(row) if row else None

    async def keep_hlr(self, result: HlrResult, lifetime: timedelta) -> None:
        """Cache a result."""
        await self._database.execute(
            _SQL["keep_hlr"], result.number, result.status.value, result.checked_at, result.source, result.mcc,
            result.mnc, result.network, result.line_type, result.ported, result.roaming, result.error_code, lifetime,
        )  # fmt: skip


def known(row: Any) -> Known:
    """What a row says of its number."""
    return Known(row["suppressed"], _hlr(row) if row["number"] else None)


def _hlr(row: Any) -> HlrResult:
    return HlrResult(
        number=row["number"],
        status=HlrStatus(row["status"]),
        checked_at=row["checked_at"],
        source=row["source"],
        mcc=row["mcc"],
        mnc=row["mnc"],
        network=row["network"],
        line_type=row["line_type"],
        ported=row["ported"],
        roaming=row["roaming"],
        error_code=row["error_code"],
    )
