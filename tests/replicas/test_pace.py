"""A provider's slots, handed out to several processes at once."""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise
from typing import Final

import pytest

from tests.chaos.stage import Stage

INTERVALS_S: Final = {"mps:paced": 60.0, "mps:paced:other": 75.0}
"""So far apart that it does not matter how exactly a process knows what time it is."""
EVER_S: Final = 1e7
TURNS: Final = 20


async def test_slots_of_two_processes_never_overlap_and_leave_no_gap(stage: Stage) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.replicas.slots", str(TURNS)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{stage.dsn}\n".encode())
        assert await process.stdout.readline() == b"ready\n"
    printed = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    slots = [[float(line) for line in output.split()] for output, _ in printed]
    assert all(slots)
    assert max(slots[0]) > min(slots[1]), "one process came after the other"
    assert max(slots[1]) > min(slots[0]), "one process came after the other"
    gaps_s = [later - earlier for earlier, later in pairwise(sorted(slots[0] + slots[1]))]
    assert gaps_s == pytest.approx([75.0] * len(gaps_s), abs=20)
