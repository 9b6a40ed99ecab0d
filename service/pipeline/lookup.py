"""HLR look-ups: cached in PostgreSQL, one at a time for each number."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial

from service.domain.hlr import HlrResult, HlrStatus
from service.domain.msisdn import mask
from service.errors import HttpError, StoreError
from service.runtime import Runtime

log = logging.getLogger(__name__)


class Lookup:
    """Answers what the HLR says of a number."""

    def __init__(self, runtime: Runtime) -> None:
        self._numbers = runtime.numbers
        self._source = runtime.hlr_source
        self._http = runtime.lookup_http
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._settings = runtime.config.hlr
        self._under_way: dict[str, asyncio.Task[HlrResult | None]] = {}
        self._waited_for: Counter[asyncio.Task[HlrResult | None]] = Counter()

    async def cached(self, number: str, max_age_s: float | None = None) -> HlrResult | None:
        """What is on record, if it is alive and no older than `max_age_s`."""
        max_age = None if max_age_s is None else timedelta(seconds=max_age_s)
        result = await self._numbers.hlr(number, max_age)
        if result is not None:
            self._metrics.hlr.labels("cache", result.status.value).inc()
        return result

    async def live(self, number: str, budget_s: float) -> HlrResult | None:
        """Ask the source; None where there is none, it fails, or it takes longer than `budget_s`.

        Callers who ask for one number at the same time share one look-up. It goes on after the budget, so that the
        next caller finds its result. When all who asked were cancelled it ends, so that no more are on their way than
        are waited for.
        """
        if self._source is None:
            return None
        task = self._under_way.get(number)
        if task is None:
            task = asyncio.create_task(self._ask(number))
            self._under_way[number] = task
            task.add_done_callback(partial(self._forget, number))
        self._waited_for[task] += 1
        try:
            done, _ = await asyncio.wait({task}, timeout=budget_s)
        except asyncio.CancelledError:
            if self._waited_for[task] == 1:
                task.cancel()
                self._forget(number, task)
            raise
        finally:
            self._waited_for[task] -= 1
            if not self._waited_for[task]:
                del self._waited_for[task]
        return task.result() if done else None

    def _forget(self, number: str, task: asyncio.Task[HlrResult | None]) -> None:
        if self._under_way.get(number) is task:
            del self._under_way[number]

    async def _ask(self, number: str) -> HlrResult | None:
        assert self._source is not None  # noqa: S101 - live() checked
        began = time.perf_counter()
        self._metrics.hlr_cost.inc(self._settings.cost)
        request = self._source.lookup_request(number)
        try:
            with self._tracing.lookup(request, self._settings.provider) as span:
                response = await self._http.send(request, timeout_s=self._settings.timeout_s)
                span.answered(response.status_code)
        except HttpError as error:
            self._metrics.hlr.labels("live", "error").inc()
            log.warning("HLR look-up failed", extra={"number": mask(number), "error": str(error)})
            return None
        self._metrics.hlr_s.observe(time.perf_counter() - began)
        result = self._source.lookup_result(number, response, datetime.now(UTC))
        self._metrics.hlr.labels("live", result.status.value).inc()
        await self._keep(result)
        return result

    async def learn_dead(self, number: str, error_code: int | None, source: str) -> None:
        """A carrier said that nobody has this number: no money is spent on it for a while."""
        await self._keep(HlrResult(number, HlrStatus.INVALID, datetime.now(UTC), source=source, error_code=error_code))

    async def _keep(self, result: HlrResult) -> None:
        if result.status is HlrStatus.UNKNOWN:
            return
        active = result.status is HlrStatus.ACTIVE
        lifetime_s = self._settings.positive_ttl_s if active else self._settings.negative_ttl_s
        try:
            await self._numbers.keep_hlr(result, timedelta(seconds=lifetime_s))
        except StoreError as error:
            log.warning("an HLR result was not cached", extra={"error": str(error)})
