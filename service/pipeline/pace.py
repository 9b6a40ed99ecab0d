"""Pace: turns at a rate that every replica shares, and what a message hears whose turn is too far away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

from service.storage.batch import Batcher
from service.storage.pacing import PacingStore, Slot

PATIENCE_S = 1.0
"""How long a message waits for its turn. One that must wait longer is put back into the queue."""

RESERVE_AHEAD_S = 0.02
"""An OTP does not wait for what others have reserved, but goes before its time, which adds to what goes in that second.
So it is little; a reservation is a statement, so it is not nothing."""
_RESERVE_EVERY_S = 0.005
"""Those whose turn comes within this time reserve together. The others' reservations then reach about as far ahead."""


class Busy(Exception):
    """No call now; try again in `retry_in_s`. `down`: the provider does not work, rather than being busy.

    `full`: it has as many calls under way as it can take. How long that lasts nobody knows.
    """

    def __init__(self, retry_in_s: float, *, down: bool = False, full: bool = False) -> None:
        super().__init__(retry_in_s)
        self.retry_in_s = retry_in_s
        self.down = down
        self.full = full


class Pace:
    """Turns at a provider's rate, used up to `early_s` before their time. Those who wait together reserve together."""

    def __init__(self, store: PacingStore, intervals_s: dict[str, float], early_s: float = 0.0) -> None:
        self._store = store
        self._early_s = early_s
        self._intervals_s = intervals_s
        self._interval_s = max(intervals_s.values(), default=0.0)
        self._horizon_s = min(max(self._interval_s, RESERVE_AHEAD_S), PATIENCE_S)
        self._reserve: Batcher[None, Slot] = Batcher(self._reserve_together, every_s=_RESERVE_EVERY_S)
        self._last_put_back_s: dict[UUID, float] = {}

    async def wait(self, client_id: UUID) -> None:
        """Sleep until this message's slot.

        Raises:
            Busy: the slot is more than `PATIENCE_S` away. Each message is told a later time than the client's one
                before, so that a campaign lines up behind itself and behind nobody else.
        """
        if not self._intervals_s:
            return  # nothing bounds it
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            slot = await self._reserve.submit(None)
            if slot.reserved:
                await asyncio.sleep(slot.in_s)
                return
            if time.monotonic() + slot.in_s > give_up_s:
                raise Busy(self._spread(slot.in_s, client_id))
            await asyncio.sleep(slot.in_s - self._horizon_s)

    def _spread(self, slot_s: float, client_id: UUID) -> float:
        now_s = time.monotonic()
        at_s = max(self._last_put_back_s.get(client_id, 0.0) + self._interval_s, now_s + slot_s)
        self._last_put_back_s[client_id] = at_s
        return at_s - now_s

    async def _reserve_together(self, waiting: Sequence[None]) -> list[Slot]:
        return await self._store.reserve(self._intervals_s, len(waiting), self._horizon_s, self._early_s)
