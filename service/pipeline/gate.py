"""The gate before a provider: its breaker, its pace (MPS) and its calls in flight. OTPs have a reserve in each."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from service.domain.health import Breaker, BreakerState, Pass
from service.domain.message import Traffic
from service.domain.outcome import About
from service.pipeline.in_flight import InFlight
from service.pipeline.pace import PATIENCE_S, RESERVE_AHEAD_S, Busy, Pace
from service.pipeline.pauses import MAX_PAUSE_S, Pauses
from service.runtime import ProviderAccount, Runtime

log = logging.getLogger(__name__)

_STATE_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

_HELD_RETRY_S = 2.0
_ROOM_BEHIND_CLOSED: Final = 8
"""What a lane claims for a closed provider at once: such messages go on to another, or back into the queue."""
_REFUSES_S = 60.0
"""For how long a sender that was refused goes to other providers first."""


class Call:
    """A call that has its turn."""

    def __init__(self, breaker: Breaker, passed: Pass, in_flight: InFlight, now: Callable[[], float]) -> None:
        self._breaker = breaker
        self._passed = passed
        self._in_flight = in_flight
        self._now = now

    def end(self, *, success: bool, overloaded: bool = False, took_s: float | None = None) -> bool:
        """Say what came of the call. Returns whether the breaker opened by that.

        `success`: the provider works. `overloaded`: it has too much to do. `took_s`: where it did what it was asked.
        """
        self._in_flight.end(took_s, bad=overloaded)
        return self._breaker.end(self._passed, success, self._now())


class Gate:
    """One provider's gate in this process; the pace is shared with all others. `now` is the clock of its breaker."""

    def __init__(self, account: ProviderAccount, runtime: Runtime, now: Callable[[], float] = time.monotonic) -> None:
        self.account = account
        self._now = now
        settings = account.settings
        self._breaker = Breaker()
        self._metrics = runtime.metrics
        self.held = False
        """An operator has paused the provider."""
        self._paused_until_s = 0.0
        self._pauses = Pauses(now)
        self._refuses_until_s: dict[tuple[str, str], float] = {}  # as many as there are senders and countries
        self._in_flight = InFlight(
            settings.max_in_flight,
            settings.otp_reserve,
            {lane: 1 / max(intervals.values()) for lane in Traffic if (intervals := _intervals_s(account, lane))},
            now,
            lambda lane: runtime.hints.lanes[lane].set(),
        )
        self._paces = {
            lane: Pace(runtime.pacing, _intervals_s(account, lane), RESERVE_AHEAD_S if lane is Traffic.OTP else 0.0)
            for lane in Traffic
        }
        self._sender_paces = {
            sender: Pace(
                runtime.pacing,
                _intervals_s(account, registered.traffic) | {f"mps:{account.name}:sender:{sender}": 1 / registered.mps},
            )
            for sender, registered in runtime.config.senders.items()
            if registered.mps is not None
        }
        self.show()

    def show(self) -> None:
        """Let the metrics tell of this gate, and not of one that was there before."""
        self._metrics.breaker.labels(self.account.name).set_function(self._state_value)
        self._metrics.provider_limit.labels(self.account.name).set_function(lambda: self._in_flight.limiter.limit)
        self._metrics.provider_in_flight.labels(self.account.name).set_function(lambda: self._in_flight.calls)
        self._metrics.paused.labels(self.account.name).set(self.held)

    def _state_value(self) -> float:
        return _STATE_VALUES[self._breaker.state(self._now())]

    def hide(self) -> None:
        """Let them tell nothing of it."""
        for metric in (self._metrics.breaker, self._metrics.provider_limit, self._metrics.provider_in_flight):
            metric.remove(self.account.name)
        self._metrics.paused.remove(self.account.name)

    @property
    def probe_at_s(self) -> float | None:
        """When the breaker lets the next probe through; None while it is closed, infinite while a probe is out."""
        return self._breaker.probe_at_s

    @property
    def closed_at_s(self) -> float:
        """When the breaker last closed after it had been open; minus infinity where it never was."""
        return self._breaker.closed_at_s

    def in_use(self, traffic: Traffic) -> bool:
        """Whether messages of that lane come here, or have within the last second."""
        return self._in_flight.in_use(traffic)

    def room(self, traffic: Traffic) -> int:
        """How many more messages of that lane are of use here."""
        room = self._in_flight.room(traffic)
        closed = self.held or self.probe_at_s is not None or self._paused_until_s > self._now()
        return min(room, _ROOM_BEHIND_CLOSED) if closed else room

    @asynccontextmanager
    async def turn(self, traffic: Traffic, client_id: UUID, sender: str, to: str = "") -> AsyncIterator[Call]:
        """Wait for a turn to call and hold it while calling. Say what came of it with `Call.end`.

        Where nothing is said the call was not made: if it was to be the probe of the breaker, another one may be.

        Raises:
            Busy: the breaker is open, an operator or the provider wants a pause (of all, of this sender, of this
                recipient), or the turn is over `PATIENCE_S` away.
        """
        self._check_open()
        self._pauses.check(sender, to)
        with self._in_flight.at_gate(traffic):
            await self._sender_paces.get(sender, self._paces[traffic]).wait(client_id)
            async with self._in_flight.place(traffic):
                self._check_open()
                self._pauses.admit(sender, to)
                passed = self._breaker.begin()
                try:
                    yield Call(self._breaker, passed, self._in_flight, self._now)
                finally:
                    self._breaker.end(passed, None, self._now())

    def _check_open(self) -> None:
        now_s = self._now()
        if self.held:
            raise Busy(_HELD_RETRY_S, down=True)
        if (wait_s := self._breaker.wait_s(now_s)) > 0:
            raise Busy(wait_s if math.isfinite(wait_s) else PATIENCE_S, down=True)  # what a probe finds is known soon
        if (wait_s := self._paused_until_s - now_s) > 0:
            raise Busy(wait_s)

    def pause(self, about: About, sender: str, to: str, seconds: float) -> float:
        """The provider throttled a call of this sender to this recipient; returns how long to wait, which is bounded.

        Only what it is about is paused. Where the call was to find out whether a pause is over, it grows.
        """
        if about is not About.ACCOUNT:
            wait_s = self._pauses.add(about, sender, to, seconds)
            extra = {"provider": self.account.name, "about": about.value, "wait_s": round(wait_s, 1)}
            log.info("a provider throttles a part of what it gets", extra=extra)
            return wait_s
        wait_s = min(seconds, MAX_PAUSE_S)
        self._paused_until_s = max(self._paused_until_s, self._now() + wait_s)
        return wait_s

    def took(self, sender: str, to: str) -> None:
        """The provider took a message of this sender to this recipient."""
        self._pauses.end(sender, to)

    def refuse(self, sender: str, country: str) -> None:
        """The provider refused this sender: its messages to that country try other providers first for a minute."""
        self._refuses_until_s[sender, country] = self._now() + _REFUSES_S

    def refuses(self, sender: str, country: str) -> bool:
        """Whether the provider has just refused this sender."""
        return self._now() < self._refuses_until_s.get((sender, country), 0.0)


def _intervals_s(account: ProviderAccount, traffic: Traffic) -> dict[str, float]:
    """What a message of that traffic draws on, with the seconds between two slots of each."""
    settings = account.settings
    if settings.mps is None:
        return {}
    every = {f"mps:{account.name}": 1 / settings.mps}
    if traffic is Traffic.OTP:
        return every
    return every | {f"mps:{account.name}:other": 1 / (settings.mps * (1 - settings.otp_reserve))}
