"""Screen: may this number be sent to, and is anybody there? Before money is spent."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.hlr import HlrStatus
from service.domain.routing import HlrPolicy, Route
from service.pipeline.lookup import Lookup
from service.runtime import Runtime
from service.storage.queue import Claimed


@dataclass(frozen=True, slots=True)
class Stop:
    """The message must not go out. `retry`: not now; else never, for `reason`."""

    reason: str
    error_code: int | None = None
    retry: bool = False


class Screen:
    """Checks a claimed message against the suppression list and the HLR."""

    def __init__(self, runtime: Runtime, lookup: Lookup) -> None:
        self._metrics = runtime.metrics
        self._budget_s = runtime.config.hlr.budget_s
        self._costs = {name: provider.cost for name, provider in runtime.config.providers.items()}
        self._lookup = lookup

    async def __call__(self, message: Claimed, route: Route) -> Stop | None:
        """Why the message stops here, or None: go on."""
        if message.known.suppressed:
            return Stop("suppressed")
        if route.hlr is HlrPolicy.OFF:
            return None
        result = message.known.hlr
        if result is not None:
            self._metrics.hlr.labels("cache", result.status.value).inc()
        elif route.hlr is HlrPolicy.REQUIRED:
            result = await self._lookup.live(message.to, self._budget_s)
            if result is None or result.status is HlrStatus.UNKNOWN:
                return None if route.hlr_fails_open else Stop("hlr_unavailable", retry=True)
        if result is not None and result.status is HlrStatus.INVALID:
            self._metrics.hlr_saved.inc(self._costs[route.providers[0]])
            return Stop("number_unreachable", result.error_code)
        return None
