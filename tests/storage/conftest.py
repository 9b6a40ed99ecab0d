from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from service.domain.ids import new_attempt_id, new_id
from service.domain.message import Traffic
from service.storage.database import Database
from service.storage.messages import MessageStore
from service.storage.numbers import NumberStore
from service.storage.outbox import Outbox
from service.storage.pacing import PacingStore
from service.storage.queue import Begin, Claimed, MessageQueue
from service.storage.receipts import ReceiptStore
from service.storage.suppressions import SuppressionStore
from service.storage.upkeep import Upkeep
from tests import rows
from tests.gateway import migrated_database, migrated_template


@dataclass(frozen=True, slots=True)
class Store:
    """Every store over one database, and one client."""

    database: Database
    client_id: UUID
    messages: MessageStore
    queue: MessageQueue
    receipts: ReceiptStore
    outbox: Outbox
    numbers: NumberStore
    suppressions: SuppressionStore
    pacing: PacingStore
    upkeep: Upkeep

    async def add(self, **changes: object) -> UUID:
        message = rows.a_message(self.client_id, **changes)
        await self.messages.add(message, None)
        return message.id

    async def worker(self) -> UUID:
        """A worker with a lease."""
        worker_id = new_id()
        await self.queue.enlist(worker_id, rows.LEASE)
        return worker_id

    async def claim(self, worker_id: UUID, lane: Traffic = Traffic.TRANSACTIONAL, limit: int = 100) -> list[Claimed]:
        return await self.queue.claim(lane, worker_id, {}, limit)

    async def claimed(self, worker_id: UUID, **changes: object) -> UUID:
        """A new message in the worker's hands."""
        message_id = await self.add(**changes)
        assert message_id in [message.id for message in await self.claim(worker_id)]
        return message_id

    async def begin(self, worker_id: UUID, message_id: UUID, provider: str = "primary") -> UUID:
        """An attempt whose call is under way."""
        attempt_id = new_attempt_id(message_id)
        assert await self.queue.begin(Begin(attempt_id, message_id, provider, worker_id)) is not None
        return attempt_id

    async def age(self, message_id: UUID, seconds: float) -> None:
        await rows.pass_time(self.database, message_id, seconds)

    async def row(self, message_id: UUID) -> dict[str, object]:
        return await rows.row(self.database, message_id)


def store_over(database: Database, client_id: UUID) -> Store:
    wait = timedelta(hours=72)
    return Store(
        database=database,
        client_id=client_id,
        messages=MessageStore(database, keep_keys=timedelta(hours=72)),
        queue=MessageQueue(database, receipt_wait=wait),
        receipts=ReceiptStore(database, receipt_wait=wait),
        outbox=Outbox(database),
        numbers=NumberStore(database),
        suppressions=SuppressionStore(database),
        pacing=PacingStore(database),
        upkeep=Upkeep(database),
    )


@pytest.fixture(scope="package")
async def template(postgres: str) -> str:
    """The name of a migrated database."""
    return await migrated_template(postgres)


@pytest.fixture(scope="package")
async def dsn(postgres: str, template: str) -> AsyncIterator[str]:
    async with migrated_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture(scope="package")
async def database(dsn: str) -> AsyncIterator[Database]:
    """A database of its own, shared by the tests of this folder."""
    database = await Database.open(dsn, connections=10)
    yield database
    await database.close()


@pytest.fixture
async def store(database: Database) -> Store:
    """Every store, over empty tables."""
    await rows.empty(database)
    return store_over(database, await rows.a_client(database))
