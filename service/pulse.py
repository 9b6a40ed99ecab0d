"""Whether the loops of a worker get on. One that hangs in an await holds nothing up: nothing else would tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

STUCK_S: Final = 300.0
"""After this time in one round a loop is taken to hang.

A statement has 3 s to get a connection, 10 s for its answer and 1 s to give the connection back, and what fails ends
its part of the round. So where PostgreSQL is away or hangs, the longest round (recovery: four parts) takes a minute.
The longest that succeeds has about sixty statements (tidying up after a long stop): slow ones of 3 s take 180 s.
"""


class Pulse:
    """The loops of one worker, and when each began its last round. `clock` counts seconds, and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[object, tuple[str, float, float]] = {}

    @contextmanager
    def of(self, loop: str, rests_s: float = 0.0) -> Iterator[Callable[[], None]]:
        """What the loop in the body is to call in each round, between which it rests for `rests_s` at most.

        A loop that has ended is asked for no more: what is drained may take its time.
        """
        key = object()

        def beat() -> None:
            self._loops[key] = loop, self._clock(), rests_s

        beat()
        try:
            yield beat
        finally:
            del self._loops[key]

    def stuck(self) -> list[str]:
        """The loops that hang."""
        now_s = self._clock()
        return [loop for loop, began_s, rests_s in self._loops.values() if now_s - began_s > STUCK_S + rests_s]
