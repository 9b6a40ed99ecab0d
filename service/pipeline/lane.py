"""A lane: claims due messages of one traffic class and works on a bounded number of them at once."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from service.domain.message import Traffic
from service.errors import StoreError
from service.pipeline.lease import Lease
from service.runtime import Runtime
from service.storage.batch import TO_PROVIDER_EVERY_S
from service.storage.queue import Claimed, Walk

log = logging.getLogger(__name__)

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_DEFAULT_LIMIT = 512
_NEW_S = 1.0
"""Since it was to go out. What waits for a provider's pace is older and comes one by one, so it is left to the poll."""
_FLOOR_LIFETIME_S = 10.0
_FLOOR_MARGIN = timedelta(seconds=2)
_FLOORS = 100
"""Of so many clients at most: every step of a claim from client to client looks at all of them."""


Deliver: TypeAlias = Callable[[Claimed, asyncio.Task[None] | None], Coroutine[Any, Any, None]]
"""Works on a message, after this worker's earlier work on it where that is still under way."""


class Lane:
    """Claims due messages of one traffic class, as many as `room` says that providers have places for.

    What is claimed beyond that would only be put back. The lane's own limit bounds the memory of all.
    """

    def __init__(
        self, runtime: Runtime, lease: Lease, traffic: Traffic, deliver: Deliver, room: Callable[[Traffic], int]
    ) -> None:
        self._runtime = runtime
        self._lease = lease
        self._traffic = traffic
        self._deliver = deliver
        self._room = room
        self._limit = runtime.config.deliver.lanes.get(traffic, _DEFAULT_LIMIT)
        self._poll_s = runtime.config.deliver.poll_s
        self._wake = runtime.hints.lanes[traffic]
        self._floors: dict[UUID, datetime] = {}
        self._floors_until_s = 0.0
        self._walk = Walk()
        self.claiming_since_s = math.inf
        self.under_way: dict[UUID, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Claim and work until cancelled."""
        with self._runtime.pulse.of(self._traffic.value, rests_s=self._poll_s) as beat:
            while True:
                beat()
                await self._round()

    async def _round(self) -> None:
        began_s = time.monotonic()
        free = min(self._limit - len(self.under_way), self._room(self._traffic))
        if free <= 0 or not self._walk.may_be_more:  # else who woke may be behind: the walk goes round again at once
            self._wake.clear()
        claimed = await self._claim(free) if free > 0 else []
        every_s = TO_PROVIDER_EVERY_S[self._traffic]
        # Where new ones came, more will: they are looked for without a hint, unless nothing keeps the looks apart.
        flowing = every_s > 0 and any(message.age_s < _NEW_S for message in claimed)
        if free <= 0 or (len(claimed) < free and not flowing and not self._walk.may_be_more):
            await self._rest()
        # A claim costs as much for one as for many. Without that wait too, what was claimed must come to its provider
        # before it is asked for room again.
        await asyncio.sleep(max(0.0, began_s + every_s - time.monotonic()))

    async def _rest(self) -> None:
        """Until something was accepted, a place is free, or it is time to look again."""
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _claim(self, free: int) -> list[Claimed]:
        self.claiming_since_s = time.monotonic()
        try:
            self._reset_floors()
            messages = await self._runtime.queue.claim(
                self._traffic, self._lease.worker_id, self._floors, free, self._walk
            )
        except StoreError as error:
            self._runtime.metrics.worker_errors.labels("claim").inc()
            self._floors_until_s = 0.0  # a crash may have taken claims back, and what is due again lies below them
            log.warning("nothing could be claimed", extra={"lane": self._traffic.value, "error": str(error)})
            return []
        finally:
            self.claiming_since_s = math.inf
        for message in messages:
            self._raise_floor(message.client_id, message.due_at - _FLOOR_MARGIN)
            self._runtime.metrics.queue_wait_s.labels(self._traffic.value).observe(message.waited_s)
            task = asyncio.create_task(self._deliver(message, self.under_way.get(message.id)))
            self.under_way[message.id] = task
            task.add_done_callback(partial(self._done, message.id))
        self._runtime.metrics.in_flight.labels(self._traffic.value).set(len(self.under_way))
        return messages

    def _done(self, message_id: UUID, task: asyncio.Task[None]) -> None:
        full = len(self.under_way) >= self._limit
        # A message that was put back may have been claimed again already, before this task had quite ended.
        if self.under_way.get(message_id) is task:
            del self.under_way[message_id]
        if full:
            self._wake.set()

    def _raise_floor(self, client_id: UUID, floor_at: datetime) -> None:
        """Those of the clients that were claimed from last are kept."""
        self._floors[client_id] = max(self._floors.pop(client_id, _LONG_AGO), floor_at)
        if len(self._floors) > _FLOORS:
            del self._floors[next(iter(self._floors))]

    def _reset_floors(self) -> None:
        """Look from the beginning again now and then: a slow commit can be due before what was claimed last."""
        if time.monotonic() >= self._floors_until_s:
            self._floors.clear()
            self._floors_until_s = time.monotonic() + _FLOOR_LIFETIME_S
