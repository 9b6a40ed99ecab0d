"""GCRA, the generic cell rate algorithm (ITU-T I.371, annex A): one stored time gives an exact rate limit.

That time is the TAT, the theoretical arrival time: when the next event would come if all came evenly. Every time here
is in seconds on one clock, and the caller passes it in. `interval_s` is the time between events: 1 / rate, above 0.
Limits with a burst are here. A provider's MPS, which has none, is a statement: storage/queries/pacing.sql.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# Unix time as a float is exact to 0.24 us. Without some slack, a slot that is due now would look not yet due.
_ROUNDING_S: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit: `per_s` events a second on average, `burst` at once after a rest."""

    per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of a limiter with burst. `tat_s` is to be stored.

    `remaining`: what could be had at once after this. `retry_after_s`: 0 when allowed, infinite when the cost exceeds
    the burst, so that no waiting helps.
    """

    allowed: bool
    tat_s: float
    retry_after_s: float
    remaining: int


def admit(tat_s: float, now_s: float, interval_s: float, burst: int, cost: int = 1) -> Decision:
    """Let `cost` events through at once, or none of them. `burst` events may come together after a rest."""
    burst_s = burst * interval_s
    used_s = max(tat_s - now_s, 0.0)
    wait_s = used_s + cost * interval_s - burst_s
    if wait_s > _ROUNDING_S:
        retry_after_s = wait_s if cost <= burst else math.inf
        return Decision(False, tat_s, retry_after_s, _whole((burst_s - used_s) / interval_s))
    used_s += cost * interval_s
    return Decision(True, now_s + used_s, 0.0, _whole((burst_s - used_s) / interval_s))


def _whole(events: float) -> int:
    return max(0, math.floor(events + _ROUNDING_S))
