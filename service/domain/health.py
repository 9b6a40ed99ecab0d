"""The circuit breaker of one provider, a state machine without a clock: every time is passed in, in seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


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
    that a probe fails, up to `open_cap_s`. A probe that has not reported after `probe_timeout_s` is given up.
    """

    failures_to_open: int = 5
    failure_share: float = 0.5
    window: int = 50
    window_s: float = 60.0
    min_samples: int = 20
    open_s: float = 5.0
    open_cap_s: float = 60.0
    probe_timeout_s: float = 30.0


class Breaker:
    """Counts the provider's own failures (`Unavailable`, `Unknown`); everything else it answers is a success.

    Ask `allows` before each call and `record` what came of it.
    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._results: deque[tuple[float, bool]] = deque(maxlen=self._policy.window)
        self._failures_in_row = 0
        self._open_s = self._policy.open_s
        self._reopens_at_s: float | None = None
        """None while closed; else when the next probe may go."""
        self._probing = False

    def state(self, now_s: float) -> BreakerState:
        """Where the breaker stands. An open one whose time is over is `half_open`."""
        if self._reopens_at_s is None:
            return BreakerState.CLOSED
        if self._probing or now_s >= self._reopens_at_s:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN

    def allows(self, now_s: float) -> bool:
        """Whether a call may go now. In `half_open` a True is the one probe, so it must be followed by the call."""
        if self._reopens_at_s is None:
            return True
        if now_s < self._reopens_at_s:
            return False
        self._probing = True
        self._reopens_at_s = now_s + self._policy.probe_timeout_s
        return True

    def retry_at_s(self, now_s: float) -> float:
        """When a call may go: now, unless the breaker is open or a probe is out."""
        return now_s if self._reopens_at_s is None else max(now_s, self._reopens_at_s)

    def record(self, success: bool, now_s: float) -> None:
        """Take the result of a call. While open, the late results of earlier calls change nothing."""
        if self._reopens_at_s is None:
            self._count(success, now_s)
        elif self._probing and success:
            self._close()
        elif self._probing:
            self._open_s = min(self._open_s * 2, self._policy.open_cap_s)
            self._open(now_s)

    def _count(self, success: bool, now_s: float) -> None:
        self._results.append((now_s, success))
        if success:
            self._failures_in_row = 0
            return
        self._failures_in_row += 1
        if self._failures_in_row >= self._policy.failures_to_open or self._fails_often(now_s):
            self._open(now_s)

    def _fails_often(self, now_s: float) -> bool:
        recent = [success for at_s, success in self._results if at_s >= now_s - self._policy.window_s]
        failures = recent.count(False)
        return len(recent) >= self._policy.min_samples and failures >= self._policy.failure_share * len(recent)

    def _open(self, now_s: float) -> None:
        self._probing = False
        self._reopens_at_s = now_s + self._open_s

    def _close(self) -> None:
        self._probing = False
        self._reopens_at_s = None
        self._failures_in_row = 0
        self._open_s = self._policy.open_s
        self._results.clear()
