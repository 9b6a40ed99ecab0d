"""Slots of a provider's MPS and of the callers' limits, shared by every replica."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.pacing import admit, grant
from service.storage.database import Connection, Database

_ENSURE = "INSERT INTO pacing (key, tat) SELECT k, now() FROM unnest($1::text[]) AS k ON CONFLICT DO NOTHING"
_LOCK = "SELECT key, tat, clock_timestamp() AS now FROM pacing WHERE key = ANY ($1) ORDER BY key FOR UPDATE"
_STORE = (
    "UPDATE pacing AS p SET tat = i.tat FROM unnest($1::text[], $2::timestamptz[]) AS i (key, tat) WHERE p.key = i.key"
)


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

    async def reserve(self, intervals_s: dict[str, float], wanted: int, horizon_s: float) -> list[Slot]:
        """Reserve slots that draw on every key of `intervals_s` (key: seconds between its slots).

        Returns `wanted` slots in order. Those within `horizon_s` are reserved; the rest are only estimates, to be asked
        for again.
        """
        keys = sorted(intervals_s)
        async with self._database.writing() as connection, connection.transaction():
            now, tats_s = await _lock(connection, keys)
            began_s = time.monotonic()
            slots, after_s = _slots(tats_s, intervals_s, wanted, horizon_s)
            await connection.execute(_STORE, keys, [now + timedelta(seconds=after_s[key]) for key in keys])
        taken_s = time.monotonic() - began_s  # the commit took its time of every slot
        return [Slot(max(0.0, slot.in_s - taken_s), slot.reserved) for slot in slots]

    async def admit(self, key: str, interval_s: float, burst: int, least: int, most: int) -> Admission:
        """Take as many events of a limiter as there are, at most `most`; none where there are not `least`."""
        async with self._database.writing() as connection, connection.transaction():
            now, tats_s = await _lock(connection, [key])
            decision = admit(tats_s[key], 0.0, interval_s, burst, least)
            if not decision.allowed:
                return Admission(0, decision.retry_after_s)
            count = min(most, least + decision.remaining)
            after_s = admit(tats_s[key], 0.0, interval_s, burst, count).tat_s
            await connection.execute(_STORE, [key], [now + timedelta(seconds=after_s)])
        return Admission(count, 0.0)

    async def give_back(self, key: str, seconds: float) -> None:
        """Take back what was drawn on a key: `seconds` is the number of events times their interval."""
        await self._database.execute(
            "UPDATE pacing SET tat = tat - make_interval(secs => $2) WHERE key = $1", key, seconds
        )


async def _lock(connection: Connection, keys: list[str]) -> tuple[datetime, dict[str, float]]:
    """The database's time, and each key's TAT counted from it; locked until the transaction ends."""
    rows = await connection.fetch(_LOCK, keys)
    if len(rows) < len(keys):  # the first time, or the table (not in WAL) was emptied by a crash
        await connection.execute(_ENSURE, keys)
        rows = await connection.fetch(_LOCK, keys)
    now: datetime = rows[0]["now"]
    return now, {row["key"]: (row["tat"] - now).total_seconds() for row in rows}


def _slots(
    tats_s: dict[str, float], intervals_s: dict[str, float], wanted: int, horizon_s: float
) -> tuple[list[Slot], dict[str, float]]:
    """The slots, and each key's TAT after them; all times count from now. The slowest key sets the spacing."""
    spacing_s = max(intervals_s.values())
    granted = grant(max(tats_s.values()), 0.0, spacing_s, wanted, horizon_s)
    slots = [Slot(granted.first_s + number * spacing_s, number < granted.count) for number in range(wanted)]
    after_s = {
        key: max(tat_s, 0.0) + granted.count * intervals_s[key] if granted.count else tat_s
        for key, tat_s in tats_s.items()
    }
    return slots, after_s
