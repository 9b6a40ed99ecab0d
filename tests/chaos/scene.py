"""What faults act on, and which parts they have in hand."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.processes import Command
from tests.chaos.stage import Stage
from tests.listener import Listener


@dataclass(slots=True)
class Scene:
    """What faults act on. `sick` is the webhook endpoint that suffers."""

    stage: Stage
    sick: Listener
    rng: random.Random
    kills: int = 0
    clocks_shifted: bool = False
    complaints: list[str] = field(default_factory=list)
    """Promises that a fault itself saw broken."""
    _locks: dict[object, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def alone(self, part: object) -> asyncio.Lock:
        """Held while a fault has this part in hand."""
        return self._locks[part]


Fault = Callable[[Scene], Coroutine[Any, Any, None]]


@asynccontextmanager
async def one_of(scene: Scene, commands: list[Command]) -> AsyncIterator[Command]:
    command = scene.rng.choice(commands)
    async with scene.alone(command):
        yield command
