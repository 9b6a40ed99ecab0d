"""What `bench.attacks` does to the gateway. Each attack goes on while its context lasts, and ends with it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from urllib.parse import urlencode

import asyncpg

from bench.bystanders import a_key
from bench.callers import NICE, Assault, calling
from bench.fill import DAYS, history
from bench.hostile import THROTTLED_RECIPIENT, THROTTLED_SENDER
from bench.load import Plan, Result, measure
from bench.world import World, a_number

_FLOOD_BYTES: Final = 100_000_000
_PIECE_BYTES: Final = 50_000
_AFTER_S: Final = 30.0
"""How much longer than the observation callers may go on, should nobody end them."""
_MANY_KEYS: Final = """
INSERT INTO api_keys (id, client_id, key_hash, hint, scopes)
SELECT new_id(), clients.id, sha256(convert_to(gen_random_uuid()::text || n, 'UTF8')), 'bench', '{send,read}'
FROM clients CROSS JOIN generate_series(1, $1::int) AS n
WHERE clients.name = 'others'
"""
_NOT_AT_ONCE: Final = """
SELECT count(DISTINCT message_id) FROM attempts WHERE provider = 'primary' AND (outcome = 'unavailable' OR calls > 1)
"""
_SLOW_CALLS: Final = """
SELECT concat_ws(' ', outcome, reason), count(*) FROM attempts WHERE provider = 'slow' GROUP BY 1
"""
_NEVER: Final = """
SELECT count(*) FROM messages AS m
WHERE recipient LIKE '+1%' AND NOT EXISTS (SELECT FROM attempts AS a WHERE a.message_id = m.id)
"""
_NO_RECEIPT: Final = """
SELECT count(*) FROM messages WHERE status = 'sent' AND sent_at < now() - interval '1 second'
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where an attack takes place. `facts`: what it found out besides."""

    world: World
    hostile_ports: Sequence[int]
    seconds: float
    rows: int
    facts: dict[str, object] = field(default_factory=dict)


Doing: TypeAlias = Callable[[Stage], AbstractAsyncContextManager[None]]
"""An attack."""


# Half requests, and those without end.


def _head(path: str, *lines: str) -> str:
    given = "".join(f"{line}\r\n" for line in lines)
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{given}\r\n"


def _key(stage: Stage) -> str:
    return f"Authorization: {stage.world.headers['others']['Authorization']}"


def _flood(stage: Stage, begins: str, piece: str) -> AbstractAsyncContextManager[None]:
    ports = (stage.world.ports["serve"], stage.world.ports["worker"])
    head = _head("/v1/send", "Transfer-Encoding: chunked") + begins
    pieces = piece * (_PIECE_BYTES // len(piece))
    return calling(Assault(ports, 4, head, stage.seconds + _AFTER_S, piece=pieces, most_bytes=_FLOOD_BYTES))


def trailers(stage: Stage) -> AbstractAsyncContextManager[None]:
    """Without a key: lines without end after the last chunk, to both processes."""
    return _flood(stage, "0\r\n", "a:b\r\n")


def chunk_extensions(stage: Stage) -> AbstractAsyncContextManager[None]:
    """Without a key: a chunk whose extension has no end, to both processes."""
    return _flood(stage, "1;", "a")


def _half(stage: Stage, path: str, connections: int) -> AbstractAsyncContextManager[None]:
    head = _head(path, _key(stage), "Content-Length: 200")
    return calling(Assault((stage.world.ports["serve"],), connections, head, stage.seconds + _AFTER_S))


def half_sends(stage: Stage) -> AbstractAsyncContextManager[None]:
    """1,010 sends of one client whose bodies never come."""
    return _half(stage, "/v1/send", 1_010)


def half_previews(stage: Stage) -> AbstractAsyncContextManager[None]:
    """The same with 510 previews."""
    return _half(stage, "/v1/messages/preview", 510)


def half_bulks(stage: Stage) -> AbstractAsyncContextManager[None]:
    """The same with 40 bulks."""
    return _half(stage, "/v1/send/bulk", 40)


@asynccontextmanager
async def half_receipts(stage: Stage) -> AsyncIterator[None]:
    """The same with 510 receipts, for which nobody needs a key."""
    async with _half(stage, "/v1/receipts/primary/none", 510):
        yield
        stage.facts["bystanders' receipts not taken"] = await stage.world.count(_NO_RECEIPT)


@asynccontextmanager
async def endpoint_tests(stage: Stage) -> AsyncIterator[None]:
    """510 tests of an endpoint that hangs, whose callers do not wait for the answer."""
    body = {"url": f"http://127.0.0.1:{stage.hostile_ports[0]}/hang"}
    answer = await stage.world.http.post("/v1/webhooks", json=body, headers=stage.world.headers["others"])
    answer.raise_for_status()
    head = _head(f"/v1/webhooks/{answer.json()['endpoint_id']}/test", _key(stage), "Content-Length: 0")
    async with calling(Assault((stage.world.ports["serve"],), 510, head, stage.seconds + _AFTER_S, vanish=True)):
        yield


# Receivers of webhooks.


async def _messages(stage: Stage, url: str, recipients: int) -> None:
    """Of another client; each delivered one has a webhook to that URL."""
    numbers = [a_number() for _ in range(recipients)]
    body = {"from": "MyApp", "message": "Your parcel arrives today.", "recipients": numbers, "callback_url": url}
    answer = await stage.world.http.post("/v1/send/bulk", json=body, headers=stage.world.headers["others"])
    answer.raise_for_status()


@asynccontextmanager
async def _receivers(stage: Stage, path: str, origins: int, each: int) -> AsyncIterator[None]:
    for port in stage.hostile_ports[:origins]:
        await _messages(stage, f"http://127.0.0.1:{port}{path}", each)
    yield


def receiver_trailers(stage: Stage) -> AbstractAsyncContextManager[None]:
    """16 webhooks whose receivers answer with 800,000 lines after the last chunk."""
    return _receivers(stage, "/trailers", 2, 8)


def receiver_endless(stage: Stage) -> AbstractAsyncContextManager[None]:
    """320 webhooks to 20 receivers whose answers stop one byte before the end of 2 MiB."""
    return _receivers(stage, "/endless", 20, 16)


# Whole requests, too many.


@asynccontextmanager
async def _loads(stage: Stage, plans: Sequence[Plan], ahead_s: float = 1.0) -> AsyncIterator[None]:
    """They have gone on for `ahead_s`, and end by themselves."""
    loads = [asyncio.create_task(measure(plan, nice=NICE)) for plan in plans]
    await asyncio.sleep(ahead_s)
    yield
    for result in await asyncio.gather(*loads, return_exceptions=True):
        if isinstance(result, Result):
            for status, number in result.statuses.items():
                stage.facts[f"their {status}"] = int(str(stage.facts.get(f"their {status}", 0))) + number
        else:
            stage.facts["a load failed"] = type(result).__name__


def _sends(stage: Stage, sender: str, to: str = "{to}") -> Plan:
    """40 a second of another client."""
    body = json.dumps({"to": to, "from": sender, "message": "Your parcel arrives today."})
    return Plan(f"{stage.world.url}/v1/send", stage.world.headers["others"], body, 8, stage.seconds + 1, rate=40)


def wrong_keys(stage: Stage, per_s: float | None = None) -> AbstractAsyncContextManager[None]:
    """1,100 connections, each with a new wrong key as soon as the last was refused, or so many a second in all."""
    headers = {"Authorization": "Bearer smsk_{n}"}
    return _loads(stage, [replace(_sends(stage, "MyApp"), headers=headers, connections=1_100, rate=per_s)])


@asynccontextmanager
async def reads(stage: Stage, connections: int) -> AsyncIterator[None]:
    """One `read` key, and so many lists at once, over a table with rows."""
    key = await a_key(stage.world, "others", "read")
    since = (datetime.now(UTC) - timedelta(days=DAYS)).isoformat(timespec="seconds")
    filters = ({"status": "failed"}, {"traffic": "marketing"}, {"to": "+15550000077"}, {"reference": "order-7"})
    plans = []
    for number, one in enumerate(filters):
        query = urlencode({"limit": 500, "created_after": since} | one)
        share = connections // len(filters) + (number < connections % len(filters))
        plans.append(Plan(f"{stage.world.url}/v1/messages?{query}", key, "", share, stage.seconds + 1))
    async with _loads(stage, plans):
        yield


# Providers.


def sender_throttled(stage: Stage) -> AbstractAsyncContextManager[None]:
    """Of one sender the provider wants no more: 40 messages a second of it, and the OTPs of another."""
    return _loads(stage, [_sends(stage, THROTTLED_SENDER)])


def recipient_throttled(stage: Stage) -> AbstractAsyncContextManager[None]:
    """The same with one recipient."""
    return _loads(stage, [_sends(stage, "MyApp", THROTTLED_RECIPIENT)])


@asynccontextmanager
async def slow_provider(stage: Stage) -> AsyncIterator[None]:
    """Another client's messages of each class to a provider that takes 20 s; the bystanders' go by another."""
    control = f"http://127.0.0.1:{stage.world.ports['slow'] + 10}/faults"
    (await stage.world.http.put(control, json={"fault": "none", "latency_s": 20})).raise_for_status()
    plans = [_sends(stage, sender, "+447700900123") for sender in ("MyAppOTP", "MyApp", "MyAppPromo")]
    async with _loads(stage, [replace(plan, seconds=plan.seconds + 4, rate=60) for plan in plans], ahead_s=5):
        yield
        stage.facts["not submitted at once"] = await stage.world.count(_NOT_AT_ONCE)
        for outcome, number in await stage.world.fetch(_SLOW_CALLS):
            stage.facts[f"slow: {outcome or 'under way'}"] = number
        stage.facts["not yet submitted"] = await stage.world.count(_NEVER)


# Many rows.


@asynccontextmanager
async def many_keys(stage: Stage) -> AsyncIterator[None]:
    """10,000 keys."""
    connection = await asyncpg.connect(stage.world.dsn)
    try:
        await connection.execute(_MANY_KEYS, 10_000)
    finally:
        await connection.close()
    yield


async def fill(stage: Stage) -> None:
    """A history for the lists, half of it of the client that reads."""
    client = (await stage.world.fetch("SELECT id FROM clients WHERE name = 'others'"))[0]["id"]
    began_s = time.monotonic()
    await history(stage.world.dsn, client, 1, stage.rows, datetime.now(UTC))
    stage.facts["filled in s"] = round(time.monotonic() - began_s)
