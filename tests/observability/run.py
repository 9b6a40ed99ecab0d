"""A run in which all happens that the dashboard shows: two `serve`, two `worker`, and a Prometheus that looks on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from yarl import URL

from tests.chaos.stage import Stage, a_stage
from tests.observability.monitoring import Panel, panels
from tests.observability.prometheus import Prometheus, Series, prometheus

FULL_WITHIN_S: Final = 180.0
_SENDERS: Final = ("MyAppOTP", "MyApp", "MyAppPromo")
_DELIVERED, _UNDELIVERED, _INVALID, _REJECTED = "+15555550100", "+15555550200", "+15555550260", "+15555550250"


@dataclass(frozen=True, slots=True)
class Answer:
    """A panel's query and what it returned."""

    panel: Panel
    series: list[Series]


def asked(panel: Panel) -> str:
    """The panel's query as Grafana sends it, with all that happened in the run."""
    return panel.expr.replace("$__rate_interval", "5m").replace("$namespace", ".*")


class Run:
    """Lets things happen. `accepted` has the ids of the messages that each `serve` said 200 to."""

    def __init__(self, stage: Stage, looks_on: Prometheus) -> None:
        self.stage = stage
        self.prometheus = looks_on
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
        """Rounds until each query of the dashboard has returned a number; what they return then.

        Raises:
            AssertionError: one is still empty after three minutes.
        """
        deadline_s = time.monotonic() + FULL_WITHIN_S
        while True:
            await self.round()
            answers = [Answer(panel, await self.prometheus.query(asked(panel))) for panel in panels()]
            empty = [answer.panel.title for answer in answers if not answer.series]
            if not empty:
                return answers
            assert time.monotonic() < deadline_s, f"no data: {empty}"


@asynccontextmanager
async def a_run(folder: Path, cluster: Path) -> AsyncIterator[Run]:
    """A stage with a Prometheus."""
    (folder / "stage").mkdir()
    (folder / "prometheus").mkdir()
    async with (
        a_stage(folder / "stage", cluster, serves=2, workers=2) as stage,
        prometheus(folder / "prometheus", stage.addresses) as looks_on,
    ):
        yield Run(stage, looks_on)
