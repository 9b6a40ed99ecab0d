"""How many calls one neighbour (a provider, a receiver of webhooks) gets at once: learnt from how it takes them.

A limiter of the AIMD family (additive increase, multiplicative decrease, as in TCP) with latency as a second sign, as
Netflix's concurrency-limits has it. It is a state machine without a clock: every time is passed in, in seconds.
docs/decisions/0017-concurrency.md gives the reasons for the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Final

WINDOW_S: Final = 0.1
"""A window of samples lasts no less, and no less than a call takes, so that it sees what the last change did."""
_SAMPLES: Final = 10
_MOST_SAMPLES: Final = 1_000
_DECREASE: Final = 0.7
_BAD_SHARE: Final = 0.1
"""The part of the calls in a window whose failures are taken for a sign of overload."""
_SLOWER: Final = 2.0
_SLACK_S: Final = 0.1
"""Over twice as slow as usual and this much is slower: a call of 1 ms that takes 5 says more of us than of others."""
_DRIFT_UP: Final = 0.1
_DRIFT_DOWN: Final = 0.5
"""How far what is usual follows, in each window, what has become slower or faster."""
_FEW: Final = 1.5
"""Times the floor. With so few calls at once a neighbour is slow by itself, and not by their number."""
_IN_USE: Final = 0.5
"""Where less of the limit is in use, nothing was learnt of more."""


@dataclass(slots=True)
class _Window:
    began_s: float
    took_s: list[float] = field(default_factory=list)
    calls: int = 0
    bad: int = 0
    busiest: int = 0
    wanted: bool = False


class Limiter:
    """A limit between `floor` and `ceiling`, which begins at `start`.

    In each window of samples it grows by its square root where more calls were wanted than it allowed and the calls
    were as quick as usual; it falls by 0.7 where one in ten failed, and by no more than that where they took over twice
    as long as usual. What is usual follows slowly, and follows what is slower only while few calls are made: so a
    neighbour that is slow for good gets its calls again, and one that is slow because of their number does not.
    """

    def __init__(self, *, floor: int, start: int, ceiling: int) -> None:
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._limit = float(min(max(start, self._floor), ceiling))
        self._usual_s = math.inf
        self._window: _Window | None = None

    @property
    def limit(self) -> int:
        """How many calls may be under way."""
        return int(self._limit)

    @property
    def usual_s(self) -> float:
        """How long a call usually takes; infinite before the first window has ended."""
        return self._usual_s

    def want(self) -> None:
        """Somebody had to wait, or the last place was taken: more calls would be made if they were allowed."""
        if self._window is not None:
            self._window.wanted = True

    def end(self, took_s: float | None, *, bad: bool, in_flight: int, now_s: float) -> None:
        """Take a call that has ended.

        `took_s`: None where that says nothing of other calls, as of one that was refused. `bad`: it timed out, or its
        neighbour said that it has too much to do. `in_flight`: the calls that were under way, with this one.
        """
        if self._window is None:
            self._window = _Window(now_s, wanted=in_flight >= self.limit)
        window = self._window
        window.calls += 1
        window.bad += bad
        window.busiest = max(window.busiest, in_flight)
        if took_s is not None and not bad and len(window.took_s) < _MOST_SAMPLES:
            window.took_s.append(took_s)
        lasts_s = max(WINDOW_S, 0.0 if math.isinf(self._usual_s) else self._usual_s)
        if window.calls >= min(_SAMPLES, self.limit) and now_s - window.began_s >= lasts_s:
            self._learn(window)
            self._window = _Window(now_s)

    def _learn(self, window: _Window) -> None:
        recent_s = median(window.took_s) if window.took_s else self._usual_s
        if window.bad >= _BAD_SHARE * window.calls:
            self._fall(_DECREASE)
        elif recent_s > (bearable_s := _SLOWER * self._usual_s + _SLACK_S):
            self._fall(max(_DECREASE, bearable_s / recent_s))
        elif window.wanted and window.busiest >= _IN_USE * self._limit:
            self._limit = min(self._ceiling, self._limit + math.sqrt(self._limit))
        if math.isinf(self._usual_s):
            self._usual_s = recent_s
        elif not math.isinf(recent_s):
            few = window.busiest <= _FEW * self._floor
            drift = _DRIFT_DOWN if recent_s < self._usual_s else _DRIFT_UP if few else 0.0
            self._usual_s += drift * (recent_s - self._usual_s)

    def _fall(self, to: float) -> None:
        self._limit = max(self._floor, self._limit * to)
