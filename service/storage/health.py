"""What every process has seen of the providers, and the standings that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

from service.domain.health import Cause, Condition, Place, Samples, Standing
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("health")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A place with its standing and the samples that it is judged by. Times count from now: `since_s` is not above 0.

    `since` is the same by the database's clock; None where the place never moved.
    """

    place: Place
    standing: Standing
    since: datetime | None
    samples: Samples


class HealthStore:
    """Samples and standings. Losing both is harmless: every provider is healthy then, until it shows otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, samples: Mapping[Place, Samples]) -> None:
        """Add samples to those of now."""
        rows = [(*place, *astuple(seen)) for place, seen in samples.items()]
        await self._database.execute(_SQL["add_samples"], *map(list, zip(*rows, strict=True)))

    async def take_round(self) -> bool:
        """Whether the caller is the one to judge now. Of all processes one is, once a second."""
        async with self._database.writing() as connection:
            return await connection.fetchval(_SQL["take_round"]) is not None

    async def standings(self) -> dict[Place, Standing]:
        """Where places stand that have ever moved. Times count from now."""
        return {_place(row): _standing(row) for row in await self._database.fetch(_SQL["standings"])}

    async def evidence(self, least: int) -> list[Evidence]:
        """Every place that has moved or been called lately; its newest samples, about `least` if there are so many."""
        return [
            Evidence(_place(row), _standing(row), row["since"], Samples(*list(row.values())[-6:]))
            for row in await self._database.fetch(_SQL["evidence"], least)
        ]

    async def move(self, standings: Mapping[Place, Standing]) -> None:
        """Store standings; one whose condition is new begins now."""
        rows = [(*place, new.condition, new.cause, new.strikes) for place, new in standings.items()]
        await self._database.execute(_SQL["move_standings"], *map(list, zip(*rows, strict=True)))

    async def forget(self) -> None:
        """Drop samples that nobody asks for any more."""
        await self._database.execute(_SQL["forget_samples"])


def _place(row: Any) -> Place:
    return Place(row["provider"], row["country"], row["traffic"])


def _standing(row: Any) -> Standing:
    if row["condition"] is None:
        return Standing()
    cause = None if row["cause"] is None else Cause(row["cause"])
    return Standing(Condition(row["condition"]), -row["age_s"], cause, row["strikes"])
