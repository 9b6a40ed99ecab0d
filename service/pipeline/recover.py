"""Recover: what dead workers left, receipts that never came, orphans, and what is past its time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from service.errors import StoreError
from service.pipeline.deliver import Deliver
from service.pipeline.lease import Lease
from service.pipeline.notify import Notify
from service.pipeline.receive import Receive
from service.runtime import Runtime
from service.storage.queue import Move, Settlement

log = logging.getLogger(__name__)

_ROUND_S = 1.0
_MEASURE_S = 5.0
_TIDY_S = 60.0
_ORPHAN_AGE = timedelta(days=7)
_TEXTS_A_ROUND = 2000


class Recover:
    """The rounds of one worker. Any number of workers may do them at once."""

    def __init__(self, runtime: Runtime, lease: Lease, deliver: Deliver, receive: Receive, notify: Notify) -> None:
        self._runtime = runtime
        self._upkeep = runtime.upkeep
        self._queue = runtime.queue
        self._retention = runtime.retention
        self._metrics = runtime.metrics
        self._lease = lease
        self._deliver = deliver
        self._receive = receive
        self._notify = notify
        self._suspects: set[UUID] = set()
        self._strays_at_s = 0.0
        self._measure_at_s = 0.0
        self._purge_at_s = 0.0
        self._retain_at_s = 0.0
        self._forget_at_s = 0.0

    async def run(self) -> None:
        """Recover and tidy up until cancelled, in two loops: what a dead worker left waits for no purge."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._repeat("recover", self.round))
            loops.create_task(self._repeat("tidy", self.tidy_round))

    async def _repeat(self, loop: str, round_: Callable[[], Awaitable[None]]) -> None:
        with self._runtime.pulse.of(loop, rests_s=_ROUND_S) as beat:
            while True:
                beat()
                await round_()
                await asyncio.sleep(_ROUND_S)

    async def round(self) -> None:
        """Once all that messages wait for."""
        await self._each(self._take_over, self._free_strays, self._receive.match_orphans, self._give_up_on_receipts)

    async def tidy_round(self) -> None:
        """Once all that may take its time."""
        await self._each(self._measure, self._forget, self._purge_texts, self._retain)

    async def _each(self, *tasks: Callable[[], Awaitable[object]]) -> None:
        """What fails is tried again in the next round and keeps nothing else from its turn."""
        for task in tasks:
            try:
                await task()
            except StoreError as error:
                self._metrics.worker_errors.labels("recover").inc()
                name = getattr(task, "__name__", "").strip("_")
                log.warning("recovery was cut short", extra={"task": name, "error": str(error)})

    async def _measure(self) -> None:
        if time.monotonic() >= self._measure_at_s:
            for lane, (depth, oldest_s) in (await self._upkeep.lane_depths()).items():
                self._metrics.lane_depth.labels(lane).set(depth)
                self._metrics.lane_oldest_s.labels(lane).set(oldest_s)
            self._measure_at_s = time.monotonic() + _MEASURE_S

    async def _purge_texts(self) -> None:
        """Some in each round until none is left, so that the rest of it does not wait for long."""
        if time.monotonic() >= self._purge_at_s and await self._retention.purge_texts(_TEXTS_A_ROUND) < _TEXTS_A_ROUND:
            self._purge_at_s = time.monotonic() + _TIDY_S

    async def _forget(self) -> None:
        """Some keys in each round, as with the texts."""
        if time.monotonic() >= self._forget_at_s and await self._upkeep.forget_keys():
            await self._runtime.receipts.forget_old_orphans(_ORPHAN_AGE)
            await self._runtime.health.forget()
            await self._upkeep.forget_targets()
            self._forget_at_s = time.monotonic() + _TIDY_S

    async def _retain(self) -> None:
        if time.monotonic() >= self._retain_at_s:
            self._retain_at_s = time.monotonic() + _TIDY_S
            await self._retention.make_partitions()
            for partition in await self._retention.drop_partitions():
                log.info("dropped a partition", extra={"partition": partition.name, "rows": partition.rows})
            await self._retention.forget_strays()

    async def _take_over(self) -> None:
        for worker_id in await self._upkeep.dead_workers():
            freed = await self._upkeep.take_over(worker_id)
            if freed:
                self._metrics.taken_over.inc(freed)
                log.warning("took over from a dead worker", extra={"worker": str(worker_id), "messages": freed})

    async def _free_strays(self) -> None:
        """Free what this worker holds on paper only.

        A claim can be committed before this process has heard of it, so only what was astray a round ago too counts,
        and nothing while a claim has been on its way for longer than that.
        """
        if min(self._deliver.claiming_since_s, self._notify.claiming_since_s) < self._strays_at_s:
            return
        self._strays_at_s = time.monotonic()
        worker_id = self._lease.worker_id
        messages = await self._upkeep.stray_messages(worker_id, self._deliver.under_way)
        deliveries = await self._upkeep.stray_deliveries(worker_id, self._notify.under_way)
        lost_messages = list(messages & self._suspects - set(self._deliver.under_way))
        lost_deliveries = list(deliveries & self._suspects - set(self._notify.under_way))
        if lost_messages or lost_deliveries:
            await self._upkeep.release(worker_id, lost_messages, lost_deliveries)
            log.warning(
                "freed what had been lost sight of",
                extra={"messages": len(lost_messages), "webhooks": len(lost_deliveries)},
            )
        self._suspects = messages | deliveries

    async def _give_up_on_receipts(self) -> None:
        overdue = await self._upkeep.without_receipt()
        moved = await asyncio.gather(
            *(
                self._queue.settle(Settlement(message_id, None, Move.NO_RECEIPT, reason="no_receipt"))
                for message_id in overdue
            )
        )
        if ended := sum(status is not None for status in moved):
            self._metrics.ended.labels("undelivered", "no_receipt").inc(ended)
            self._runtime.hints.webhooks.set()
