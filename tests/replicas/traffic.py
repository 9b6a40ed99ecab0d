"""Light traffic from callers who note what they were answered, and how long it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final
from uuid import uuid4

import aiohttp
import orjson

from tests.chaos.stage import Stage

_EVERY_S: Final = 0.05
_ABANDONED_AFTER_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """`status` 0: none came. `after_s`: how long it took. `retry_after`: the header, where it has one."""

    status: int
    after_s: float
    retry_after: str | None
    text: str


@dataclass(slots=True)
class Traffic:
    """What every request was answered so far; each request has a key, and is not repeated."""

    reference: str = field(default_factory=lambda: uuid4().hex)
    replies: list[Reply] = field(default_factory=list)
    unanswered: dict[str, str] = field(default_factory=dict)
    """Number by key, where no 200 came."""
    message_ids: set[str] = field(default_factory=set)

    def count(self, status: int) -> int:
        """How many replies have this status."""
        return sum(reply.status == status for reply in self.replies)

    def ok_in_a_row(self) -> int:
        """How many of the latest replies were 200."""
        return next((n for n, reply in enumerate(reversed(self.replies)) if reply.status != 200), len(self.replies))


@asynccontextmanager
async def traffic(stage: Stage) -> AsyncIterator[Traffic]:
    """Twenty sends a second through the door while the body runs; at its end every one has its answer."""
    seen = Traffic()
    requests: set[asyncio.Task[None]] = set()
    timeout = aiohttp.ClientTimeout(total=_ABANDONED_AFTER_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    headers = {"Authorization": f"Bearer {stage.api_keys['shop']}"}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as http:

        async def keep_on() -> None:
            for number in count():
                to = f"+1{200 + number // 1000}555{number % 1000 // 100}1{number % 100:02}"
                requests.add(asyncio.create_task(_send(http, stage, seen, to, uuid4().hex)))
                await asyncio.sleep(_EVERY_S)

        keeping_on = asyncio.create_task(keep_on())
        try:
            yield seen
        finally:
            keeping_on.cancel()
            await asyncio.gather(*requests)


async def repeat_unanswered(stage: Stage, seen: Traffic) -> None:
    """What a caller does who got no 200: the same request with the same key."""
    headers = {"Authorization": f"Bearer {stage.api_keys['shop']}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        for key, to in [*seen.unanswered.items()]:
            await _send(http, stage, seen, to, key)
    assert not seen.unanswered, seen.replies[-1]


async def _send(http: aiohttp.ClientSession, stage: Stage, seen: Traffic, to: str, key: str) -> None:
    callback_url = f"{stage.listener.url}/hook"
    body = {"to": to, "from": "MyApp", "message": "Hello", "reference": seen.reference, "callback_url": callback_url}
    seen.unanswered[key] = to
    began_s = time.monotonic()
    try:
        async with http.post(f"{stage.door.url}/v1/send", json=body, headers={"Idempotency-Key": key}) as answer:
            status, retry_after, text = answer.status, answer.headers.get("Retry-After"), await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        status, retry_after, text = 0, None, repr(error)
    seen.replies.append(Reply(status, time.monotonic() - began_s, retry_after, text))
    if status == 200:
        seen.message_ids.add(orjson.loads(text)["message_id"])
        del seen.unanswered[key]
