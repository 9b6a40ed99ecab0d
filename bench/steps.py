"""The steps that statements take, timed one by one: those on a message's way, and those of callers who ask."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx

from bench.fill import DAYS, history, key_of, provider_id_of
from service.domain.ids import new_attempt_id, new_id, show
from service.domain.message import Traffic
from service.storage.database import Database
from service.storage.listing import MessageListing, Wanted
from service.storage.messages import Earlier, Key, MessageStore, NewMessage
from service.storage.outbox import Delivery, DeliveryResult, Outbox, Room
from service.storage.queue import Begin, Claimed, MessageQueue, Move, Settlement
from service.storage.receipts import News, ReceiptStore
from service.storage.upkeep import Upkeep

BATCH: Final = 32
PAGE: Final = 50
_WAIT: Final = timedelta(hours=72)
_FLOOR_MARGIN: Final = timedelta(seconds=2)
"""As of the lanes: claims look no further back than this before what was claimed last."""


class Steps:
    """One database, and what each step took in it: `took` has seconds by name."""

    def __init__(self, database: Database, http: httpx.AsyncClient, client_id: UUID) -> None:
        self.took: dict[str, list[float]] = {}
        self._database = database
        self._http = http
        self._client_id = client_id
        self._worker_id = new_id()
        self._messages = MessageStore(database, keep_keys=_WAIT)
        self._queue = MessageQueue(database, receipt_wait=_WAIT)
        self._receipts = ReceiptStore(database, receipt_wait=_WAIT)
        self._outbox = Outbox(database)
        self._listing = MessageListing(database)
        self._upkeep = Upkeep(database)
        self._rows = 0
        self._window = datetime.now(UTC), datetime.now(UTC)
        self._old_ids: list[UUID] = []
        self._floors: dict[UUID, datetime] = {}

    async def begin(self) -> None:
        """Give the worker its lease."""
        await self._queue.enlist(self._worker_id, timedelta(days=1))

    async def grow(self, dsn: str, rows: int) -> None:
        """Add messages of before, until there are so many."""
        until = datetime.now(UTC) - timedelta(minutes=1)
        await history(dsn, self._client_id, self._rows + 1, rows, until)
        self._window = until - timedelta(days=DAYS), until - timedelta(days=1)  # without what was measured before
        found = await self._database.fetch(
            "SELECT id FROM messages TABLESAMPLE SYSTEM ($1)"
            " WHERE client_id = $2 AND status = 'delivered' AND created_at < $3",
            min(100.0, 100 * 10_000 / rows),
            self._client_id,
            self._window[1],
        )
        self._rows, self._old_ids = rows, [row["id"] for row in found]

    async def size_mb(self) -> float:
        """Of the database, indexes included."""
        [row] = await self._database.fetch("SELECT pg_database_size(current_database()) / 1e6::float8 AS mb")
        return float(row["mb"])

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what the body takes to the others of that name."""
        began_s = time.perf_counter()
        yield
        self.took.setdefault(name, []).append(time.perf_counter() - began_s)

    async def travel(self, kind: str = "") -> None:
        """Take a batch of messages all the way. `kind` stands before the names of the steps."""
        new = [_message(self._client_id) for _ in range(BATCH)]
        with self.timed(f"{kind}accept"):
            await asyncio.gather(*(self._messages.add(message, self._key(message.id.hex)) for message in new))
        claimed = await self._claim(kind)
        begins = [Begin(new_attempt_id(message.id), message.id, "primary", self._worker_id) for message in claimed]
        with self.timed(f"{kind}begin"):
            await asyncio.gather(*map(self._queue.begin, begins))
        with self.timed(f"{kind}settle"):
            await asyncio.gather(*(self._queue.settle(_accepted(begin)) for begin in begins))
        with self.timed(f"{kind}receipt"):
            await asyncio.gather(*(self._receipts.apply(_delivered(begin)) for begin in begins))
        with self.timed(f"{kind}webhook claim"):
            due, _ = await self._outbox.due_targets("", BATCH)
            rooms = {target.target: Room(BATCH, 0, target.client_id, BATCH, 0) for target in due}
            deliveries = await self._outbox.claim(self._worker_id, BATCH, rooms)
        with self.timed(f"{kind}webhook settle"):
            await asyncio.gather(*(self._outbox.settle(_acknowledged(delivery)) for delivery in deliveries))
        if not len(claimed) == len(deliveries) == BATCH:
            raise SystemExit(f"{len(claimed)} messages and {len(deliveries)} webhooks claimed, instead of {BATCH} each")

    async def _claim(self, kind: str) -> list[Claimed]:
        with self.timed(f"{kind}claim"):
            claimed = await self._queue.claim(Traffic.TRANSACTIONAL, self._worker_id, self._floors, BATCH)
        self._floors[self._client_id] = max(message.due_at for message in claimed) - _FLOOR_MARGIN
        with self.timed(f"{kind}claim none"):
            await self._queue.claim(Traffic.TRANSACTIONAL, self._worker_id, {}, BATCH)
        return claimed

    async def ask(self) -> None:
        """What callers ask of old messages."""
        number = random.randrange(2, self._rows, 2)  # noqa: S311 - any will do
        with self.timed("replay"):
            answer = await self._messages.add(_message(self._client_id), self._key(key_of(number)))
        delivered = random.randrange(100, self._rows + 1, 100)  # noqa: S311 - see `history`
        repeated = News("by id", None, provider_id_of(delivered), "delivered", 0, None, datetime.now(UTC))
        with self.timed("receipt by id"):
            await self._receipts.apply(repeated)
        old = random.choice(self._old_ids)  # noqa: S311 - any will do
        with self.timed("look-up"):
            found = await self._messages.message(old, self._client_id)
            await self._messages.history(old)
        if not isinstance(answer, Earlier) or found is None:
            raise SystemExit("an old message was not found")
        await self._list("list")
        await self._list("list by status", status="undelivered")
        await self._list("list by recipient", to=found["recipient"])
        await self._list("list by reference", reference=found["reference"])

    async def _list(self, name: str, **filters: Any) -> None:
        since, until = self._window
        with self.timed(name):
            page = await self._listing.page(Wanted(self._client_id, since, until, **filters), None, PAGE)
        if not page:
            raise SystemExit(f"nothing is listed for {filters}")

    async def look_after(self, kind: str = "") -> None:
        """What workers ask of themselves."""
        with self.timed(f"{kind}round"):
            await self._upkeep.dead_workers()
            await self._upkeep.stray_messages(self._worker_id, [])
            await self._upkeep.stray_deliveries(self._worker_id, [])
            await self._upkeep.without_receipt()
            await self._receipts.matched_orphans()
        with self.timed(f"{kind}lane depths"):
            await self._upkeep.lane_depths()
        with self.timed(f"{kind}forget keys"):
            await self._upkeep.forget_keys()

    async def get(self) -> None:
        """What callers ask, over HTTP."""
        old = random.choice(self._old_ids)  # noqa: S311 - any will do
        since, until = self._window
        window = {"created_after": since.isoformat(), "created_before": until.isoformat(), "limit": str(PAGE)}
        with self.timed("GET message"):
            answer = (await self._http.get(f"/v1/messages/{show('msg', old)}")).raise_for_status()
        found = answer.json()
        for name, filters in (
            ("GET list", {}),
            ("GET list by status", {"status": "undelivered"}),
            ("GET list by recipient", {"to": found["to"]}),
            ("GET list by reference", {"reference": found["reference"]}),
        ):
            with self.timed(name):
                page = (await self._http.get("/v1/messages", params=window | filters)).raise_for_status()
            if not page.json()["messages"]:
                raise SystemExit(f"nothing is listed for {filters}")

    @asynccontextmanager
    async def old_snapshot(self) -> AsyncIterator[None]:
        """A transaction, open meanwhile, that may still see whatever the body leaves behind."""
        async with self._database.writing() as connection, connection.transaction(isolation="repeatable_read"):
            await connection.execute("SELECT FROM workers")
            yield

    def _key(self, key: str) -> Key:
        return Key(self._client_id, "send", key, bytes(32))


def _message(client_id: UUID) -> NewMessage:
    return NewMessage(
        id=new_id(),
        client_id=client_id,
        to=f"+1555{random.randrange(10**7):07}",  # noqa: S311 - any will do
        sender="MyApp",
        text="Your parcel arrives today between 9 and 11.",
        traffic="transactional",
        country="US",
        encoding="gsm-7",
        segments=1,
        reference="order-1",
        callback_url="https://shop.example/hooks/sms",
        send_at=None,
        validity_s=86_400,
    )


def _accepted(begin: Begin) -> Settlement:
    return Settlement(
        begin.message_id,
        begin.worker_id,
        Move.SENT,
        attempt_id=begin.attempt_id,
        outcome="accepted",
        provider_message_id=_id_at_provider(begin),
    )


def _delivered(begin: Begin) -> News:
    return News("primary", begin.attempt_id, _id_at_provider(begin), "delivered", 0, None, datetime.now(UTC))


def _id_at_provider(begin: Begin) -> str:
    return begin.attempt_id.hex[::-1]  # without an order, as those of most providers


def _acknowledged(delivery: Delivery) -> DeliveryResult:
    return DeliveryResult(delivery.id, delivery.worker_id, "delivered", None, 200, None)
