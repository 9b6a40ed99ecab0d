"""Who may call: every living key and every client, in memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

import orjson
from asyncpg import Record

from service.domain.pacing import Rate
from service.storage.clients import Principal
from service.storage.database import Database
from service.storage.snapshot import Snapshot
from service.storage.sql import queries

_SQL: Final = queries("clients")
_NOTED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key allows, within what its client may. None: everything."""

    client: str
    scopes: frozenset[str]
    senders: frozenset[str] | None
    countries: frozenset[str] | None
    expires_at: datetime | None
    actor: str


class Callers:
    """Every living key and every client.

    A key and its client are joined when the key is used, so a change of the client is one of all its keys.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: Snapshot[bytes, _Key] = Snapshot(database, _SQL["living_keys"], _key)
        self._clients: Snapshot[str, Principal] = Snapshot(database, _SQL["living_clients"], _client)

    async def follow(self) -> None:
        """Read what has changed: first of keys, so that no client is older than a key of it.

        Raises:
            StoreError: it could not be read.
        """
        await self._keys.follow()
        await self._clients.follow()

    async def fill(self) -> None:
        """The same, and wait until everything has been read once.

        Raises:
            StoreError: it could not be read.
        """
        await self._keys.fill()
        await self._clients.fill()

    async def of_key(self, hashed: bytes) -> Principal | None:
        """Who calls with the key of that hash. It may have expired since it was read.

        Raises:
            StoreOverloaded: nothing is known of it, and the database does not answer.
        """
        key = await self._keys.find(hashed)
        client = None if key is None else await self._clients.find(key.client)
        return None if key is None or client is None else _joined(client, key)

    async def client(self, name: str) -> Principal | None:
        """The client of that name, without scopes, for a caller with a token.

        Raises:
            StoreOverloaded: nothing is known of it, and the database does not answer.
        """
        return await self._clients.find(name)

    async def note_use(self, key_hashes: Sequence[bytes]) -> None:
        """Note that these keys are in use."""
        for first in range(0, len(key_hashes), _NOTED_AT_ONCE):
            await self._database.execute(_SQL["note_use"], key_hashes[first : first + _NOTED_AT_ONCE])


def _key(row: Record) -> _Key:
    return _Key(
        client=sys.intern(row["client"]),
        scopes=_names(tuple(row["scopes"])),
        senders=_names_or_all(row["senders"]),
        countries=_names_or_all(row["countries"]),
        expires_at=row["expires_at"],
        actor=f"key:{row['id']}",
    )


def _client(row: Record) -> Principal:
    return Principal(
        client_id=row["id"],
        client=row["key"],
        scopes=frozenset(),
        require_idempotency_key=row["require_idempotency_key"],
        senders=_names_or_all(row["senders"]),
        countries=_names_or_all(row["countries"]),
        limits={kind: Rate(**rate) for kind, rate in orjson.loads(row["limits"]).items()},
        special_rates=row["special_rates"],
    )


def _names_or_all(names: Sequence[str] | None) -> frozenset[str] | None:
    return None if names is None else _names(tuple(names))


@lru_cache(maxsize=1_000)
def _names(names: tuple[str, ...]) -> frozenset[str]:
    """The same set for the same names: most keys have the scopes of many others."""
    return frozenset(names)


def _joined(client: Principal, key: _Key) -> Principal:
    return Principal(
        client_id=client.client_id,
        client=client.client,
        scopes=key.scopes,
        require_idempotency_key=client.require_idempotency_key,
        senders=_both(client.senders, key.senders),
        countries=_both(client.countries, key.countries),
        limits=client.limits,
        special_rates=client.special_rates,
        expires_at=key.expires_at,
        actor=key.actor,
    )


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """What both allow."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
