"""Limits of the callers: how many sends, bulk recipients and look-ups a client may ask for.

The truth is a GCRA row in PostgreSQL, so the limit holds over every replica. A replica takes what a tenth of a second
is worth at once and spends it here; what it has not spent by then is dropped. Refusals are remembered for as long as
they hold, so that a client who hammers costs the database nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from uuid import UUID

from service.domain.pacing import Rate
from service.errors import Problem
from service.runtime import Runtime
from service.storage.batch import PATIENCE_S, Batcher
from service.storage.clients import Principal
from service.storage.pacing import PacingStore

LEASE_S = 0.1


class Limit(StrEnum):
    """What is limited, each on its own."""

    SEND = "send"
    BULK = "bulk"
    """In recipients."""
    HLR = "hlr"


class Limits:
    """Asks for tokens, and says 429 where there are none."""

    def __init__(self, runtime: Runtime, now: Callable[[], float] = time.monotonic) -> None:
        self._pacing = runtime.pacing
        rates = runtime.config.limits.rates
        self._defaults = {Limit(name): Rate(rate.per_s, rate.burst) for name, rate in rates.items()}
        self._now = now
        self._tokens: dict[tuple[UUID, Limit], _Tokens] = {}

    async def take(self, principal: Principal, limit: Limit, cost: int = 1) -> None:
        """Spend `cost` tokens of the caller.

        Raises:
            Problem: 429 with the time to wait; 422 where no waiting would help, because `cost` exceeds the burst.
            StoreOverloaded: PostgreSQL did not answer.
        """
        rate = principal.limits.get(limit) or self._defaults.get(limit)
        if rate is None:
            return
        if cost > rate.burst:
            raise Problem(
                422,
                "too_many_for_limit",
                f"This client may send to {rate.burst} recipients at once. Split the bulk into smaller ones.",
            )
        tokens = self._tokens.get((principal.client_id, limit))
        if tokens is None or tokens.rate != rate:
            # A limit that changes begins anew: what was counted at another rate means nothing.
            key = f"limit:{limit}:{principal.client_id}:{rate.per_s:g}:{rate.burst}"
            tokens = self._tokens[principal.client_id, limit] = _Tokens(key, rate, self._pacing, self._now)
        wait_s = await tokens.take(cost)
        if wait_s > 0:
            raise _too_many(limit, rate, wait_s)

    async def give_back(self, principal: Principal, limit: Limit, cost: int = 1) -> None:
        """A replay costs nothing: what was spent on it goes back to where every replica finds it."""
        tokens = self._tokens.get((principal.client_id, limit))
        if tokens is not None:
            await self._pacing.give_back(tokens.key, cost / tokens.rate.per_s)


def _too_many(limit: Limit, rate: Rate, wait_s: float) -> Problem:
    """429 with what the caller needs to know (draft-ietf-httpapi-ratelimit-headers)."""
    wait = math.ceil(wait_s)
    return Problem(
        429,
        "rate_limited",
        "Wait as `Retry-After` says, then repeat with the same Idempotency-Key.",
        headers={
            "Retry-After": str(wait),
            "RateLimit": f'"{limit}";r=0;t={wait}',
            "RateLimit-Policy": f'"{limit}";q={rate.burst};w={math.ceil(rate.burst / rate.per_s)}',
        },
    )


class _Tokens:
    """What this replica has of one client's limit. Single events are taken ahead, a bulk always asks."""

    def __init__(self, key: str, rate: Rate, pacing: PacingStore, now: Callable[[], float]) -> None:
        self.key = key
        self.rate = rate
        self._pacing = pacing
        self._now = now
        self._interval_s = 1 / rate.per_s
        self._spare = 0
        self._spare_until_s = 0.0
        self._refused_until_s = 0.0
        self._asking: Batcher[None, float] = Batcher(self._ask, patience_s=PATIENCE_S)

    async def take(self, cost: int) -> float:
        """How long to wait; 0: it is granted."""
        if cost > 1:
            admission = await self._pacing.admit(self.key, self._interval_s, self.rate.burst, cost, cost)
            return admission.retry_after_s
        now_s = self._now()
        if now_s < self._spare_until_s and self._spare > 0:
            self._spare -= 1
            return 0.0
        if now_s < self._refused_until_s:
            return self._refused_until_s - now_s
        return await self._asking.submit(None)

    async def _ask(self, waiting: Sequence[None]) -> list[float]:
        """One question to the database for all who wait, and for a tenth of a second ahead."""
        most = min(self.rate.burst, max(len(waiting), round(self.rate.per_s * LEASE_S)))
        admission = await self._pacing.admit(self.key, self._interval_s, self.rate.burst, 1, most)
        now_s, granted = self._now(), admission.granted
        self._spare, self._spare_until_s = max(0, granted - len(waiting)), now_s + LEASE_S
        if not granted:
            self._refused_until_s = now_s + admission.retry_after_s
        # Where some were granted, the next slot is one interval away; else it is as far as the database says.
        wait_s = self._interval_s if granted else admission.retry_after_s
        return [0.0] * min(granted, len(waiting)) + [wait_s] * max(0, len(waiting) - granted)
