"""A worker that is dead or stands still: others take its work over in the promised time, and nothing is doubled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from tests.chaos.config import CONFIG, edited
from tests.chaos.stage import Stage, a_stage
from tests.replicas.proof import assert_delivered_once, eventually

PROMISED_S: Final = 15
"""With the default `lease_s`."""
EACH: Final = 8
"""Messages in each of the states that a worker can die in."""

# Calls, look-ups and webhooks hang long enough to be under way when their worker dies.
SLOW_CONFIG: Final = edited(
    CONFIG,
    (", lease_s: 3", ""),
    ("timeout_s: 2, cost", "timeout_s: 10, cost"),
    ("budget_s: 0.5, timeout_s: 0.5", "budget_s: 20, timeout_s: 20"),
    ("timeout_s: 2}}", "timeout_s: 20}}"),
)


class Load:
    """Gives a worker `EACH` messages in each state: webhook under way, call under way, claimed but not yet called."""

    def __init__(self, stage: Stage, reference: str) -> None:
        self.message_ids: list[str] = []
        self._stage = stage
        self._reference = reference
        self._numbers = (f"+1{area}5550{ending}" for area in range(200, 1000) for ending in range(100, 200))

    async def put_on(self) -> None:
        """Only one worker may be running."""
        stage = self._stage
        known = [next(self._numbers) for _ in range(EACH)]
        await stage.primary.fault("none")
        heard = len(stage.listener.received)
        stage.listener.delay = 60
        await self._send(known)
        await stage.listener.wait_for(heard + EACH)
        await stage.primary.fault("hang")
        await self._send(known)  # their look-ups are cached, so they are called
        await self._send([next(self._numbers) for _ in range(EACH)])  # these wait for their look-ups
        await eventually(lambda: held(stage), lambda all_: list(all_.values())[-1:] == [(2 * EACH, EACH, EACH)])

    async def _send(self, numbers: list[str]) -> None:
        for number in numbers:
            reply = await self._stage.send(number, reference=self._reference)
            self.message_ids.append(reply["message_id"])


async def held(stage: Stage) -> dict[UUID, tuple[int, int, int]]:
    """What each worker holds: messages, how many of them have a call under way, webhooks. The oldest worker first."""
    rows = await stage.fetch(
        """
        SELECT w.id,
               (SELECT count(*) FROM messages WHERE worker_id = w.id) AS messages,
               (SELECT count(*) FROM messages AS m JOIN attempts AS a ON a.message_id = m.id
                WHERE m.worker_id = w.id AND a.outcome IS NULL) AS calls,
               (SELECT count(*) FROM webhook_deliveries WHERE worker_id = w.id) AS webhooks
        FROM workers AS w
        ORDER BY w.id
        """
    )
    return {row["id"]: (row["messages"], row["calls"], row["webhooks"]) for row in rows}


async def taken_over(stage: Stage, worker_id: UUID) -> float:
    """When this worker holds nothing any more, by `time.monotonic`."""
    await eventually(lambda: held(stage), lambda all_: not any(all_.get(worker_id, ())), PROMISED_S + 10)
    return time.monotonic()


async def test_the_work_of_a_killed_and_of_a_frozen_worker_is_taken_over_in_time_and_not_doubled(
    tmp_path: Path, cluster: Path
) -> None:
    reference = uuid4().hex
    async with a_stage(tmp_path, cluster, workers=3, config=SLOW_CONFIG, started=False) as stage:
        frozen, killed, heir = stage.workers
        await asyncio.gather(*(command.start() for command in (*stage.providers, *stage.serves, frozen)))
        load = Load(stage, reference)
        await load.put_on()
        [frozen_id] = await held(stage)
        frozen.stop()
        frozen_s = time.monotonic()
        await killed.start()
        await load.put_on()
        killed_id = [*await held(stage)][-1]
        await killed.kill()
        killed_s = time.monotonic()
        await heir.start()
        stage.listener.delay = 0
        await stage.primary.fault("none")

        took: dict[str, Any] = {
            "frozen": await taken_over(stage, frozen_id) - frozen_s,
            "killed": await taken_over(stage, killed_id) - killed_s,
        }
        assert max(took.values()) <= PROMISED_S, took
        await assert_delivered_once(stage, reference, load.message_ids)

        # Whatever the frozen one sends now, it can only send through the fallback, where nobody knows its keys.
        await stage.primary.fault("down")
        frozen.go_on()
        assert await frozen.terminate() == 0, "it ends once nothing is under way any more"
        assert stage.fallback.ledger() == []
        await assert_delivered_once(stage, reference, load.message_ids)
