"""When to try again. `attempt` counts from 1: the tries made so far. `jitter` is a random number in [0, 1).

The jitter is passed in and spreads what failed together, so that it does not all come back together.
"""

from __future__ import annotations

from typing import Final

WEBHOOK_SCHEDULE_S: Final = (5, 30, 120, 600, 3_600, 10_800, 21_600, 43_200, 86_400)
"""The waits after the 1st to the 9th failed delivery of a webhook. The 10th failure is the last."""

_REPEAT_FIRST_S: Final = 1.0
_REPEAT_CAP_S: Final = 60.0
_PUT_BACK_FIRST_S: Final = 0.5
_PUT_BACK_CAP_S: Final = 30.0
_MAX_DOUBLINGS: Final = 16


def webhook_delay_s(attempt: int, jitter: float) -> float | None:
    """The wait after the failed webhook delivery number `attempt`, within 10% of the schedule. None: give up."""
    if attempt > len(WEBHOOK_SCHEDULE_S):
        return None
    return WEBHOOK_SCHEDULE_S[attempt - 1] * (0.9 + 0.2 * jitter)


def repeat_delay_s(attempt: int, jitter: float) -> float:
    """The wait before a submission of unknown outcome is repeated to the same provider: about 1 s, doubling to 60 s."""
    return _doubling_s(attempt, _REPEAT_FIRST_S, _REPEAT_CAP_S, jitter)


def put_back_delay_s(attempt: int, jitter: float) -> float:
    """The wait of a message for which no provider is available: about 0.5 s, doubling to 30 s."""
    return _doubling_s(attempt, _PUT_BACK_FIRST_S, _PUT_BACK_CAP_S, jitter)


def _doubling_s(attempt: int, first_s: float, cap_s: float, jitter: float) -> float:
    """Between half of the doubled wait and all of it."""
    # Few doublings reach any cap, and a thousand of them overflow a float.
    doubled_s = first_s * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)
    return min(doubled_s, cap_s) * (0.5 + 0.5 * jitter)
