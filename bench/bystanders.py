"""Those who do nothing wrong while others do: what they wait, and what the gateway's processes weigh meanwhile."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import httpx
import psutil

from bench.gateway import command, listens_on
from bench.report import quantile
from bench.world import World, a_number

PATIENCE_S: Final = 10.0
"""After it a caller gives up. What has not come to the provider after half of it counts as lost."""
_SENDS_PER_S: Final = 20
_OTHERS_PER_S: Final = 4
_EVERY_S: Final = 0.05
_TOO_MUCH_MB: Final = 4_000
_PARTS: Final = ("serve", "worker")


@dataclass(frozen=True, slots=True)
class Request:
    """What a bystander asks beside the sends; `json` makes it a POST."""

    path: str
    headers: dict[str, str]
    json: object = None


@dataclass(slots=True)
class Answers:
    """How long each answer took, and how many were no 2xx, by status or by the error."""

    seconds: list[float] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)

    def p99_ms(self) -> float:
        """Of all answers, bad ones too."""
        return quantile(self.seconds, 0.99) * 1000


@dataclass(slots=True)
class Observed:
    """What bystanders had: OTPs (or what was to be sent), and other requests, e.g. the lists of an operator.

    `waits_s`: from the accept to the provider, infinite for what did not come. `loop_s`: how late the loop of `serve`
    was, at most, by the buckets of its metric; NaN where it did not tell.
    """

    sends: Answers = field(default_factory=Answers)
    others: Answers = field(default_factory=Answers)
    waits_s: list[float] = field(default_factory=list)
    loop_s: float = math.nan

    @property
    def lost(self) -> int:
        """How many accepted messages did not come to the provider."""
        return sum(not math.isfinite(wait) for wait in self.waits_s)

    def wait_p99_ms(self) -> float:
        """Infinite where more than a hundredth is lost."""
        return quantile(self.waits_s, 0.99) * 1000


class Bystanders:
    """They send with `senders` in turn through `provider`, and make the other requests in turn."""

    def __init__(self, world: World, provider: str, senders: Sequence[str], others: Sequence[Request]) -> None:
        self._world = world
        self._provider = provider
        self._senders = senders
        self._others = others

    async def observe(self, seconds: float) -> Observed:
        """Each request goes out when it is due, whatever became of those before."""
        observed, accepted = Observed(), dict[str, datetime]()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        async with httpx.AsyncClient(base_url=self._world.url, timeout=PATIENCE_S, limits=limits) as http:
            before = await _lags(http)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(http, observed.sends, accepted, seconds))
                group.create_task(self._ask_all(http, observed.others, seconds))
            observed.waits_s = await self._waits_s(accepted)
            observed.loop_s = _latest_s(before, await _lags(http))
        return observed

    async def _send_all(
        self, http: httpx.AsyncClient, answers: Answers, accepted: dict[str, datetime], seconds: float
    ) -> None:
        async def send(number: int) -> None:
            to, sender = a_number(), self._senders[number % len(self._senders)]
            body = {"to": to, "from": sender, "message": "Your verification code is 481902."}
            headers = self._world.headers["mine"]
            response = await _timed(answers, http.post("/v1/send", json=body, headers=headers))
            if response is not None:
                accepted[to] = datetime.fromisoformat(response.json()["created_at"])

        async with asyncio.TaskGroup() as group:
            async for number in _turns(seconds, _SENDS_PER_S):
                group.create_task(send(number))

    async def _ask_all(self, http: httpx.AsyncClient, answers: Answers, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            async for number in _turns(seconds, _OTHERS_PER_S):
                one = self._others[number % len(self._others)]
                method = "GET" if one.json is None else "POST"
                request = http.request(method, one.path, headers=one.headers, json=one.json)
                group.create_task(_timed(answers, request))

    async def _waits_s(self, accepted: dict[str, datetime]) -> list[float]:
        ends_s = time.monotonic() + PATIENCE_S / 2
        while True:
            waits_s = self._world.waits_s(self._provider, accepted)
            if not waits_s or math.isfinite(waits_s[-1]) or time.monotonic() > ends_s:
                return waits_s
            await asyncio.sleep(0.25)


async def _turns(seconds: float, per_s: float) -> AsyncIterator[int]:
    """The numbers of turns at a fixed rate, each when it is due."""
    began_s = time.monotonic()
    for number in range(int(seconds * per_s)):
        await asyncio.sleep(began_s + number / per_s - time.monotonic())
        yield number


async def _timed(answers: Answers, request: Awaitable[httpx.Response]) -> httpx.Response | None:
    """The answer, where it is a 2xx."""
    began_s = time.perf_counter()
    response: httpx.Response | None = None
    try:
        response = await request
    except httpx.HTTPError as error:
        answers.bad[type(error).__name__] += 1
    answers.seconds.append(time.perf_counter() - began_s)
    if response is None or response.is_success:
        return response
    answers.bad[str(response.status_code)] += 1
    return None


async def _lags(http: httpx.AsyncClient) -> dict[float, float]:
    """How many of the measured lags were at most so long (seconds). Empty where it does not tell."""
    try:
        metrics = (await http.get("/metrics")).text
    except httpx.HTTPError:
        return {}
    return {
        float(le): float(count) for le, count in re.findall(r'loop_lag_seconds_bucket\{le="(.+?)"\} (\S+)', metrics)
    }


def _latest_s(before: dict[float, float], after: dict[float, float]) -> float:
    """Of the lags that came in between."""
    between = {le: count - before[le] for le, count in after.items() if le in before}
    return min((le for le, count in between.items() if count == between[math.inf]), default=math.nan)


@asynccontextmanager
async def weighed(world: World) -> AsyncIterator[dict[str, float]]:
    """The most memory that each process has while the body runs (rss, MB). One that harms the machine is killed."""
    processes = {part: listens_on(world.ports[part]) for part in _PARTS}
    most = dict.fromkeys(_PARTS, 0.0)

    async def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while True:
                for part, process in processes.items():
                    most[part] = max(most[part], process.memory_info().rss / 1e6)
                    if most[part] > _TOO_MUCH_MB:
                        process.kill()
                        return
                await asyncio.sleep(_EVERY_S)

    watching = asyncio.create_task(watch())
    try:
        yield most
    finally:
        watching.cancel()


async def a_key(world: World, client: str, scopes: str) -> dict[str, str]:
    """The header with a new key of a client."""
    made = json.loads(await command(f"keys create --client {client} --scopes {scopes} --json", world.settings))
    return {"Authorization": f"Bearer {made['key']}"}
