"""What every process has seen of the providers, and the standings that follow from it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, Final

from service.domain.health import Cause, Condition, Place, Samples, Standing, StandingPolicy, share
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("health")
_SHARED_S: Final = 1.0
_CONDITIONS: Final = frozenset(Condition)
_CAUSES: Final = frozenset(Cause)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A place with its standing and the samples that it is judged by. Times count from now: `since_s` is not above 0.

    `since` is the same by the database's clock; None where the place never moved. `cut_off`: a breaker has opened, and
    no call has worked since. Breakers act at once, each for its process; a standing falls by many samples.
    """

    place: Place
    standing: Standing
    since: datetime | None
    cut_off: bool
    samples: Samples

    def share(self, policy: StandingPolicy) -> float:
        """The share of its messages, 0 to 1, that try it in its place of the route."""
        return 0.0 if self.cut_off else share(self.standing, 0.0, policy)


class HealthStore:
    """Samples and standings. Losing both is harmless: every provider is healthy then, until it shows otherwise."""

    def __init__(self, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._asking: asyncio.Task[list[Evidence]] | None = None
        self._asked_s = -math.inf

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

    async def evidence(self, policy: StandingPolicy) -> list[Evidence]:
        """Every place that has moved or been called lately, with its newest samples: as many as `policy` judges by."""
        return [
            Evidence(_place(row), _standing(row), row["since"], row["cut_off"], Samples(*list(row.values())[-6:]))
            for row in await self._database.fetch(_SQL["evidence"], policy.min_samples)
        ]

    async def shared_evidence(self, policy: StandingPolicy) -> list[Evidence]:
        """`evidence` for whoever asks often: one answer, at most 1 s old or still awaited, serves them all."""
        now_s = self._now()
        if self._asking is None or (self._asking.done() and now_s >= self._asked_s + _SHARED_S):
            self._asking, self._asked_s = asyncio.create_task(self.evidence(policy)), now_s
        return await asyncio.shield(self._asking)

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
    """What a newer version stored and this one does not know is taken for healthy, and a cause for none."""
    if row["condition"] not in _CONDITIONS:
        return Standing()
    cause = Cause(row["cause"]) if row["cause"] in _CAUSES else None
    return Standing(Condition(row["condition"]), -row["age_s"], cause, row["strikes"])
