from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.simulator.ledger import ReceiptPlan, Send
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from tests.listener import Listener

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def settings_in(folder: Path, **changes: Any) -> SimulatorSettings:
    defaults: dict[str, Any] = {
        "name": "primary",
        "host": "127.0.0.1",
        "port": 0,
        "api_key": "key",
        "webhook_secret": SECRET,
        "data_dir": folder,
        "receipt_delay_s": 0.0,
        "slow_receipt_delay_s": 0.0,
    }
    return SimulatorSettings(**(defaults | changes))


def a_send(message_id: str, url: str) -> Send:
    now = datetime.now(UTC)
    return Send(
        message_id=message_id,
        to="+15555550100",
        sender="MyApp",
        idempotency_key=None,
        at=now,
        reference=None,
        batch_id=None,
        segments=1,
        receipt=ReceiptPlan(url, now, copies=1),
    )


class Client:
    """Speaks to one simulator as the gateway would, and to its control port."""

    def __init__(self, simulator: Simulator) -> None:
        headers = {"Authorization": f"Bearer {simulator.settings.api_key}"}
        # An empty TLS context: loading the system's certificates for each test takes most of its time.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.api = httpx.AsyncClient(base_url=simulator.base_url, headers=headers, verify=tls)
        self.control = httpx.AsyncClient(base_url=simulator.control_url, verify=tls)

    async def send(self, to: str = "+15555550100", *, key: str | None = None, **changes: object) -> httpx.Response:
        body = {"to": to, "from": "MyApp", "message": "Hello"} | changes
        return await self.api.post("/v1/send", json=body, headers={"Idempotency-Key": key} if key else {})

    async def bulk(self, *recipients: str, key: str | None = None, **changes: object) -> httpx.Response:
        body = {"recipients": recipients, "from": "MyApp", "message": "Hello"} | changes
        return await self.api.post("/v1/send/bulk", json=body, headers={"Idempotency-Key": key} if key else {})

    async def fault(self, fault: str, **changes: object) -> None:
        answer = await self.control.put("/faults", json={"fault": fault} | changes)
        assert answer.status_code == 200, answer.text

    async def ledger(self, **query: str) -> list[dict[str, Any]]:
        sends: list[dict[str, Any]] = (await self.control.get("/ledger", params=query)).json()["sends"]
        return sends

    async def close(self) -> None:
        await self.api.aclose()
        await self.control.aclose()


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(settings_in(tmp_path)) as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[Client]:
    client = Client(simulator)
    yield client
    await client.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as listener:
        yield listener
