"""Messages to put into a test's database, and ways to look at it and to move its clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from service.domain.ids import new_id
from service.storage.clients import ClientStore
from service.storage.database import Database
from service.storage.messages import NewMessage
from service.storage.outbox import Delivery, Outbox, Room

TABLES = (
    "messages", "attempts", "receipts", "orphan_receipts", "idempotency_keys", "batches", "webhook_deliveries",
    "webhook_targets", "webhook_endpoints", "hlr_results", "suppressions", "pacing", "health_samples",
    "health_standings", "provider_pauses", "workers", "text_purges", "api_keys", "clients",
)  # fmt: skip
LEASE = timedelta(minutes=10)


async def empty(database: Database) -> None:
    """Every table without rows again. Unlike TRUNCATE this needs no sync of each file."""
    await database.execute("DO $$ BEGIN " + " ".join(f"DELETE FROM {table};" for table in TABLES) + " END $$")  # noqa: S608 - names of our own


async def a_client(database: Database, name: str = "shop", sealed_secret: bytes = b"sealed") -> UUID:
    client_id, _ = await ClientStore(database).ensure_client(name, sealed_secret)
    return client_id


def a_message(client_id: UUID, /, **changes: Any) -> NewMessage:
    defaults: dict[str, Any] = {
        "id": new_id(),
        "client_id": client_id,
        "to": "+15555550100",
        "sender": "MyApp",
        "text": "hello",
        "traffic": "transactional",
        "country": "US",
        "encoding": "gsm-7",
        "segments": 1,
        "reference": None,
        "callback_url": "http://shop.example/hook",
        "send_at": None,
        "validity_s": 600.0,
    }
    return NewMessage(**(defaults | changes))


async def row(database: Database, message_id: UUID) -> dict[str, Any]:
    """The whole row of a message, with how many seconds from now it is due and expires."""
    found = await database.fetchrow(
        "SELECT *, extract(epoch FROM due_at - now())::float8 AS due_in_s,"
        " extract(epoch FROM expires_at - now())::float8 AS left_s FROM messages WHERE id = $1",
        message_id,
    )
    assert found is not None
    return dict(found)


async def attempts(database: Database, message_id: UUID) -> list[dict[str, Any]]:
    """Oldest first."""
    query = "SELECT * FROM attempts WHERE message_id = $1 ORDER BY started_at"
    return [dict(found) for found in await database.fetch(query, message_id)]


async def webhooks(database: Database, message_id: UUID) -> list[dict[str, Any]]:
    """What the outbox holds for a message, oldest first."""
    return [
        dict(found)
        for found in await database.fetch(
            "SELECT * FROM webhook_deliveries WHERE message_id = $1 ORDER BY created_at, id", message_id
        )
    ]


async def pass_time(database: Database, message_id: UUID, seconds: float) -> None:
    """Let `seconds` pass for one message."""
    await database.execute(
        "UPDATE messages SET due_at = due_at - make_interval(secs => $2),"
        " send_at = send_at - make_interval(secs => $2), expires_at = expires_at - make_interval(secs => $2)"
        " WHERE id = $1",
        message_id,
        seconds,
    )


async def make_due(database: Database) -> None:
    """Whatever waits in the queue is due now."""
    await database.execute("UPDATE messages SET due_at = now() WHERE due_at > now()")


async def end_lease(database: Database, worker_id: UUID) -> None:
    await database.execute("UPDATE workers SET expires_at = now() - interval '1 second' WHERE id = $1", worker_id)


async def claim_webhooks(
    outbox: Outbox, worker_id: UUID, limit: int = 100, per_target: int = 100, **calls: int
) -> list[Delivery]:
    """What is due, `per_target` of each target together with its `calls`, and one of a target that failed."""
    rooms = {
        due.target: Room(
            (1 if due.failures else per_target) - calls.get(due.target, 0),
            calls.get(due.target, 0),
            due.client_id,
            1_000,
            0,
        )
        for due in (await outbox.due_targets("", 1_000))[0]
        if not due.blocked
    }
    rooms = {name: room for name, room in rooms.items() if room.most > 0}
    return await outbox.claim(worker_id, limit, rooms) if rooms else []
