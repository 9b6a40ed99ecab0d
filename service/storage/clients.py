"""Clients and their API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from uuid import UUID

import orjson
from asyncpg import Record

from service.domain.ids import new_id
from service.domain.keyring import key_hash
from service.domain.pacing import Rate
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("clients")
HINT_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and what the key and the client allow. `senders` and `countries` None: all.

    `limits` are the client's own, over the defaults of `gateway.yaml`.
    """

    client_id: UUID
    client: str
    scopes: frozenset[str]
    require_idempotency_key: bool
    senders: frozenset[str] | None
    countries: frozenset[str] | None
    limits: Mapping[str, Rate] = field(default_factory=dict)


class ClientStore:
    """Reads and writes clients and keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def principals(self) -> dict[bytes, Principal]:
        """Every living key's hash with what it allows."""
        return {row["key_hash"]: _principal(row) for row in await self._database.fetch(_SQL["principals"])}

    async def ensure_client(self, name: str, sealed_secret: bytes) -> tuple[UUID, bytes]:
        """The client of that name, made where there is none; returns its id and its sealed webhook secret."""
        await self._database.execute(_SQL["ensure_client"], new_id(), name, sealed_secret)
        row = await self._database.fetchrow(_SQL["client"], name)
        assert row is not None  # noqa: S101 - just made, and clients are never deleted
        return row["id"], row["webhook_secret"]

    async def clients(self) -> list[Record]:
        """Every client, by name."""
        return await self._database.fetch(_SQL["clients"])

    async def set_client(self, name: str, *, require_idempotency_key: bool | None, limits: Mapping[str, Rate]) -> bool:
        """Change what a client may; False where there is none of that name."""
        rates = orjson.dumps({kind: asdict(rate) for kind, rate in limits.items()}).decode()
        async with self._database.writing() as connection:
            return await connection.fetchval(_SQL["set_client"], name, require_idempotency_key, rates) is not None

    async def set_webhook_secret(self, client_id: UUID, sealed_secret: bytes) -> None:
        """Replace a client's signing secret."""
        await self._database.execute(_SQL["set_webhook_secret"], client_id, sealed_secret)

    async def add_key(self, client_id: UUID, api_key: str, scopes: list[str]) -> UUID:
        """Store a key's hash."""
        key_id = new_id()
        await self._database.execute(
            _SQL["insert_key"], key_id, client_id, key_hash(api_key), api_key[:HINT_LENGTH], scopes
        )
        return key_id

    async def keys(self) -> list[Record]:
        """Every key ever made, without its secret part."""
        return await self._database.fetch(_SQL["keys"])

    async def revoke_key(self, key_id: UUID) -> bool:
        """End a key; False where there is no living key of that id."""
        async with self._database.writing() as connection:
            return await connection.fetchval(_SQL["revoke_key"], key_id) is not None


def _principal(row: Record) -> Principal:
    return Principal(
        client_id=row["client_id"],
        client=row["name"],
        scopes=frozenset(row["scopes"]),
        require_idempotency_key=row["require_idempotency_key"],
        senders=None if row["senders"] is None else frozenset(row["senders"]),
        countries=None if row["countries"] is None else frozenset(row["countries"]),
        limits={kind: Rate(**rate) for kind, rate in orjson.loads(row["limits"]).items()},
    )
