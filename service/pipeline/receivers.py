"""How many webhooks each receiver gets at once: as many as it takes well, so that some are left for the others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from service.domain.limiter import Limiter
from service.storage.outbox import DueTarget, Room

FLOOR: Final = 4
START: Final = 16
_FORGET_AFTER_S: Final = 60.0
_MOST_KNOWN: Final = 10_000
"""Targets whose limiter is kept. Clients name them, so there may be any number."""


class _Receiver:
    """One target: its limiter, its calls under way, and whether the last claim gave it all that it may have."""

    __slots__ = ("calls", "full", "limiter", "used_s")

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.calls = 0
        self.full = False
        self.used_s = 0.0


class Receivers:
    """The targets of webhooks, as this process finds them. At most `together` are called at once, one at most `each`."""

    def __init__(self, *, together: int, each: int, now: Callable[[], float] = time.monotonic) -> None:
        self._together = together
        self._each = each
        self._now = now
        self._known: dict[str, _Receiver] = {}
        self.calls = 0

    def rooms(self, due: Iterable[DueTarget]) -> Mapping[str, Room]:
        """How many webhooks each of these targets may get now. One that failed last time gets a single one, as a probe.

        Whatever the limiters say, a target gets no more than half of the places that are left beside its own: one that
        hangs holds half of all, two hold a third each, and those who answer always find some.
        """
        left = self._together - self.calls
        rooms = {}
        for target in due:
            if target.blocked:
                continue
            receiver = self._known.get(target.target)
            calls = receiver.calls if receiver else 0
            limit = 1 if target.failures else receiver.limiter.limit if receiver else min(START, self._each)
            room = min(limit - calls, math.ceil((left - calls) / 2))
            if room > 0:
                rooms[target.target] = Room(room, calls)
        return rooms

    def begin(self, target: str, *, full: bool) -> None:
        """A webhook is about to be posted. `full`: the target has as many now as it had room for."""
        receiver = self._known.get(target)
        if receiver is None:
            self._forget()
            receiver = self._known[target] = _Receiver(Limiter(floor=FLOOR, start=START, ceiling=self._each))
        receiver.calls += 1
        receiver.full = full
        receiver.used_s = self._now()
        self.calls += 1

    def answered(self, target: str, took_s: float | None, *, bad: bool) -> None:
        """Let its limiter learn from a try (see `Limiter.end`); before `end`."""
        receiver = self._known[target]
        if receiver.full:
            receiver.limiter.want()
        receiver.limiter.end(took_s, bad=bad, in_flight=receiver.calls, now_s=self._now())

    def end(self, target: str) -> bool:
        """A webhook's place is free. Returns whether others of its target may have waited for that."""
        receiver = self._known[target]
        receiver.calls -= 1
        self.calls -= 1
        return receiver.full

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest limit of those that are called; where none is, that of the start."""
        limits = [receiver.limiter.limit for receiver in self._known.values() if receiver.calls]
        return (min(limits), max(limits)) if limits else (START, START)

    def _forget(self) -> None:
        """Drop what was long not used, when as many are known as are kept."""
        if len(self._known) < _MOST_KNOWN:
            return
        before_s = self._now() - _FORGET_AFTER_S
        for target, receiver in list(self._known.items()):
            if not receiver.calls and (receiver.used_s < before_s or len(self._known) >= _MOST_KNOWN):
                del self._known[target]
