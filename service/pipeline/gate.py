"""The gate before a provider: its breaker, its pace (MPS) and its calls in flight. OTPs have a reserve in each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from service.domain.health import Breaker, BreakerState
from service.domain.message import Traffic
from service.pipeline.pace import PATIENCE_S, Busy, Pace
from service.runtime import ProviderAccount, Runtime

_STATE_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Gate:
    """One provider's gate in this process; the pace is shared with all others. `now` is the clock of its breaker."""

    def __init__(self, account: ProviderAccount, runtime: Runtime, now: Callable[[], float] = time.monotonic) -> None:
        self.account = account
        self._now = now
        settings = account.settings
        self._breaker = Breaker()
        runtime.metrics.breaker.labels(account.name).set_function(lambda: _STATE_VALUES[self._breaker.state(now())])
        self._paused_until_s = 0.0
        self._all_calls = asyncio.Semaphore(settings.max_in_flight)
        self._other_calls = asyncio.Semaphore(max(1, int(settings.max_in_flight * (1 - settings.otp_reserve))))
        self._paces: dict[Traffic, Pace] = {}
        if settings.mps is not None:
            every = {f"mps:{account.name}": 1 / settings.mps}
            shared = {f"mps:{account.name}:other": 1 / (settings.mps * (1 - settings.otp_reserve))}
            self._paces = {lane: Pace(runtime.pacing, every | shared) for lane in Traffic}
            self._paces[Traffic.OTP] = Pace(runtime.pacing, every)

    @asynccontextmanager
    async def turn(self, traffic: Traffic, client_id: UUID) -> AsyncIterator[None]:
        """Wait for a turn to call and hold it while calling. Say what came of it with `record`.

        Raises:
            Busy: the breaker is open, the provider asked for a pause, or the turn is more than `PATIENCE_S` away.
        """
        self._check_open()
        if traffic in self._paces:
            await self._paces[traffic].wait(client_id)
        async with self._in_flight(traffic):
            self._check_open()
            self._breaker.allows(self._now())  # takes the one probe, where the breaker is half open
            yield

    def _check_open(self) -> None:
        now_s = self._now()
        if (wait_s := self._breaker.retry_at_s(now_s) - now_s) > 0:
            probing = self._breaker.state(now_s) is BreakerState.HALF_OPEN  # what it finds is known soon
            raise Busy(min(wait_s, PATIENCE_S) if probing else wait_s, down=True)
        if (wait_s := self._paused_until_s - now_s) > 0:
            raise Busy(wait_s)

    @asynccontextmanager
    async def _in_flight(self, traffic: Traffic) -> AsyncIterator[None]:
        kinds = [self._all_calls] if traffic is Traffic.OTP else [self._other_calls, self._all_calls]
        held: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                for calls in kinds:
                    await calls.acquire()
                    held.append(calls)
        except TimeoutError:
            for calls in held:
                calls.release()
            raise Busy(PATIENCE_S) from None
        try:
            yield
        finally:
            for calls in held:
                calls.release()

    def record(self, *, success: bool) -> None:
        """Tell the breaker what came of a call."""
        self._breaker.record(success, self._now())

    def pause(self, seconds: float) -> None:
        """The provider asked not to be called for a while."""
        self._paused_until_s = max(self._paused_until_s, self._now() + seconds)
