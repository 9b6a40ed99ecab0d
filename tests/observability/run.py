"""A run in which all happens that the dashboard shows: two `serve`, two `worker`, and a Prometheus that looks on."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from yarl import URL

from tests.chaos.config import CONFIG
from tests.chaos.stage import Stage, a_stage
from tests.observability.monitoring import Panel, panels
from tests.observability.prometheus import Prometheus, Series, prometheus

FULL_WITHIN_S: Final = 180.0
MAY_BE_ZERO: Final = {"Due messages", "Age of the oldest due message", "OTPs later than 5 s"}
"""Two gauges of a moment, which nothing in the run holds, and lateness, which comes of counts that other panels show.
All others must show that something happened."""
_SENDERS: Final = ("MyAppOTP", "MyApp", "MyAppPromo")
_DELIVERED, _UNDELIVERED, _INVALID, _REJECTED = "+15555550100", "+15555550200", "+15555550260", "+15555550250"


@dataclass(frozen=True, slots=True)
class Answer:
    """A panel's query and what it returned."""

    panel: Panel
    series: list[Series]

    @property
    def largest(self) -> float:
        """The largest value; below all where there is none."""
        return max((series.value for series in self.series), default=-math.inf)


def asked(panel: Panel) -> str:
    """The panel's query as Grafana sends it, with all that happened in the run."""
    return panel.expr.replace("$__rate_interval", "5m").replace("$namespace", ".*")


class Run:
    """Lets things happen. `accepted` has the ids of the messages that each `serve` said 200 to."""

    def __init__(self, stage: Stage, looks_on: Prometheus) -> None:
        self.stage = stage
        self.prometheus = looks_on
        self._shown: dict[Panel, Answer] = {}
        self.accepted: dict[str, set[str]] = {address: set() for address in stage.addresses[: len(stage.serves)]}

    async def round(self) -> None:
        """Messages that are delivered, fail, are refused; a replay, a failover, look-ups, webhooks, a bad callback."""
        first, second = self.accepted
        for sender in _SENDERS:
            await self._send(first, sender, _DELIVERED)
        for to in (_DELIVERED, _UNDELIVERED, _INVALID, _REJECTED, "not a number"):
            await self._send(second, "MyApp", to)
        for _ in range(2):
            await self._send(second, "MyApp", _DELIVERED, key="always-the-same")
        await self._get(first, f"/v1/hlr/{_DELIVERED}?max_age=0")
        await self._get(first, f"/v1/hlr/{_DELIVERED}")
        await self.stage.post("/v1/receipts/primary/not-a-token", {})
        await self.stage.primary.fault("down")
        message_id = await self._send(first, "MyAppOTP", _DELIVERED)
        await self._until_ended(first, message_id)
        await self.stage.primary.fault("none")

    async def trouble(self) -> None:
        """A provider dies, all workers die under their calls, and PostgreSQL dies."""
        await self._provider_dies()
        await self._workers_die()
        await self._database_dies()

    async def _provider_dies(self) -> None:
        await self.stage.primary.fault("down")
        async with asyncio.timeout(FULL_WITHIN_S):
            while not await self.prometheus.number('max(sms_gateway_breaker_state{provider="primary"})'):
                for sender in _SENDERS:
                    await self._send(next(iter(self.accepted)), sender, _DELIVERED)
        await self._look()
        await self.stage.primary.fault("none")

    async def _workers_die(self) -> None:
        """What they worked on is taken over when they are back."""
        for provider in self.stage.providers:
            await provider.fault("hang")
        await self._send(next(iter(self.accepted)), "MyAppOTP", _DELIVERED)
        async with asyncio.timeout(FULL_WITHIN_S):
            while not await self.stage.fetch("SELECT FROM attempts WHERE outcome IS NULL"):  # noqa: ASYNC110 - a table tells nobody
                await asyncio.sleep(0.1)
        for worker in self.stage.workers:
            await worker.kill()
        for provider in self.stage.providers:
            await provider.fault("none")
        await self.stage.start()

    async def _database_dies(self) -> None:
        await self.stage.postgres.kill()
        async with asyncio.timeout(FULL_WITHIN_S):
            while not await self.prometheus.number("sum(sms_gateway_worker_errors_total)"):
                await self._send(next(iter(self.accepted)), "MyApp", _DELIVERED)
        await self.stage.start()

    async def _look(self) -> None:
        """Ask for every panel, and keep of each the answer with the largest value."""
        for panel in panels():
            answer = Answer(panel, await self.prometheus.query(asked(panel)))
            if panel not in self._shown or answer.largest > self._shown[panel].largest:
                self._shown[panel] = answer

    async def _send(self, address: str, sender: str, to: str, key: str = "") -> str:
        """The message's id; "" where it was refused."""
        body = {"to": to, "from": sender, "message": "Hello", "callback_url": f"{self.stage.listener.url}/hook"}
        status, reply = await self.stage.post("/v1/send", body, key, url=f"http://{address}")
        if status != HTTPStatus.OK:
            return ""
        self.accepted[address].add(reply["message_id"])
        return str(reply["message_id"])

    async def _get(self, address: str, path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.stage.api_keys['shop']}"}
        url = URL(f"http://{address}{path.replace('+', '%2B')}", encoded=True)
        async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
            assert answer.ok, await answer.text()
            return dict(await answer.json())

    async def _until_ended(self, address: str, message_id: str) -> None:
        async with asyncio.timeout(FULL_WITHIN_S):
            while True:
                message = await self._get(address, f"/v1/messages/{message_id}")
                if message["status"] not in {"queued", "sending", "sent"}:
                    return
                await asyncio.sleep(0.1)

    async def until_every_panel_has_data(self) -> list[Answer]:
        """Trouble, and rounds until each query of the dashboard has told of it; the most that each has returned.

        Raises:
            AssertionError: one still shows nothing, or nothing but 0, after three minutes.
        """
        deadline_s = time.monotonic() + FULL_WITHIN_S
        await self.trouble()
        while True:
            await self.round()
            await self._look()
            answers = [self._shown[panel] for panel in panels()]
            empty = [one.panel.title for one in answers if one.largest < 0 or not (one.largest or _may_be_zero(one))]
            if not empty:
                return answers
            assert time.monotonic() < deadline_s, f"no data, or only 0: {empty}"


def _may_be_zero(answer: Answer) -> bool:
    return answer.panel.title in MAY_BE_ZERO


@asynccontextmanager
async def a_run(folder: Path, cluster: Path) -> AsyncIterator[Run]:
    """A stage with a Prometheus."""
    (folder / "stage").mkdir()
    (folder / "prometheus").mkdir()
    async with (
        a_stage(
            folder / "stage", cluster, serves=2, workers=2, config=f"{CONFIG}health: {{{{min_samples: 10}}}}"
        ) as stage,
        prometheus(folder / "prometheus", stage.addresses) as looks_on,
    ):
        yield Run(stage, looks_on)
