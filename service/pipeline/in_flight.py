"""Calls under way to one provider: as many as its limiter allows, a share of them for OTPs only."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from service.domain.limiter import Limiter
from service.domain.message import Traffic
from service.pipeline.pace import PATIENCE_S, Busy

FLOOR: Final = 16
START: Final = 64
_CALL_S: Final = 2.0  # longer than most providers take to answer
_RECENT_S: Final = 1.0
_QUEUE: Final = 8
_QUEUE_SHARE: Final = 2
"""Half of the limit, and 8, may wait for a place: enough that none stays empty until the next claim."""


class InFlight:
    """Places for the messages of one provider in this process. `freed` hears which lane may claim again.

    A lane claims no more than its providers have places for. Those of one provider cannot be filled by messages of
    another, so a slow one holds up nobody else.
    """

    def __init__(
        self,
        ceiling: int,
        otp_reserve: float,
        paces: dict[Traffic, float],
        now: Callable[[], float],
        freed: Callable[[Traffic], None],
    ) -> None:
        self.limiter = Limiter(floor=FLOOR, start=START, ceiling=ceiling)
        self._otp_reserve = otp_reserve
        self._paces = paces
        self._now = now
        self._freed = freed
        self._at_gate: Counter[Traffic] = Counter()
        self._asked_s = dict.fromkeys(Traffic, -math.inf)
        self._calls = {True: 0, False: 0}  # of OTPs, of all else
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        self._moved_s = now()

    @property
    def calls(self) -> int:
        """How many calls are under way."""
        return self._calls[True] + self._calls[False]

    def room(self, traffic: Traffic) -> int:
        """How many more messages of that lane may come: to call, to wait for a call, or for their turn by the pace."""
        return self._places(traffic) - self._at_gate[traffic]

    def in_use(self, traffic: Traffic) -> bool:
        """Whether messages of that lane come here, or have within the last second."""
        return self._at_gate[traffic] > 0 or self._now() - self._asked_s[traffic] <= _RECENT_S

    def _places(self, traffic: Traffic) -> int:
        allowed = self.limiter.limit if traffic is Traffic.OTP else self._for_others
        places = allowed + allowed // _QUEUE_SHARE + _QUEUE
        pace = self._paces.get(traffic, math.inf)
        return places if math.isinf(pace) else min(places, math.ceil(pace * (PATIENCE_S + _CALL_S)))

    @contextmanager
    def at_gate(self, traffic: Traffic) -> Iterator[None]:
        """Be one of those who call, or wait to.

        Raises:
            Busy: there is no room, or no call has ended for as long as anybody waits for one. Who waits holds a place
                of its lane, which messages for other providers need.
        """
        self._asked_s[traffic] = self._now()
        if self.room(traffic) <= 0 or self._hangs(otp=traffic is Traffic.OTP):
            self.limiter.want()
            raise Busy(PATIENCE_S, full=True)
        self._at_gate[traffic] += 1
        try:
            yield
        finally:
            full = self.room(traffic) <= 0
            self._at_gate[traffic] -= 1
            if full:
                self._freed(traffic)

    def _hangs(self, *, otp: bool) -> bool:
        return not self._free(otp=otp) and self._now() >= self._moved_s + PATIENCE_S

    @asynccontextmanager
    async def place(self, traffic: Traffic) -> AsyncIterator[None]:
        """A place for one call.

        Raises:
            Busy: none became free within `PATIENCE_S`.
        """
        otp = traffic is Traffic.OTP
        await self._take(otp=otp)
        try:
            yield
        finally:
            self._release(otp=otp)

    def end(self, took_s: float | None, *, bad: bool) -> None:
        """Let the limiter learn from a call that has ended (see `Limiter.end`); before its place is given back."""
        self.limiter.end(took_s, bad=bad, in_flight=self.calls, now_s=self._now())
        self._grant()

    @property
    def _for_others(self) -> int:
        return max(1, int(self.limiter.limit * (1 - self._otp_reserve)))

    def _free(self, *, otp: bool) -> bool:
        """OTPs keep their share also while the limit falls and more calls than it allows are still under way."""
        if otp:
            return self.calls < self.limiter.limit or self._calls[True] < self.limiter.limit - self._for_others
        return self.calls < self.limiter.limit and self._calls[False] < self._for_others

    async def _take(self, *, otp: bool) -> None:
        if self._free(otp=otp) and not self._waiting[otp]:
            self._begin(otp=otp)
            return
        self.limiter.want()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[otp].append(place)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._release(otp=otp)  # it was given in the very moment
            if isinstance(error, TimeoutError):
                raise Busy(PATIENCE_S, full=True) from None
            raise

    def _begin(self, *, otp: bool) -> None:
        self._calls[otp] += 1
        self._moved_s = self._now()
        if not self._free(otp=otp):
            self.limiter.want()

    def _release(self, *, otp: bool) -> None:
        self._calls[otp] -= 1
        self._moved_s = self._now()
        self._grant()

    def _grant(self) -> None:
        """Give free places to those who wait, to OTPs first."""
        for otp, waiting in self._waiting.items():
            while waiting and (waiting[0].done() or self._free(otp=otp)):
                place = waiting.popleft()
                if not place.done():
                    self._begin(otp=otp)
                    place.set_result(None)
