"""Rows by the million, made inside PostgreSQL: a history of messages, or a queue.

The rows are those that the gateway would have written, with the ids of their time, so they lie in the partitions of
their months. Nothing of the schema is dropped or disabled meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

DAYS: Final = 100
"""How far back a history goes: four or five months' partitions."""
_AT_ONCE: Final = 250_000
_OTHERS: Final = 19
_HASTE: Final = ("max_wal_size = '32GB'", "checkpoint_timeout = '1h'", "full_page_writes = off")

_MONTHS: Final = """
SELECT make_partition(parent, month::date)
FROM unnest(ARRAY['messages', 'attempts', 'receipts', 'webhook_deliveries', 'batches']) AS t (parent)
CROSS JOIN generate_series(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '4 months',
                           date_trunc('month', now() AT TIME ZONE 'UTC'), interval '1 month') AS m (month)
WHERE to_regclass(parent || to_char(month, '_YYYY_MM')) IS NULL
"""
_CLIENTS: Final = """
INSERT INTO clients (id, name, webhook_secret) SELECT new_id(), 'other ' || n, '' FROM generate_series(1, $1::int) AS n
ON CONFLICT DO NOTHING
"""
# A tenth are OTPs, three tenths marketing. Most are delivered, a few undelivered, failed, waiting for their receipt, or
# scheduled. Ids of providers and idempotency keys are random, as they are in life. The receipts of every second name
# nothing else than the provider's id.
_HISTORY: Final = """
WITH rows AS MATERIALIZED (
    SELECT n, at,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid AS id,
           CASE WHEN n % 2 = 0 THEN $1::uuid ELSE ($2::uuid[])[1 + n / 2 % cardinality($2)] END AS client_id,
           CASE WHEN n % 10 = 0 THEN 'otp' WHEN n % 10 < 4 THEN 'marketing' ELSE 'transactional' END AS traffic,
           CASE WHEN n % 20 = 2 AND at > $5 - interval '5 days' THEN 'queued'
                WHEN n % 10 = 5 AND at > $5 - interval '12 hours' THEN 'sent'
                WHEN n % 50 IN (8, 9) THEN 'undelivered' WHEN n % 100 = 14 THEN 'failed' ELSE 'delivered' END AS status
    FROM generate_series($3::int, $4::int) AS n
    CROSS JOIN LATERAL (SELECT $5::timestamptz - $6::interval * (1 - (n - $7::int)::float8 / ($8::int - $7)) AS at) AS t
), messages AS (
    INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments, reference,
                          callback_url, status, reason, error_code, due_at, send_at, expires_at, created_at, sent_at,
                          ended_at)
    SELECT id, client_id, '+1555' || lpad((n % 10000000)::text, 7, '0'), 'MyApp',
           CASE WHEN at > $5 - interval '7 days' AND traffic <> 'otp' THEN 'Your parcel ' || n || ' arrives today.' END,
           traffic, 'US', 'gsm-7', 1, 'order-' || n, 'https://shop.example/hooks/sms', status,
           CASE status WHEN 'undelivered' THEN 'absent_subscriber' WHEN 'failed' THEN 'expired' END,
           CASE status WHEN 'undelivered' THEN 27 WHEN 'delivered' THEN 0 END,
           CASE status WHEN 'queued' THEN $5 + interval '20 days' WHEN 'sent' THEN $5 + interval '3 days' END,
           CASE status WHEN 'queued' THEN $5 + interval '20 days' ELSE at END,
           CASE status WHEN 'queued' THEN $5 + interval '21 days' ELSE at + interval '12 hours' END,
           at, CASE WHEN status IN ('sent', 'delivered', 'undelivered') THEN at + interval '1 second' END,
           CASE WHEN status IN ('delivered', 'undelivered', 'failed') THEN at + interval '8 seconds' END
    FROM rows
), attempts AS (
    INSERT INTO attempts (id, message_id, provider, open, outcome, provider_message_id, receipt_key, started_at,
                          ended_at)
    SELECT (left(id::text, 28) || lpad(to_hex(n), 8, '0'))::uuid, id, CASE n % 2 WHEN 0 THEN 'by id' ELSE 'primary' END,
           status = 'sent', 'accepted', md5('sent ' || n), CASE n % 2 WHEN 0 THEN md5('sent ' || n) END, at,
           at + interval '1 second'
    FROM rows
    WHERE status IN ('sent', 'delivered', 'undelivered')
), receipts AS (
    INSERT INTO receipts (attempt_id, status, error_code, occurred_at, received_at)
    SELECT (left(id::text, 28) || lpad(to_hex(n), 8, '0'))::uuid, status,
           CASE status WHEN 'undelivered' THEN 27 ELSE 0 END, at + interval '8 seconds', at + interval '8 seconds'
    FROM rows
    WHERE status IN ('delivered', 'undelivered')
), webhooks AS (
    INSERT INTO webhook_deliveries (id, client_id, message_id, target, status, event_at, state, attempts, last_status,
                                    created_at, ended_at)
    SELECT (left(id::text, 28) || lpad(to_hex(n), 8, '0'))::uuid, client_id, id, client_id || ' https://shop.example',
           status, at + interval '8 seconds', 'delivered', 1, 200, at + interval '8 seconds', at + interval '9 seconds'
    FROM rows
    WHERE status IN ('delivered', 'undelivered', 'failed')
)
INSERT INTO idempotency_keys (client_id, endpoint, key, body_hmac, subject_id, expires_at)
SELECT client_id, 'send', md5(n::text), sha256(n::text::bytea), id, $5 + interval '3 days'
FROM rows
ORDER BY client_id, md5(n::text)  -- else each would touch another page of the index
"""
_QUEUED: Final = """
INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments, callback_url,
                      send_at, due_at, expires_at)
SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')
        || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
       $1, '+1201555' || lpad((100 + n % 100)::text, 4, '0'), $2, 'We open at nine.', 'marketing', 'US', 'gsm-7', 1, $3,
       now(), now(), now() + interval '12 hours'
FROM generate_series($4::int, $5::int) AS n
"""


def provider_id_of(number: int) -> str:
    """The provider's id of the message of that number. By those of even numbers receipts are found."""
    return hashlib.md5(f"sent {number}".encode(), usedforsecurity=False).hexdigest()


def key_of(number: int) -> str:
    """The idempotency key of the message of that number. Those of even numbers are the client's own."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


async def history(dsn: str, client_id: UUID, first: int, last: int, until: datetime) -> None:
    """Messages `first` to `last`, evenly over the time before `until`: half of them the client's, half of others.

    Each has its idempotency key, still alive, and what its status implies: attempt, receipt, webhook.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_MONTHS)
        await connection.execute(_CLIENTS, _OTHERS)
        await _set(connection, _HASTE)
        middle = (first + last) // 2
        await asyncio.gather(
            *(
                _make(dsn, begin, end, client_id, until, timedelta(days=DAYS), first - 1, last)
                for begin, end in ((first, middle), (middle + 1, last))
            )
        )
        await _set(connection, ())
        await connection.execute("VACUUM (ANALYZE)", timeout=1800)  # what autovacuum would do at a bad moment
        await connection.execute("CHECKPOINT", timeout=1800)
    finally:
        await connection.close()


async def _make(dsn: str, first: int, last: int, client_id: UUID, *arguments: Any) -> None:
    """One part of a history, on a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET synchronous_commit = off")
        others = [row["id"] for row in await connection.fetch("SELECT id FROM clients WHERE id <> $1", client_id)]
        for begin in range(first, last + 1, _AT_ONCE):
            end = min(begin + _AT_ONCE - 1, last)
            await connection.execute(_HISTORY, client_id, others, begin, end, *arguments, timeout=1800)
    finally:
        await connection.close()


async def _set(connection: asyncpg.Connection, settings: tuple[str, ...]) -> None:
    """Settings of the server, over its own."""
    await connection.execute("ALTER SYSTEM RESET ALL")
    for setting in settings:
        await connection.execute(f"ALTER SYSTEM SET {setting}")
    await connection.execute("SELECT pg_reload_conf()")


async def queue(dsn: str, client: str, sender: str, callback_url: str, messages: int) -> None:
    """Marketing messages of a client that are due now."""
    connection = await asyncpg.connect(dsn)
    try:
        client_id = await connection.fetchval("SELECT id FROM clients WHERE name = $1", client)
        for begin in range(0, messages, _AT_ONCE):
            end = min(begin + _AT_ONCE, messages) - 1
            await connection.execute(_QUEUED, client_id, sender, callback_url, begin, end, timeout=600)
        await connection.execute("ANALYZE messages", timeout=600)
    finally:
        await connection.close()
