"""What the tests of this folder wait for and hold against: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from service.domain.ids import show
from tests.chaos.stage import Stage

Value = TypeVar("Value")


async def eventually(
    read: Callable[[], Awaitable[Value]], wanted: Callable[[Value], bool], within_s: float = 20.0
) -> Value:
    """What is read, once it is as wanted."""
    deadline_s = time.monotonic() + within_s
    while not wanted(value := await read()):
        assert time.monotonic() < deadline_s, f"after {within_s} s still {value!r}"
        await asyncio.sleep(0.05)
    return value


async def until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until this holds."""

    async def read() -> bool:
        return true()

    await eventually(read, bool, within_s)


async def assert_delivered_once(
    stage: Stage, reference: str, message_ids: Collection[str], within_s: float = 20.0
) -> None:
    """The messages with this reference are these; each was sent once, is `delivered`, and told of by one webhook."""
    wanted = set(message_ids)

    async def undelivered() -> list[tuple[str, str, str | None]]:
        rows = await stage.fetch(
            "SELECT id, status, reason FROM messages WHERE reference = $1 AND status <> 'delivered'", reference
        )
        return [(show("msg", row["id"]), row["status"], row["reason"]) for row in rows]

    async def untold() -> set[str]:
        return wanted - {message_id for message_id, _ in _told(stage)}

    await eventually(undelivered, lambda left: not left, within_s)
    await eventually(untold, lambda left: not left, within_s)
    stored = await stage.fetch("SELECT id FROM messages WHERE reference = $1", reference)
    assert {show("msg", row["id"]) for row in stored} == wanted, "what was answered is what is stored"
    keys = [send.key.partition(":")[0] for provider in stage.providers for send in provider.ledger()]
    sends = Counter(f"msg_{key}" for key in keys)
    assert {message_id: sends[message_id] for message_id in wanted} == dict.fromkeys(wanted, 1)
    told = Counter(message_id for message_id, _ in _told(stage))
    assert {message_id: told[message_id] for message_id in wanted} == dict.fromkeys(wanted, 1), "one webhook-id each"


def _told(stage: Stage) -> set[tuple[str, str]]:
    """The message and the id of each webhook that came; a repeat has the id of the first."""
    return {(hook.json()["message_id"], hook.headers["webhook-id"]) for hook in stage.listener.received}
