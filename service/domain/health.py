"""How a provider does: a fast breaker for each process, and a slow standing of each place that all of them share.

Both are state machines without a clock: every time is passed in, in seconds. docs/decisions/0007-health.md gives the
reasons for the numbers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class BreakerState(StrEnum):
    """`closed`: calls pass. `open`: none does. `half_open`: one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and how long it stays open.

    It opens after `failures_to_open` failures in a row, or when `failure_share` of the last `window` calls, none older
    than `window_s`, failed and they were at least `min_samples`. It stays open for `open_s`, twice as long each time
    that a probe fails, up to `open_cap_s`.
    """

    failures_to_open: int = 5
    failure_share: float = 0.5
    window: int = 50
    window_s: float = 60.0
    min_samples: int = 20
    open_s: float = 5.0
    open_cap_s: float = 60.0


class Pass(NamedTuple):
    """What a call carries from its beginning to its end: the breaker's phase in which it began."""

    phase: int


class Breaker:
    """Counts the provider's own failures (`Unavailable`, `Unknown`); everything else it answers is a success.

    Every call begins with `begin` and ends with `end`, whatever happens in between.
    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._results: deque[tuple[float, bool]] = deque(maxlen=self._policy.window)
        self._failures_in_row = 0
        self._open_s = self._policy.open_s
        self._phase = 0
        self.probe_at_s: float | None = None
        """None while closed; else when the next probe may go: infinite while one is out."""
        self.closed_at_s = -math.inf
        """When a probe last closed it: from then on its traffic grows again (`ramp`)."""

    def state(self, now_s: float) -> BreakerState:
        """Where the breaker stands. An open one whose time is over is `half_open`."""
        if self.probe_at_s is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing or now_s >= self.probe_at_s else BreakerState.OPEN

    def wait_s(self, now_s: float) -> float:
        """How long until a call may go; infinite while a probe is out, because nobody knows when that ends."""
        return 0.0 if self.probe_at_s is None else max(0.0, self.probe_at_s - now_s)

    def begin(self) -> Pass:
        """A pass for a call that is made now, which is allowed where `wait_s` is 0. Unless closed, it is the probe."""
        if self.probe_at_s is not None:
            self.probe_at_s = math.inf
            self._phase += 1  # from here on only the probe counts
        return Pass(self._phase)

    def end(self, call: Pass, success: bool | None, now_s: float) -> bool:
        """Take the result of a call; None: it was not made. Returns whether the breaker opened by it.

        The result of a call that began in an earlier phase says nothing of this one.
        """
        if call.phase != self._phase:
            return False
        if success is None:
            self.probe_at_s = now_s if self._probing else self.probe_at_s
            return False
        if not self._probing:
            return self._count(success, now_s)
        if success:
            self._close(now_s)
        else:
            self._open_s = min(self._open_s * 2, self._policy.open_cap_s)
            self._open(now_s)
        return not success

    @property
    def _probing(self) -> bool:
        return self.probe_at_s == math.inf

    def _count(self, success: bool, now_s: float) -> bool:
        self._results.append((now_s, success))
        self._failures_in_row = 0 if success else self._failures_in_row + 1
        opens = not success and (self._failures_in_row >= self._policy.failures_to_open or self._fails_often(now_s))
        if opens:
            self._open(now_s)
        return opens

    def _fails_often(self, now_s: float) -> bool:
        recent = [success for at_s, success in self._results if at_s >= now_s - self._policy.window_s]
        failures = recent.count(False)
        return len(recent) >= self._policy.min_samples and failures >= self._policy.failure_share * len(recent)

    def _open(self, now_s: float) -> None:
        self._phase += 1
        self.probe_at_s = now_s + self._open_s

    def _close(self, now_s: float) -> None:
        self._phase += 1
        self.probe_at_s = None
        self.closed_at_s = now_s
        self._failures_in_row = 0
        self._open_s = self._policy.open_s
        self._results.clear()


class Place(NamedTuple):
    """What has a standing of its own: a provider in one country for one class of traffic."""

    provider: str
    country: str
    traffic: str


@dataclass(frozen=True, slots=True)
class Samples:
    """What was seen of a place. `openings`, of breakers, are only shown: a breaker acts for its own process."""

    calls: int = 0
    failures: int = 0
    slow: int = 0
    delivered: int = 0
    undelivered: int = 0
    openings: int = 0


class Condition(StrEnum):
    """`failing`: others go first. `probing`: single messages try it. `recovering`: its share grows."""

    HEALTHY = "healthy"
    FAILING = "failing"
    PROBING = "probing"
    RECOVERING = "recovering"


class Cause(StrEnum):
    """Why a place stood back."""

    SUBMIT_ERRORS = "submit_errors"
    SLOW = "slow"
    RECEIPT_FAILURES = "receipt_failures"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a place stands, since when and why. `strikes`: how often it fell without a long time of health between."""

    condition: Condition = Condition.HEALTHY
    since_s: float = -math.inf
    cause: Cause | None = None
    strikes: int = 0


@dataclass(frozen=True, slots=True)
class StandingPolicy:
    """When a place falls and how it comes back.

    It falls where `down_share` of its samples are bad, of at least `min_samples` (where there are fewer, the missing
    ones count as good). It stands back for `hold_s`, twice as long at each strike, up to `hold_cap_s`. Then it is
    probed: fewer than `up_share` of `probes` may be bad. Its share then grows from `first_share` to 1 in `ramp_s`.
    """

    min_samples: int = 40
    down_share: float = 0.5
    up_share: float = 0.3
    probes: int = 10
    hold_s: float = 10.0
    hold_cap_s: float = 300.0
    first_share: float = 0.1
    ramp_s: float = 60.0

    def held_s(self, strikes: int) -> float:
        """How long a place stands back at that strike."""
        return min(self.hold_s * 2.0 ** min(strikes - 1, 30), max(self.hold_s, self.hold_cap_s))


def judge(old: Standing, seen: Samples, now_s: float, policy: StandingPolicy) -> Standing:
    """The standing after `seen`, which holds only calls made (and receipts come) since `old.since_s`."""
    age_s = now_s - old.since_s
    if old.condition is Condition.FAILING:
        return _moved(old, Condition.PROBING, now_s) if age_s >= policy.held_s(old.strikes) else old
    if old.condition is Condition.PROBING:
        return _probed(old, seen, now_s, policy)
    if cause := _fault(seen, policy.min_samples, policy.down_share, frozenset(Cause)):
        return Standing(Condition.FAILING, now_s, cause, old.strikes + 1)
    if old.condition is Condition.RECOVERING and age_s >= policy.ramp_s:
        return _moved(old, Condition.HEALTHY, now_s)
    if old.strikes and old.condition is Condition.HEALTHY and age_s >= policy.hold_cap_s:
        return Standing(Condition.HEALTHY, old.since_s)
    return old


def share(standing: Standing, now_s: float, policy: StandingPolicy) -> float:
    """The share of its messages, 0 to 1, that go to a place in its configured order. Others try the rest first."""
    if standing.condition is Condition.HEALTHY:
        return 1.0
    return ramp(now_s - standing.since_s, policy) if standing.condition is Condition.RECOVERING else 0.0


def ramp(age_s: float, policy: StandingPolicy) -> float:
    """The share, 0 to 1, of what came back `age_s` ago: it drifts rather than jumps."""
    return policy.first_share + (1 - policy.first_share) * min(1.0, max(0.0, age_s) / policy.ramp_s)


def _probed(old: Standing, seen: Samples, now_s: float, policy: StandingPolicy) -> Standing:
    """Probes are judged by what brought the place down, and by whether calls work at all."""
    if cause := _fault(seen, policy.probes, policy.up_share, {old.cause, Cause.SUBMIT_ERRORS}):
        return Standing(Condition.FAILING, now_s, cause, old.strikes + 1)
    by_receipts = old.cause is Cause.RECEIPT_FAILURES
    known = seen.delivered + seen.undelivered if by_receipts else seen.calls
    return _moved(old, Condition.RECOVERING, now_s) if known >= policy.probes else old


def _fault(seen: Samples, least: int, limit: float, measured: AbstractSet[Cause | None]) -> Cause | None:
    calls, receipts = max(seen.calls, least), max(seen.delivered + seen.undelivered, least)
    shares = {
        Cause.SUBMIT_ERRORS: seen.failures / calls,
        Cause.SLOW: seen.slow / calls,
        Cause.RECEIPT_FAILURES: seen.undelivered / receipts,
    }
    return next((cause for cause, bad in shares.items() if cause in measured and bad >= limit), None)


def _moved(old: Standing, condition: Condition, now_s: float) -> Standing:
    return Standing(condition, now_s, None if condition is Condition.HEALTHY else old.cause, old.strikes)
