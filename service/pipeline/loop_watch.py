"""How late the event loop is. Whatever holds it holds every request and every message of the process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from service.metrics import Metrics

log = logging.getLogger(__name__)

LONGEST_S: Final = 0.05
"""The promise: nothing of ours holds the loop for longer."""
_INTERVAL_S: Final = 0.025


@asynccontextmanager
async def watching(metrics: Metrics) -> AsyncIterator[None]:
    """Measure the lag of the running loop while the body runs."""
    watch = LoopWatch(metrics)
    watch.tick()
    try:
        yield
    finally:
        watch.stop()


class LoopWatch:
    """Wants to be called every 25 ms and records how much later it was.

    What held the loop took up to 25 ms longer than the lag. The log says how much of the time this thread computed:
    much less than the lag means that the machine, not the service, was busy.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.perf_counter,
        computed: Callable[[], float] = time.thread_time,
    ) -> None:
        self._lag_s = metrics.loop_lag_s
        self._clock = clock
        self._computed = computed
        self._loop = asyncio.get_running_loop()
        self._due_s = clock()
        self._computed_s = computed()
        self._next: asyncio.TimerHandle | None = None

    def tick(self) -> None:
        """Record the lag and wait for the next time."""
        now_s, computed_s = self._clock(), self._computed()
        lag_s = max(0.0, now_s - self._due_s)
        self._lag_s.observe(lag_s)
        if lag_s > LONGEST_S:
            log.warning(
                "the event loop was held up",
                extra={"ms": round(lag_s * 1000), "computed_ms": round((computed_s - self._computed_s) * 1000)},
            )
        self._due_s, self._computed_s = now_s + _INTERVAL_S, computed_s
        self._next = self._loop.call_later(_INTERVAL_S, self.tick)

    def stop(self) -> None:
        """End it."""
        if self._next is not None:
            self._next.cancel()
