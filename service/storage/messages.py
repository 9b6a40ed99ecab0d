"""Storing accepted messages with their idempotency keys, and reading them back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import orjson
from asyncpg import Record

from service.errors import CommitUnknown, StoreOverloaded, Unstorable
from service.storage.batch import PATIENCE_S, Batcher
from service.storage.database import Connection, Database
from service.storage.queue import lock_messages
from service.storage.sql import queries

BULKS_AT_ONCE: Final = 4
ACCEPTS_AT_ONCE: Final = 2
"""Batches of single messages; each has a connection kept for it."""
BULK_PATIENCE_S: Final = 15.0

_CHUNK: Final = 50
_CROWD: Final = 8
_SQL = queries("accept")
_COLUMNS = (
    "id", "client_id", "batch_id", "recipient", "sender", "body", "traffic", "country", "encoding", "segments",
    "reference", "callback_url", "send_at", "due_at", "expires_at", "created_at", "traceparent",
)  # fmt: skip


class NewMessage(NamedTuple):
    """A message that passed every check. `send_at` None means now; `validity_s` counts from it.

    `traceparent` is that of its request, None where nothing is traced.

    A tuple, because a frozen dataclass of this size costs five times as much to make.
    """

    id: UUID
    client_id: UUID
    to: str
    sender: str
    text: str
    traffic: str
    country: str
    encoding: str
    segments: int
    reference: str | None
    callback_url: str | None
    send_at: datetime | None
    validity_s: float
    traceparent: str | None = None


class Key(NamedTuple):
    """An idempotency key with the keyed hash of the body that it came with."""

    client_id: UUID
    endpoint: str
    key: str
    body_hmac: bytes


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a key answered before: the body's hash then, and the message or batch that it made."""

    body_hmac: bytes
    subject_id: UUID


@dataclass(frozen=True, slots=True)
class Batch:
    """A bulk: its messages, how many numbers were rejected, and the answer as it goes to the caller."""

    id: UUID
    client_id: UUID
    rejected: int
    answer: bytes


_Bulk: TypeAlias = tuple[Batch, Sequence[NewMessage], Key | None]


class MessageStore:
    """`add` is the commit behind every 200."""

    def __init__(self, database: Database, *, keep_keys: timedelta, text_at_once: Sequence[str] = ("otp",)) -> None:
        self._database = database
        self._text_at_once = list(text_at_once)
        self._keep_keys = keep_keys
        self._inserts: Batcher[tuple[NewMessage, Key | None], datetime | Earlier | None] = Batcher(
            self._insert,
            lock_key=lambda item: (item[0].client_id.int, item[1].key if item[1] else ""),
            flights=ACCEPTS_AT_ONCE,
            crowd=_CROWD,
            patience_s=PATIENCE_S,
        )
        # Those who repeat read together, so that a client who repeats all that it ever sent holds up no other.
        self._keys: Batcher[Key, Earlier | None] = Batcher(self._read_keys, patience_s=PATIENCE_S)
        self._replayed: Batcher[tuple[UUID, UUID], Record | None] = Batcher(self._read_replayed, patience_s=PATIENCE_S)
        # Each bulk is a commit of its own; only a few at once, or they would take every connection from the OTPs.
        self._bulks: Batcher[_Bulk, Earlier | None] = Batcher(
            self._insert_bulk, max_batch=1, flights=BULKS_AT_ONCE, patience_s=BULK_PATIENCE_S
        )

    async def add(self, message: NewMessage, key: Key | None) -> datetime | Earlier:
        """Commit one message and return when it was created, or what its key answered earlier.

        Raises:
            StoreOverloaded | CommitUnknown | Unstorable: see `Batcher.submit`.
        """
        stored = await self._inserts.submit((message, key))
        if stored is None:
            raise StoreOverloaded("the key expired at this very moment")
        return stored

    async def _insert(self, items: Sequence[tuple[NewMessage, Key | None]]) -> list[datetime | Earlier | None]:
        first: dict[tuple[UUID, str], UUID] = {}
        leading = []
        for message, key in items:
            # Two requests with one key in one batch: the first goes in, the other reads what it made.
            if key is None or first.setdefault((key.client_id, key.key), message.id) == message.id:
                leading.append((message, key))
        async with self._database.accepting() as connection:
            rows = await connection.fetch(
                _SQL["insert_messages"], _as_json(leading), self._keep_keys, timeout=PATIENCE_S
            )
        created = {row["id"]: row["created_at"] for row in rows}
        lost = [key for message, key in items if message.id not in created and key is not None]
        earlier = await self._read_winners(lost) if lost else {}
        return [created.get(message.id) or earlier.get(_name(key)) for message, key in items]

    async def _read_winners(self, lost: Sequence[Key]) -> dict[tuple[str, str, UUID] | None, Earlier]:
        try:
            async with self._database.reading() as connection:
                return await _find_keys(connection, lost)
        except StoreOverloaded as error:
            raise CommitUnknown("the rest of the batch is stored") from error

    async def earlier(self, key: Key) -> Earlier | None:
        """What a key answered, if it is alive.

        Raises:
            StoreOverloaded: see `Batcher.submit`.
        """
        return await self._keys.submit(key)

    async def _read_keys(self, keys: Sequence[Key]) -> list[Earlier | None]:
        async with self._database.reading() as connection:
            found = await _find_keys(connection, keys)
        return [found.get(_name(key)) for key in keys]

    async def replayed(self, message_id: UUID, client_id: UUID) -> Record | None:
        """The row of a message that a key made; None where there is no such message of the client.

        Raises:
            StoreOverloaded: see `Batcher.submit`.
        """
        return await self._replayed.submit((message_id, client_id))

    async def _read_replayed(self, wanted: Sequence[tuple[UUID, UUID]]) -> list[Record | None]:
        rows = await self._database.fetch(_SQL["replayed"], *map(list, zip(*wanted, strict=True)))
        found = {(row["id"], row["client_id"]): row for row in rows}
        return [found.get(one) for one in wanted]

    async def add_batch(self, batch: Batch, messages: Sequence[NewMessage], key: Key | None) -> Earlier | None:
        """Commit a bulk, all or nothing; returns what its key answered earlier, if it did.

        Raises:
            StoreOverloaded | CommitUnknown | Unstorable: see `Batcher.submit`.
        """
        return await self._bulks.submit((batch, messages, key))

    async def _insert_bulk(self, bulks: Sequence[_Bulk]) -> list[Earlier | None]:
        [(batch, messages, key)] = bulks
        async with self._database.writing() as connection, connection.transaction():
            if key is not None:
                taken = await connection.fetchval(
                    _SQL["claim_key"], key.client_id, key.endpoint, key.key, key.body_hmac, batch.id, self._keep_keys
                )
                if taken is None:
                    earlier = (await _find_keys(connection, [key])).get(_name(key))
                    if earlier is None:
                        raise StoreOverloaded("the key expired at this very moment")
                    return [earlier]
            await connection.execute(
                _SQL["insert_batch"], batch.id, batch.client_id, len(messages), batch.rejected, batch.answer
            )
            now: datetime = await connection.fetchval("SELECT now()")
            await connection.copy_records_to_table(
                "messages", records=_rows(messages, batch.id, now), columns=_COLUMNS, timeout=BULK_PATIENCE_S
            )
        return [None]

    async def batch_answer(self, batch_id: UUID, client_id: UUID) -> bytes | None:
        """The answer of an earlier bulk."""
        row = await self._database.fetchrow(_SQL["batch_answer"], batch_id, client_id)
        return row["answer"] if row else None

    async def batch(self, batch_id: UUID, client_id: UUID) -> dict[str, Any] | None:
        """A batch of a client with `counts`, messages by status; None where there is no such batch."""
        async with self._database.reading() as connection:
            row = await connection.fetchrow(_SQL["batch"], batch_id, client_id)
            if row is None:
                return None
            counts = await connection.fetch(_SQL["batch_counts"], batch_id)
        return {**row, "counts": {count["status"]: count["messages"] for count in counts}}

    async def message(self, message_id: UUID, client_id: UUID) -> Record | None:
        """A message of a client, as its row; None where there is no such message."""
        return await self._database.fetchrow(_SQL["message"], message_id, client_id)

    async def cancel(self, message_id: UUID, client_id: UUID) -> tuple[Record | None, bool]:
        """Take a message of a client back if it is `queued`; returns its row by now, and whether this call did it.

        A claim that runs at the same time comes before or after, never between: one of the two finds nothing to do.
        """
        async with self._database.writing() as connection, connection.transaction():
            await lock_messages(connection, [message_id])
            done = await connection.fetchval(_SQL["cancel"], message_id, client_id, self._text_at_once) is not None
            return await connection.fetchrow(_SQL["message"], message_id, client_id), done

    async def history(self, message_id: UUID) -> tuple[list[Record], list[Record]]:
        """Every attempt and every receipt of a message, each in time order."""
        async with self._database.reading() as connection:
            attempts = await connection.fetch(_SQL["attempts"], message_id)
            receipts = await connection.fetch(_SQL["receipts"], message_id)
        return attempts, receipts


def _name(key: Key | None) -> tuple[str, str, UUID] | None:
    return None if key is None else (key.endpoint, key.key, key.client_id)


def _as_json(items: Sequence[tuple[NewMessage, Key | None]]) -> str:
    rows = [(*message, key.key, key.body_hmac.hex()) if key else (*message, None, None) for message, key in items]
    try:
        return orjson.dumps(rows, default=str).decode()  # asyncpg's UUIDs are not those that orjson knows
    except orjson.JSONEncodeError as error:  # a lone surrogate
        raise Unstorable("a text is not Unicode") from error


async def _rows(messages: Sequence[NewMessage], batch_id: UUID, now: datetime) -> AsyncIterator[tuple[Any, ...]]:
    """The rows for COPY, in pieces so that other requests go on meanwhile."""
    for number, message in enumerate(messages, start=1):
        yield _row(message, batch_id, now)
        if number % _CHUNK == 0:
            await asyncio.sleep(0)


def _row(message: NewMessage, batch_id: UUID, now: datetime) -> tuple[Any, ...]:
    due_at = max(message.send_at, now) if message.send_at else now
    return (
        message.id, message.client_id, batch_id, message.to, message.sender, message.text, message.traffic,
        message.country, message.encoding, message.segments, message.reference, message.callback_url,
        due_at, due_at, due_at + timedelta(seconds=message.validity_s), now, message.traceparent,
    )  # fmt: skip


async def _find_keys(connection: Connection, keys: Sequence[Key]) -> dict[tuple[str, str, UUID] | None, Earlier]:
    rows = await connection.fetch(
        _SQL["find_keys"], [k.client_id for k in keys], [k.endpoint for k in keys], [k.key for k in keys]
    )
    return {
        (row["endpoint"], row["key"], row["client_id"]): Earlier(row["body_hmac"], row["subject_id"]) for row in rows
    }
