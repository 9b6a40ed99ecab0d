"""Storing what providers say of their attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from service.domain.receipt import reason_for
from service.storage.batch import PATIENCE_S, UNHURRIED_S, Batcher
from service.storage.database import Connection, Database
from service.storage.sql import queries

_SQL = queries("receive")
_RECOVER = queries("recover")
_AT_ONCE = 5000
_ORPHANS: Final = 50_000
_TRIM_EVERY: Final = 1000
_A_LOOK: Final = 1000


@dataclass(frozen=True, slots=True)
class News:
    """A receipt. It names its attempt by `attempt_id` or, where that is None, by provider and the provider's id."""

    provider: str
    attempt_id: UUID | None
    provider_message_id: str | None
    status: str
    error_code: int | None
    provider_code: str | None
    occurred_at: datetime | None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a receipt did. `recipient` None: no attempt is known by it (yet). `fresh`: it was not on record before.

    `became` is the status that its message moved to, None where it stayed as it was. `age_s`: since its attempt began.
    """

    recipient: str | None = None
    fresh: bool = False
    became: str | None = None
    country: str = ""
    traffic: str = ""
    age_s: float = 0.0
    traceparent: str | None = None


class OrphanWalk:
    """Where the looks at the orphans are on their way round the table."""

    def __init__(self) -> None:
        self.behind = ("", "", "")
        """Provider, provider's id and status of the orphan behind which the next look begins."""


class ReceiptStore:
    """Applies receipts in batches.

    Of each provider it keeps the newest 50,000 orphans, and up to 1,000 more for each process.
    """

    def __init__(self, database: Database, *, receipt_wait: timedelta, text_at_once: Sequence[str] = ("otp",)) -> None:
        self._database = database
        self._receipt_wait = receipt_wait
        self._text_at_once = list(text_at_once)
        self._untrimmed: Counter[str] = Counter()
        self._batcher: Batcher[News, Applied] = Batcher(
            self._apply, every_s=UNHURRIED_S, serial=True, patience_s=PATIENCE_S
        )

    async def apply(self, news: News) -> Applied:
        """Record a receipt and move its message on; one that names no known attempt is kept as an orphan."""
        return await self._batcher.submit(news)

    async def _apply(self, items: Sequence[News]) -> list[Applied]:
        async with self._database.writing() as connection, connection.transaction():
            attempts = await _attempts(connection, items)
            known = {(attempts[item], item.status): item for item in items if item in attempts}
            await connection.execute(_SQL["lock_messages_of_attempts"], [attempt for attempt, _ in known])
            rows = await connection.fetch(
                _SQL["apply_receipts"], *_arguments(known), self._receipt_wait, self._text_at_once
            )
            await self._keep_orphans(connection, [item for item in items if item not in attempts])
        applied = {
            (row["attempt_id"], row["status"]): Applied(
                row["recipient"], True, row["became"], row["country"], row["traffic"], row["age_s"], row["traceparent"]
            )
            for row in rows
        }
        answers = []
        for item in items:
            if item not in attempts:
                answers.append(Applied())
            else:  # a duplicate within the batch counts once
                answers.append(applied.pop((attempts[item], item.status), Applied(recipient="")))
        return answers

    async def _keep_orphans(self, connection: Connection, orphans: list[News]) -> None:
        kept = sorted(
            (item for item in orphans if item.provider_message_id is not None),
            key=lambda item: (item.provider, item.provider_message_id, item.status),
        )  # in order, so that two processes with the same ones cannot deadlock
        if not kept:
            return
        await connection.execute(
            _SQL["keep_orphans"],
            [item.provider for item in kept],
            [item.provider_message_id for item in kept],
            [item.status for item in kept],
            [item.error_code for item in kept],
            [item.provider_code for item in kept],
            [item.occurred_at for item in kept],
        )
        self._untrimmed.update(item.provider for item in kept)
        full = [provider for provider, count in self._untrimmed.items() if count >= _TRIM_EVERY]
        if full:
            await connection.execute(_SQL["trim_orphans"], full, _ORPHANS)
            for provider in full:
                del self._untrimmed[provider]

    async def matched_orphans(self, walk: OrphanWalk | None = None) -> list[News]:
        """Orphans whose attempts have become known, of the next 1,000 on the walk."""
        walk = walk or OrphanWalk()
        rows = await self._database.fetch(_SQL["orphans"], *walk.behind)
        last = rows[-1] if len(rows) >= _A_LOOK else None
        walk.behind = (last["provider"], last["provider_message_id"], last["status"]) if last else ("", "", "")
        return [News(**row) for row in rows if row["attempt_id"] is not None]

    async def forget_orphans(self, orphans: Sequence[News]) -> None:
        """Drop orphans that have been applied."""
        await self._database.execute(
            _SQL["forget_orphans"],
            [item.provider for item in orphans],
            [item.provider_message_id for item in orphans],
            [item.status for item in orphans],
        )

    async def forget_old_orphans(self, age: timedelta) -> None:
        """Drop orphans that nobody has claimed for `age`, 5,000 at a time."""
        while await self._database.execute(_RECOVER["forget_old_orphans"], age, _AT_ONCE) == f"DELETE {_AT_ONCE}":
            pass


async def _attempts(connection: Connection, items: Sequence[News]) -> dict[News, UUID]:
    attempts = {item: item.attempt_id for item in items if item.attempt_id is not None}
    unnamed = [item for item in items if item.attempt_id is None]
    if unnamed:
        rows = await connection.fetch(
            _SQL["attempts_by_receipt_key"],
            [item.provider for item in unnamed],
            [item.provider_message_id for item in unnamed],
        )
        by_id = {(row["provider"], row["receipt_key"]): row["id"] for row in rows}
        for item in unnamed:
            if attempt := by_id.get((item.provider, item.provider_message_id)):
                attempts[item] = attempt
    return attempts


def _arguments(known: dict[tuple[UUID, str], News]) -> list[list[Any]]:
    rows = [
        (
            attempt,
            status,
            item.error_code,
            item.provider_code,
            item.occurred_at,
            reason_for(item.status, item.error_code),
            item.provider_message_id,
        )
        for (attempt, status), item in known.items()
    ]
    return [[row[i] for row in rows] for i in range(7)]
