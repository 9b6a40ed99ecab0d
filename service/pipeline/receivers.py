"""How many webhooks each receiver gets at once: as many as it takes well, so that some are left for the others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from service.domain.limiter import Limiter
from service.storage.outbox import DueTarget, Room

FLOOR: Final = 4
START: Final = 16
_FORGET_AFTER_S: Final = 60.0
_MOST_KNOWN: Final = 10_000
"""Targets whose limiter is kept. Clients name them, so there may be any number."""
_SPARE: Final = 2
"""A claim looks for twice as many as it can take: some of the targets have fewer than they may get."""


class _Receiver:
    """One target: its limiter and its calls under way."""

    __slots__ = ("calls", "client_id", "limiter", "used_s")

    def __init__(self, client_id: UUID, limiter: Limiter) -> None:
        self.client_id = client_id
        self.limiter = limiter
        self.calls = 0
        self.used_s = 0.0


class Receivers:
    """The targets of webhooks, as this process finds them.

    At most `together` are called at once, and `each` at one target. Whatever the limiters say, a client gets no more
    than half of what is left beside its own calls, and each of its targets half of that: one client whose targets hang
    holds half of all, two hold a third each, and others always find some (Choudhury and Hahne's dynamic threshold for
    shared buffers).
    """

    def __init__(self, *, together: int, each: int, now: Callable[[], float] = time.monotonic) -> None:
        self._together = together
        self._each = each
        self._now = now
        self._known: dict[str, _Receiver] = {}
        self._of_client: Counter[UUID] = Counter()
        self.calls = 0
        self.full: dict[str, UUID] = {}
        """Targets that the last claim gave all that they may have, with their clients: more of theirs is likely due."""

    def rooms(self, due: Sequence[DueTarget]) -> Mapping[str, Room]:
        """How many webhooks each of these targets may get now. One that failed last time gets a single one, as a probe.

        Those that may get none are left out.
        """
        left = self._together - self.calls
        most_each = max(1, _SPARE * left // max(1, len(due)))
        rooms = {}
        for one in due:
            receiver = self._known.get(one.target)
            calls, limit = (receiver.calls, receiver.limiter.limit) if receiver else (0, min(START, self._each))
            of_client = self._of_client.get(one.client_id, 0)
            client_room = _half(left - of_client)
            room = min((1 if one.failures else limit) - calls, _half(client_room - calls), most_each)
            if one.blocked:
                self.full.pop(one.target, None)
            elif room > 0:
                rooms[one.target] = Room(room, calls, one.client_id, client_room, of_client)
        return rooms

    def claimed(self, rooms: Mapping[str, Room], got: Mapping[str, int]) -> None:
        """Learn who had more due than it got room for, by how many webhooks a claim brought of each."""
        for target, room in rooms.items():
            if got.get(target, 0) >= room.most:
                self.full[target] = room.client_id
            else:
                self.full.pop(target, None)

    def begin(self, target: str, client_id: UUID) -> None:
        """A webhook is about to be posted."""
        receiver = self._known.get(target)
        if receiver is None:
            self._forget()
            limiter = Limiter(floor=FLOOR, start=START, ceiling=self._each)
            receiver = self._known[target] = _Receiver(client_id, limiter)
        receiver.calls += 1
        receiver.used_s = self._now()
        self._of_client[client_id] += 1
        self.calls += 1

    def answered(self, target: str, took_s: float | None, *, bad: bool) -> None:
        """Let its limiter learn from a try (see `Limiter.end`); before `end`."""
        receiver = self._known[target]
        if target in self.full:
            receiver.limiter.want()
        receiver.limiter.end(took_s, bad=bad, in_flight=receiver.calls, now_s=self._now())

    def end(self, target: str) -> bool:
        """A webhook's place is free. Returns whether others of its target may have waited for that."""
        receiver = self._known[target]
        receiver.calls -= 1
        self.calls -= 1
        self._of_client[receiver.client_id] -= 1
        if not self._of_client[receiver.client_id]:
            del self._of_client[receiver.client_id]
        return target in self.full

    @property
    def known(self) -> int:
        """How many targets have a limiter."""
        return len(self._known)

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


def _half(places: int) -> int:
    return -(-places // 2)
