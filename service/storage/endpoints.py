"""The webhook endpoints that clients registered, and the replay of what went to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from service.domain.ids import ABOVE_ALL, show
from service.storage.audit import GATEWAY, Actor, record
from service.storage.database import Connection, Database
from service.storage.outbox import end_deliveries
from service.storage.sql import queries

_SQL = queries("webhooks")

MAX_ENDPOINTS: Final = 20
"""Of one client: every message without a `callback_url` goes to each of them."""
MAX_REPLAYED: Final = 10_000
"""By one request: they are locked and written in one transaction."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A registered endpoint. `events` None: all. The secrets are sealed; a previous one is there while it signs."""

    id: UUID
    url: str
    events: list[str] | None
    secret: bytes = field(repr=False)
    disabled_at: datetime | None
    disabled_reason: str | None
    created_at: datetime
    previous_secret: bytes | None = field(repr=False)
    previous_secret_until: datetime | None


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """What is to change of an endpoint. None: nothing; but `events` counts only with `set_events`, None meaning all."""

    url: str | None
    set_events: bool
    events: Sequence[str] | None
    enabled: bool | None


class EndpointStore:
    """Every method takes the client too: what is another's is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        endpoint_id: UUID,
        client_id: UUID,
        url: str,
        sealed_secret: bytes,
        events: Sequence[str] | None,
        *,
        by: Actor = GATEWAY,
    ) -> Endpoint | None:
        """Register an endpoint; None where the client has `MAX_ENDPOINTS` already."""
        async with self._database.writing() as connection, connection.transaction():
            await connection.execute(_SQL["lock_client"], client_id)
            await connection.execute(
                _SQL["insert_endpoint"], endpoint_id, client_id, url, sealed_secret, events, MAX_ENDPOINTS
            )
            endpoint = await _endpoint(connection, endpoint_id, client_id)
            if endpoint is not None:
                await record(connection, by, "webhook.create", _named(endpoint_id))
            return endpoint

    async def all(self, client_id: UUID) -> list[Endpoint]:
        """A client's endpoints, oldest first."""
        return [Endpoint(**row) for row in await self._database.fetch(_SQL["endpoints"], client_id, None)]

    async def one(self, endpoint_id: UUID, client_id: UUID) -> Endpoint | None:
        """An endpoint; None where the client has no such one."""
        async with self._database.reading() as connection:
            return await _endpoint(connection, endpoint_id, client_id)

    async def update(
        self, endpoint_id: UUID, client_id: UUID, change: EndpointChange, *, by: Actor = GATEWAY
    ) -> Endpoint | None:
        """Change an endpoint. Disabling ends what waits for it, as dead; all else ends a pause of its failures."""
        async with self._database.writing() as connection, connection.transaction():
            found = await connection.fetchval(
                _SQL["update_endpoint"],
                endpoint_id,
                client_id,
                change.url,
                change.set_events,
                change.events,
                change.enabled,
            )
            if found and change.enabled is not False:
                await connection.execute(_SQL["try_target"], str(endpoint_id))
            if found:
                changed = {"url_changed": change.url is not None or None, "enabled": change.enabled}
                await record(connection, by, "webhook.update", _named(endpoint_id), **changed)
            endpoint = await _endpoint(connection, endpoint_id, client_id)
        if found and change.enabled is False:
            await end_deliveries(self._database, endpoint_id, "endpoint_disabled")
        return endpoint

    async def rotate(
        self, endpoint_id: UUID, client_id: UUID, sealed_secret: bytes, overlap_s: float, *, by: Actor = GATEWAY
    ) -> Endpoint | None:
        """Give an endpoint a new secret; the old one signs too for `overlap_s` seconds."""
        async with self._database.writing() as connection, connection.transaction():
            rotated = await connection.fetchval(
                _SQL["rotate_secret"], endpoint_id, client_id, sealed_secret, float(overlap_s)
            )
            if rotated:
                await record(connection, by, "webhook.rotate", _named(endpoint_id), overlap_s=overlap_s)
            return await _endpoint(connection, endpoint_id, client_id)

    async def delete(self, endpoint_id: UUID, client_id: UUID, *, by: Actor = GATEWAY) -> bool:
        """Delete an endpoint and end what waits for it; False where the client has no such one."""
        async with self._database.writing() as connection, connection.transaction():
            if await connection.fetchval(_SQL["delete_endpoint"], endpoint_id, client_id) is None:
                return False
            await connection.execute(_SQL["forget_target"], str(endpoint_id))
            await record(connection, by, "webhook.delete", _named(endpoint_id))
        await end_deliveries(self._database, endpoint_id, "endpoint_deleted")
        return True

    async def deliveries(self, endpoint_id: UUID, state: str | None, before: UUID | None, limit: int) -> list[Record]:
        """An endpoint's webhooks, newest first."""
        return await self._database.fetch(_SQL["deliveries"], endpoint_id, state, before or ABOVE_ALL, limit)

    async def replayable(self, delivery_id: UUID, client_id: UUID) -> Record | None:
        """The `target` of a webhook and what stands against sending to it; None where the client has no such one."""
        return await self._database.fetchrow(_SQL["replayable"], delivery_id, client_id)

    async def replay(self, delivery_id: UUID, target: str) -> None:
        """Send a webhook again, under the same id."""
        async with self._database.writing() as connection, connection.transaction():
            await _replay(connection, target, [delivery_id])

    async def replay_range(self, endpoint_id: UUID, since: datetime, until: datetime, state: str) -> int | None:
        """Send again what was put into the outbox from `since` until before `until` and is in that state.

        Returns how many; None, and nothing is sent, where they are more than `MAX_REPLAYED`.
        """
        async with self._database.writing() as connection, connection.transaction():
            rows = await connection.fetch(_SQL["lock_range"], endpoint_id, since, until, state, MAX_REPLAYED + 1)
            if len(rows) > MAX_REPLAYED:
                return None
            await _replay(connection, str(endpoint_id), [row["id"] for row in rows])
            return len(rows)


def _named(endpoint_id: UUID) -> str:
    return f"webhook:{show('whe', endpoint_id)}"


async def _endpoint(connection: Connection, endpoint_id: UUID, client_id: UUID) -> Endpoint | None:
    row = await connection.fetchrow(_SQL["endpoints"], client_id, endpoint_id)
    return None if row is None else Endpoint(**row)


async def _replay(connection: Connection, target: str, delivery_ids: list[UUID]) -> None:
    await connection.execute(_SQL["replay"], delivery_ids)
    await connection.execute(_SQL["try_target"], target)
