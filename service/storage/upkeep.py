"""Taking over what dead workers left, and forgetting what is past its time."""

from __future__ import annotations

from uuid import UUID

from service.storage.database import Connection, Database
from service.storage.queue import lock_messages
from service.storage.sql import queries

_SQL = queries("recover")
_AT_ONCE = 500
_KEYS_AT_ONCE = 5000
_KEY_BATCHES = 20
_DEPTH_CAP = 10_000
_CLIENTS_CAP = 10_000


class Upkeep:
    """Queries of the recovery round."""

    def __init__(self, database: Database, *, clients: int = _CLIENTS_CAP) -> None:
        """`clients`: how many of them the depth of a lane is counted over at most."""
        self._database = database
        self._clients = clients

    async def dead_workers(self) -> list[UUID]:
        """Workers whose lease has run out."""
        return [row["id"] for row in await self._database.fetch(_SQL["dead_workers"])]

    async def take_over(self, worker_id: UUID) -> int:
        """Free what a dead worker held. Its calls that were on their way are `unknown` now."""
        freed = 0
        while True:
            async with self._database.writing() as connection, connection.transaction():
                rows = await connection.fetch(_SQL["lock_abandoned"], worker_id, _AT_ONCE)
                if not rows:
                    break
                freed += await _release(connection, worker_id, [row["id"] for row in rows])
        async with self._database.writing() as connection:
            await connection.execute(_SQL["release_deliveries"], worker_id, None)
            await connection.execute(_SQL["forget_worker"], worker_id)
        return freed

    async def stray_messages(self, worker_id: UUID, working_on: list[UUID]) -> set[UUID]:
        """Messages that are the worker's on paper only."""
        return {row["id"] for row in await self._database.fetch(_SQL["strays"], worker_id, working_on)}

    async def stray_deliveries(self, worker_id: UUID, working_on: list[UUID]) -> set[UUID]:
        """Webhooks that are the worker's on paper only."""
        return {row["id"] for row in await self._database.fetch(_SQL["stray_deliveries"], worker_id, working_on)}

    async def release(self, worker_id: UUID, message_ids: list[UUID], delivery_ids: list[UUID]) -> None:
        """Free messages and webhooks that their living worker has lost sight of."""
        async with self._database.writing() as connection, connection.transaction():
            await lock_messages(connection, message_ids)
            await _release(connection, worker_id, message_ids)
            await connection.execute(_SQL["release_deliveries"], worker_id, delivery_ids)

    async def without_receipt(self) -> list[UUID]:
        """Sent messages that nothing was heard of by their deadline."""
        return [row["id"] for row in await self._database.fetch(_SQL["without_receipt"])]

    async def forget_keys(self) -> bool:
        """Drop idempotency keys that have expired, 100,000 at most; returns whether none is left."""
        for _ in range(_KEY_BATCHES):
            if await self._database.execute(_SQL["forget_keys"], _KEYS_AT_ONCE) != f"DELETE {_KEYS_AT_ONCE}":
                return True
        return False

    async def forget_targets(self) -> None:
        """Drop what is known of failing targets that nothing has been sent to for a day, some of them each time."""
        await self._database.execute(_SQL["forget_targets"], _KEYS_AT_ONCE)

    async def lane_depths(self) -> dict[str, tuple[int, float]]:
        """For each lane: how many messages are due (counted up to 10,000) and for how long the oldest has been."""
        rows = await self._database.fetch(_SQL["lane_depths"], _DEPTH_CAP, self._clients)
        return {row["traffic"]: (row["depth"], row["oldest_s"]) for row in rows}


async def _release(connection: Connection, worker_id: UUID, message_ids: list[UUID]) -> int:
    await connection.execute(_SQL["close_abandoned"], message_ids, worker_id)
    return len(await connection.fetch(_SQL["release_abandoned"], message_ids, worker_id))
