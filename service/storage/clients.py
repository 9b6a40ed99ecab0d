"""Clients and their API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from asyncpg import Record

from service.domain.ids import new_id
from service.domain.keyring import key_hash
from service.domain.pacing import Rate
from service.storage.audit import GATEWAY, Actor, record
from service.storage.database import Database
from service.storage.sql import queries

_SQL = queries("clients")
HINT_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and what the key and the client both allow. `senders` and `countries` None: all.

    `limits` are the client's own, over the defaults of `gateway.yaml`. `special_rates`: it may send to premium-rate and
    like numbers. `actor` is the caller's name in the audit log.
    """

    client_id: UUID
    client: str
    scopes: frozenset[str]
    require_idempotency_key: bool
    senders: frozenset[str] | None
    countries: frozenset[str] | None
    limits: Mapping[str, Rate] = field(default_factory=dict)
    special_rates: bool = False
    expires_at: datetime | None = None
    actor: str = ""


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a key may do, within what its client may. None: everything; `lasts` None: for good."""

    scopes: Sequence[str]
    senders: Sequence[str] | None = None
    countries: Sequence[str] | None = None
    lasts: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """A key's successor, and when the old key ends."""

    key_id: UUID
    client: str
    scopes: list[str]
    expires_at: datetime | None
    old_expires_at: datetime


@dataclass(frozen=True, slots=True)
class ClientChange:
    """What is to change of a client. None: nothing; of senders and countries an empty list means all.

    Of limits, None means that of `gateway.yaml` again.
    """

    require_idempotency_key: bool | None = None
    special_rates: bool | None = None
    senders: Sequence[str] | None = None
    countries: Sequence[str] | None = None
    limits: Mapping[str, Rate | None] = field(default_factory=dict)


class ClientStore:
    """Reads and writes clients and keys. What it writes stands in the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def key_lives(self, hashed: bytes) -> bool:
        """Whether there is a key of that hash which neither has expired nor was revoked."""
        return bool((await self._database.fetch(_SQL["key_lives"], hashed))[0][0])

    async def ensure_client(self, name: str, sealed_secret: bytes, by: Actor = GATEWAY) -> tuple[UUID, bytes]:
        """The client of that name, made where there is none; returns its id and its sealed webhook secret."""
        async with self._database.writing() as connection, connection.transaction():
            if await connection.fetchval(_SQL["insert_client"], new_id(), name, sealed_secret) is not None:
                await record(connection, by, "client.create", f"client:{name}")
            row = await connection.fetchrow(_SQL["client"], name)
        assert row is not None  # noqa: S101 - just made, and clients are never deleted
        return row["id"], row["webhook_secret"]

    async def clients(self, after: str, limit: int) -> list[Record]:
        """At most `limit` clients by name, from behind `after` on."""
        return await self._database.fetch(_SQL["clients"], after, limit)

    async def shown_client(self, name: str) -> Record | None:
        """That one of `clients`; None where there is none of that name."""
        return await self._database.fetchrow(_SQL["shown_client"], name)

    async def client_id(self, name: str) -> UUID | None:
        """The client of that name; None where there is none."""
        row = await self._database.fetchrow(_SQL["client"], name)
        return None if row is None else row["id"]

    async def set_client(self, name: str, change: ClientChange, by: Actor = GATEWAY) -> bool:
        """Change what a client may do; False where there is none of that name."""
        limits = {kind: asdict(rate) if rate else None for kind, rate in change.limits.items()}
        async with self._database.writing() as connection, connection.transaction():
            found = await connection.fetchval(
                _SQL["set_client"],
                name,
                change.require_idempotency_key,
                change.special_rates,
                change.senders,
                change.countries,
                orjson.dumps(limits).decode(),
            )
            if found is not None:
                changed = asdict(change) | {"limits": limits or None}
                await record(connection, by, "client.set", f"client:{name}", **changed)
        return found is not None

    async def set_webhook_secret(self, client_id: UUID, sealed_secret: bytes, by: Actor = GATEWAY) -> None:
        """Replace a client's signing secret."""
        async with self._database.writing() as connection, connection.transaction():
            name = await connection.fetchval(_SQL["set_webhook_secret"], client_id, sealed_secret)
            await record(connection, by, "client.set_webhook_secret", f"client:{name}")

    async def add_key(self, client_id: UUID, api_key: str, terms: KeyTerms, by: Actor = GATEWAY) -> UUID:
        """Store a key's hash."""
        key_id = new_id()
        async with self._database.writing() as connection, connection.transaction():
            row = await connection.fetchrow(
                _SQL["insert_key"],
                key_id,
                client_id,
                key_hash(api_key),
                api_key[:HINT_LENGTH],
                terms.scopes,
                terms.senders,
                terms.countries,
                terms.lasts,
            )
            if row is not None:
                noted = asdict(terms) | {"lasts": _days(terms.lasts), "client": row["client"]}
                await record(connection, by, "key.create", f"key:{key_id}", **noted)
        return key_id

    async def rotate_key(
        self, key_id: UUID, new_key: str, *, overlap: timedelta, lasts: timedelta | None = None, by: Actor = GATEWAY
    ) -> Rotation | None:
        """Give a key a successor of the same terms, and end the key after `overlap`. None where no such key lives."""
        new_key_id = new_id()
        async with self._database.writing() as connection, connection.transaction():
            new = await connection.fetchrow(
                _SQL["succeed_key"], key_id, new_key_id, key_hash(new_key), new_key[:HINT_LENGTH], lasts
            )
            if new is None:
                return None
            old_expires_at = await connection.fetchval(_SQL["end_key"], key_id, overlap)
            noted = {"client": new["client"], "successor": str(new_key_id), "ends_at": old_expires_at}
            await record(connection, by, "key.rotate", f"key:{key_id}", **noted)
        return Rotation(new_key_id, new["client"], new["scopes"], new["expires_at"], old_expires_at)

    async def keys(self, after: UUID, limit: int) -> list[Record]:
        """At most `limit` of the keys ever made, oldest first, from behind `after` on, without their secret parts."""
        return await self._database.fetch(_SQL["keys"], after, limit)

    async def revoke_key(self, key_id: UUID, by: Actor = GATEWAY) -> bool:
        """End a key; False where there is no living key of that id."""
        async with self._database.writing() as connection, connection.transaction():
            row = await connection.fetchrow(_SQL["revoke_key"], key_id)
            if row is not None:
                await record(connection, by, "key.revoke", f"key:{key_id}", client=row["client"])
        return row is not None


def _days(lasts: timedelta | None) -> float | None:
    return None if lasts is None else lasts / timedelta(days=1)
