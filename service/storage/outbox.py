"""The outbox of webhooks: claims per target, results, blocked targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from service.storage.batch import UNHURRIED_S, Batcher
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("notify")
_PIECE: Final = 1000
_PIECES: Final = 100


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook in a worker's hands. `attempts` counts this one; `age_s` since it was put into the outbox.

    `failures`: how often its target failed in a row. The secrets are sealed. `url` None: its endpoint was deleted
    or, as `disabled` says, is disabled.
    """

    id: UUID
    target: str
    client_id: UUID
    status: str
    reason: str | None
    error_code: int | None
    event_at: datetime
    attempts: int
    endpoint_id: UUID | None
    message_id: UUID
    recipient: str
    sender: str
    reference: str | None
    batch_id: UUID | None
    segments: int
    traceparent: str | None
    url: str | None
    disabled: bool
    secret: bytes = field(repr=False)
    previous_secret: bytes | None = field(repr=False)
    failures: int
    age_s: float
    worker_id: UUID


@dataclass(frozen=True, slots=True)
class DueTarget:
    """A target with webhooks to come. `failures`: how often it failed in a row; `blocked`: it is left alone for now."""

    target: str
    client_id: UUID
    failures: int
    blocked: bool


class Room(NamedTuple):
    """How many webhooks a target may get, and how many calls it has under way already; the same of its client."""

    most: int
    calls: int
    client_id: UUID
    client_most: int
    client_calls: int


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What came of one try. `retry_in_s` None: it has ended, as `state` says (`delivered` or `dead`)."""

    delivery_id: UUID
    worker_id: UUID
    state: str
    retry_in_s: float | None
    http_status: int | None
    error: str | None


class Outbox:
    """Claims and settles webhooks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._results: Batcher[DeliveryResult, None] = Batcher(
            self._settle, lock_key=lambda item: item.delivery_id.int, every_s=UNHURRIED_S
        )

    async def due_targets(
        self, after: str, most: int, in_use: Mapping[str, UUID] | None = None
    ) -> tuple[list[DueTarget], str]:
        """Targets with webhooks that are due, and behind which one to look for more ("": there are none).

        In their order behind `after`; `most` are looked at, those too whose next try is still to come. `in_use`, with
        their clients, are told of each time.
        """
        in_use = in_use or {}
        rows = await self._database.fetch(_SQL["due_targets"], after, most, list(in_use), list(in_use.values()))
        found = [
            DueTarget(row["target"], row["client_id"], row["failures"], row["blocked"])
            for row in rows
            if row["target"] is not None
        ]
        return found, rows[0]["next"] or ""

    async def claim(self, worker_id: UUID, limit: int, rooms: Mapping[str, Room]) -> list[Delivery]:
        """At most `limit` due webhooks of these targets, of each as many as it has room for."""
        async with self._database.writing() as connection:
            rows = await connection.fetch(
                _SQL["claim_deliveries"],
                worker_id,
                limit,
                list(rooms),
                *zip(*rooms.values(), strict=True),
            )
        return [Delivery(**row) for row in rows]

    async def settle(self, result: DeliveryResult) -> None:
        """Store what came of a try."""
        await self._results.submit(result)

    async def _settle(self, items: Sequence[DeliveryResult]) -> list[None]:
        await self._database.execute(
            _SQL["settle_deliveries"],
            [item.delivery_id for item in items],
            [item.worker_id for item in items],
            [item.state for item in items],
            [item.retry_in_s for item in items],
            [item.http_status for item in items],
            [item.error for item in items],
        )
        return [None] * len(items)

    async def block(self, target: str, failures: int, seconds: float) -> None:
        """Leave a target that failed `failures` times in a row alone for a while."""
        await self._database.execute(_SQL["block_target"], target, failures, seconds)

    async def unblock(self, target: str) -> None:
        """A target that failed before answers again."""
        await self._database.execute(_SQL["unblock_target"], target)

    async def disable_endpoint(self, endpoint_id: UUID, reason: str) -> None:
        """Switch a registered endpoint off and end what still waits for it."""
        await self._database.execute(_SQL["disable_endpoint"], endpoint_id, reason)
        await end_deliveries(self._database, endpoint_id, "endpoint_disabled")


async def end_deliveries(database: Database, endpoint_id: UUID, why: str) -> None:
    """End the webhooks of an endpoint that was disabled or deleted, 100,000 at most, each 1,000 on their own.

    What is left of them (also by a crash) goes nowhere: it ends when it is claimed.
    """
    for _ in range(_PIECES):
        if await database.execute(_SQL["end_deliveries_of_endpoint"], endpoint_id, why, _PIECE) != f"UPDATE {_PIECE}":
            return
