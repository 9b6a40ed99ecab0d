"""The queue of messages: claims under a worker's lease, attempts before calls, settlements after them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
from asyncpg import Record

from service.domain.message import Traffic
from service.errors import StoreError, Unstorable
from service.storage.batch import SETTLE_EVERY_S, TO_PROVIDER_EVERY_S, by_lane
from service.storage.database import Connection, Database
from service.storage.numbers import Known, known
from service.storage.sql import queries

_SQL = queries("deliver")
_HOPS: Final = 256
_TWICE: Final = 2


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt made earlier. `outcome` None: its call was on its way. `open`: it may still be delivered."""

    id: UUID
    provider: str
    open: bool
    outcome: str | None
    calls: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message in a worker's hands.

    `remaining_s` of its validity (may be negative), `waited_s` since it was due and `age_s` since it was due for the
    first time, all at the claim, by the database's clock.
    """

    id: UUID
    worker_id: UUID
    client_id: UUID
    to: str
    sender: str
    text: str
    traffic: Traffic
    country: str
    created_at: datetime
    due_at: datetime
    remaining_s: float
    waited_s: float
    age_s: float
    tried: tuple[Tried, ...]
    known: Known
    traceparent: str | None


class Walk:
    """Where the claims of a lane are on their way round the clients."""

    def __init__(self) -> None:
        self.behind = UUID(int=0)
        """The client behind which the next claim begins."""
        self.may_be_more = False
        """Whether clients that the last claim did not look at, or not to the end, may have due messages."""
        self._idle_wraps = 0

    def went(self, row: Record) -> None:
        """Hear of a claim from one of its rows."""
        if row["walked_to"] is None:
            self._idle_wraps, self.may_be_more = 0, row["left_over"]
            return
        self.behind = row["walked_to"]
        self._idle_wraps = self._idle_wraps + row["wrapped"] if row["id"] is None else 0
        self.may_be_more = self._idle_wraps < _TWICE  # once over the end may be less than once round
        if not self.may_be_more:
            self._idle_wraps = 0


@dataclass(frozen=True, slots=True)
class Begin:
    """An attempt to be written before its call; a known `attempt_id` is a repeat of that call.

    `lane`: whose batches it goes with.
    """

    attempt_id: UUID
    message_id: UUID
    provider: str
    worker_id: UUID
    lane: Traffic = Traffic.TRANSACTIONAL


@dataclass(frozen=True, slots=True)
class Begun:
    """The attempt is on disk. The call must end within `call_s`; `validity_s` is the same on every repeat."""

    call_s: float
    validity_s: int


class Move(StrEnum):
    """Where a message goes when its worker lets go of it."""

    KEEP = "keep"
    """Nowhere: the worker goes on with it."""
    SENT = "sent"
    PUT_BACK = "put_back"
    """Due again after `delay_s`: `queued`, or parked in `sending` while an attempt is open."""
    HOLD = "hold"
    """Wait for a receipt until the receipt's deadline."""
    FAIL = "fail"
    """Ended, unless an attempt is open: then as `HOLD`."""
    GIVE_UP = "give_up"
    """Ended, although an attempt is open."""
    NO_RECEIPT = "no_receipt"
    """A `sent` message whose receipt never came."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of an attempt (if there was one) and where its message goes now.

    `by_id`: its receipts are found by the `provider_message_id` only. `lane`: whose batches it goes with.
    """

    message_id: UUID
    worker_id: UUID | None
    move: Move
    attempt_id: UUID | None = None
    outcome: str | None = None
    closes: bool = False
    reason: str | None = None
    code: str | None = None
    provider_message_id: str | None = None
    error_code: int | None = None
    delay_s: float = 0.0
    by_id: bool = False
    lane: Traffic = Traffic.TRANSACTIONAL


class MessageQueue:
    """Claims, attempts and settlements; every one of them in batches."""

    def __init__(
        self,
        database: Database,
        *,
        receipt_wait: timedelta,
        text_at_once: Sequence[str] = ("otp",),
        settle_again_after_s: Sequence[float] = (0.1, 0.2, *[0.5] * 25),
    ) -> None:
        self._database = database
        self._receipt_wait = receipt_wait
        self._settle_again_after_s = settle_again_after_s
        self._text_at_once = list(text_at_once)
        self._begins = by_lane(self._begin, TO_PROVIDER_EVERY_S, lock_key=lambda item: item.message_id.int)
        self._settlements = by_lane(self._settle, SETTLE_EVERY_S, lock_key=lambda item: item.message_id.int)

    async def claim(
        self, lane: Traffic, worker_id: UUID, floors: dict[UUID, datetime], limit: int, walk: Walk | None = None
    ) -> list[Claimed]:
        """At most `limit` due messages of a lane, a turn for each client; none due before its client's floor.

        It goes on where `walk` is, and looks at 256 clients at most.
        """
        walk = walk or Walk()
        async with self._database.writing() as connection:
            rows = await connection.fetch(
                _SQL["claim"], lane.value, list(floors), list(floors.values()), limit, worker_id, walk.behind, _HOPS
            )
        walk.went(rows[0])
        return [_claimed(row, worker_id) for row in rows if row["id"] is not None]

    async def begin(self, item: Begin) -> Begun | None:
        """Write an attempt; None where the message is no longer this worker's to send (or has expired)."""
        return await self._begins[item.lane].submit(item)

    async def _begin(self, items: Sequence[Begin]) -> list[Begun | None]:
        async with self._database.writing() as connection:
            rows = await connection.fetch(
                _SQL["begin_attempts"],
                [item.attempt_id for item in items],
                [item.message_id for item in items],
                [item.provider for item in items],
                [item.worker_id for item in items],
            )
        begun = {row["id"]: Begun(row["call_s"], row["validity_s"]) for row in rows}
        return [begun.get(item.attempt_id) for item in items]

    async def settle(self, item: Settlement) -> str | None:
        """Store what happened; returns the message's new status, None where it did not move (or had moved, unheard).

        Nobody else knows it, so PostgreSQL is told again where it does not answer, for as long as a lease lasts: then
        others take over. The pauses are short, because they do so as soon as PostgreSQL is back. A settlement that was
        stored already changes nothing, as long as its worker does not work on the message anew.

        Raises:
            StoreError: it was not taken. To whoever takes the message over, a call that was made is an unknown one.
        """
        if item.move is Move.NO_RECEIPT:  # no news: the next round asks again
            return await self._settlements[item.lane].submit(item)
        for again_after_s in self._settle_again_after_s:
            try:
                return await self._settlements[item.lane].submit(item)
            except Unstorable:
                raise
            except StoreError:
                await asyncio.sleep(again_after_s)
        return await self._settlements[item.lane].submit(item)

    async def _settle(self, items: Sequence[Settlement]) -> list[str | None]:
        async with self._database.writing() as connection, connection.transaction():
            await lock_messages(connection, [item.message_id for item in items])
            rows = await connection.fetch(
                _SQL["settle"], *_settle_arguments(items), self._receipt_wait, self._text_at_once
            )
        moved = {row["id"]: row["status"] for row in rows}
        return [moved.get(item.message_id) for item in items]

    async def enlist(self, worker_id: UUID, lease: timedelta) -> None:
        """Begin the lease of a new worker."""
        await self._database.execute(_SQL["begin_worker"], worker_id, lease)

    async def renew(self, worker_id: UUID, lease: timedelta) -> bool:
        """Renew a worker's lease; False once it has run out: the worker needs a new id."""
        async with self._database.writing() as connection:
            return await connection.fetchval(_SQL["renew_worker"], worker_id, lease) is not None

    async def retire(self, worker_id: UUID) -> None:
        """End a worker's lease at once."""
        await self._database.execute(_SQL["retire_worker"], worker_id)


async def lock_messages(connection: Connection, message_ids: list[UUID]) -> None:
    """Lock messages in id order until the transaction ends."""
    await connection.execute(_SQL["lock_messages"], message_ids)


def _claimed(row: Any, worker_id: UUID) -> Claimed:
    return Claimed(
        id=row["id"],
        worker_id=worker_id,
        client_id=row["client_id"],
        to=row["recipient"],
        sender=row["sender"],
        text=row["body"] or "",
        traffic=Traffic(row["traffic"]),
        country=row["country"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        remaining_s=row["remaining_s"],
        waited_s=row["waited_s"],
        age_s=row["age_s"],
        tried=tuple(
            Tried(UUID(id_), provider, open_, outcome, calls)
            for id_, provider, open_, outcome, calls in orjson.loads(row["tried"] or b"[]")
        ),
        known=known(row),
        traceparent=row["traceparent"],
    )


def _settle_arguments(items: Sequence[Settlement]) -> list[list[Any]]:
    rows = [
        (
            s.message_id, s.worker_id, s.attempt_id, s.outcome, s.closes, s.reason, s.code, s.provider_message_id,
            s.error_code, s.move.value, s.delay_s, s.by_id,
        )
        for s in items
    ]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)]
