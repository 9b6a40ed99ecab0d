"""Slots of a provider's MPS and of the callers' limits, shared by every replica."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from service.domain.pacing import admit
from service.storage.batch import PATIENCE_S, Batcher
from service.storage.database import Connection, Database
from service.storage.sql import queries

_SQL = queries("pacing")
_GIVE_BACK: Final = "UPDATE pacing SET tat = tat - make_interval(secs => $2) WHERE key = $1"


@dataclass(frozen=True, slots=True)
class Slot:
    """A turn, `in_s` from now; `reserved` or only an estimate."""

    in_s: float
    reserved: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """What a limiter granted, and when it is worth asking again if that was nothing."""

    granted: int
    retry_after_s: float


class PacingStore:
    """GCRA rows: the time at which each key's next slot is free."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._returns: Batcher[tuple[str, float], None] = Batcher(self._give_back, patience_s=PATIENCE_S)

    async def reserve(
        self, intervals_s: dict[str, float], wanted: int, horizon_s: float, early_s: float = 0.0
    ) -> list[Slot]:
        """Reserve slots that draw on every key of `intervals_s` (key: seconds between its slots).

        Returns `wanted` slots in order. Those within `horizon_s` are reserved; the rest are only estimates, to be asked
        for again. A slot may be used up to `early_s` before its time, which is as long as a burst can get ahead of the
        rate.
        """
        arguments = list(intervals_s), list(intervals_s.values()), wanted, horizon_s, early_s
        async with self._database.writing() as connection:
            row = await connection.fetchrow(_SQL["reserve"], *arguments)
            while row is None:  # the first time, or the table (not in WAL) was emptied by a crash
                await connection.execute(_SQL["ensure"], sorted(intervals_s))
                row = await connection.fetchrow(_SQL["reserve"], *arguments)
        return [Slot(row["first_s"] + number * row["spacing_s"], number < row["reserved"]) for number in range(wanted)]

    async def admit(self, key: str, interval_s: float, burst: int, least: int, most: int) -> Admission:
        """Take as many events of a limiter as there are, at most `most`; none where there are not `least`."""
        async with self._database.writing() as connection, connection.transaction():
            now, tats_s = await _lock(connection, [key])
            decision = admit(tats_s[key], 0.0, interval_s, burst, least)
            if not decision.allowed:
                return Admission(0, decision.retry_after_s)
            count = min(most, least + decision.remaining)
            after_s = admit(tats_s[key], 0.0, interval_s, burst, count).tat_s
            await connection.execute(_SQL["store"], [key], [now + timedelta(seconds=after_s)])
        return Admission(count, 0.0)

    async def give_back(self, key: str, seconds: float) -> None:
        """Take back what was drawn on a key: `seconds` is the number of events times their interval.

        Raises:
            StoreError: see `Batcher.submit`.
        """
        await self._returns.submit((key, seconds))

    async def _give_back(self, items: Sequence[tuple[str, float]]) -> list[None]:
        """One update a key, however many gave back: a client who repeats a lot holds up no other."""
        sums: defaultdict[str, float] = defaultdict(float)
        for key, seconds in items:
            sums[key] += seconds
        for key, total_s in sums.items():
            await self._database.execute(_GIVE_BACK, key, total_s)
        return [None] * len(items)


async def _lock(connection: Connection, keys: list[str]) -> tuple[datetime, dict[str, float]]:
    """The database's time, and each key's TAT counted from it; locked until the transaction ends."""
    rows = await connection.fetch(_SQL["lock"], keys)
    if len(rows) < len(keys):  # the first time, or the table (not in WAL) was emptied by a crash
        await connection.execute(_SQL["ensure"], keys)
        rows = await connection.fetch(_SQL["lock"], keys)
    now: datetime = rows[0]["now"]
    return now, {row["key"]: (row["tat"] - now).total_seconds() for row in rows}
