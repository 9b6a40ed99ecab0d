"""Reserves slots of a pace, as one of several processes: `python -m tests.replicas.slots TURNS`.

The first line on stdin is the DSN; it prints `ready`, and begins with the second line. Prints the time of each slot, in
seconds since 1970.
"""

from __future__ import annotations

import asyncio
import sys
import time

from service.storage.database import Database
from service.storage.pacing import PacingStore
from tests.replicas.test_pace import EVER_S, INTERVALS_S


async def reserve(turns: int) -> list[float]:
    """The slots of four times so many reservations, of one to three slots each."""
    times: list[float] = []
    database = await Database.open(sys.stdin.readline().strip(), connections=4)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    store = PacingStore(database)

    async def reserve_some(wanted: int) -> None:
        slots = await store.reserve(INTERVALS_S, wanted, EVER_S)
        now_s = time.time()
        times.extend(now_s + slot.in_s for slot in slots)

    for turn in range(turns):
        await asyncio.gather(*(reserve_some(1 + (turn + number) % 3) for number in range(4)))
    await database.close()
    return times


if __name__ == "__main__":
    sys.stdout.write(" ".join(map(str, asyncio.run(reserve(int(sys.argv[1]))))))
