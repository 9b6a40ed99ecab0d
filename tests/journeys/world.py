"""Everything at once, nothing patched: gateway, worker, two simulated providers and a webhook listener, over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from standardwebhooks.webhooks import Webhook

from service.app import create_app
from service.environment import Environment
from service.pipeline.worker import working
from service.runtime import Runtime
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from tests.gateway import make_key, open_gateway, serve
from tests.listener import Listener, Received

SIGNING_SECRET = "whsec_" + "c2VjcmV0" * 4
"""What `make_key` gives its client."""

CONFIG = """
providers:
  primary:
    {{adapter: smsroute, base_url: "{primary}", api_key: key, webhook_secret: "{secret}", timeout_s: 1, cost: 0.05}}
  fallback:
    {{adapter: smsroute, base_url: "{fallback}", api_key: key, webhook_secret: "{secret}", timeout_s: 1, cost: 0.05}}
senders:
  MyAppOTP: {{traffic: otp}}
  MyApp: {{traffic: transactional}}
  MyAppPromo: {{traffic: marketing}}
routes:
  - {{providers: [primary, fallback], hlr: required}}
hlr: {{provider: primary, cost: 0.005}}
webhooks: {{allow_loopback: true}}
deliver: {{poll_s: 0.02, otp_repeat_s: 0.1}}
"""


@dataclass(frozen=True, slots=True)
class World:
    """A running gateway and everything around it."""

    runtime: Runtime
    primary: Simulator
    fallback: Simulator
    listener: Listener
    http: httpx.AsyncClient

    async def send(self, to: str = "+15555550100", sender: str = "MyApp", key: str = "", **more: Any) -> dict[str, Any]:
        """Send a message whose webhook goes to the listener; returns the reply."""
        body = {"to": to, "from": sender, "message": "Hello", "callback_url": f"{self.listener.url}/hook"} | more
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.http.post("/v1/send", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def message(self, message_id: str) -> dict[str, Any]:
        """A message as its caller sees it."""
        answer = await self.http.get(f"/v1/messages/{message_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def message_when(
        self, message_id: str, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 60
    ) -> dict[str, Any]:
        """The message as soon as `condition` holds."""
        seen: dict[str, Any] = {}
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    seen = await self.message(message_id)
                    if condition(seen):
                        return seen
                    await asyncio.sleep(0.02)  # over HTTP there is nothing to wait on
        except TimeoutError:
            raise AssertionError(f"not in {timeout_s} s: {seen}") from None

    async def ended(self, message_id: str) -> dict[str, Any]:
        """The message once it has ended."""
        ends = {"delivered", "undelivered", "failed"}
        return await self.message_when(message_id, lambda message: message["status"] in ends)

    async def fault(self, simulator: Simulator, fault: str, **more: Any) -> None:
        """Switch a fault of a provider on."""
        answer = await self.http.put(f"{simulator.control_url}/faults", json={"fault": fault} | more)
        assert answer.status_code == 200, answer.text

    async def ledger(self, simulator: Simulator, to: str) -> list[dict[str, Any]]:
        """What a provider accepted for a number."""
        answer = await self.http.get(f"{simulator.control_url}/ledger", params={"to": to})
        return list(answer.json()["sends"])

    async def webhook(self, message_id: str) -> dict[str, Any]:
        """The first webhook of a message, its signature verified."""
        return (await self.webhooks(message_id, 1))[0]

    async def webhooks(self, message_id: str, number: int) -> list[dict[str, Any]]:
        """The webhooks of a message, once there are so many."""
        count = 1
        while True:
            mine = [one for one in self.listener.received if one.json()["message_id"] == message_id]
            if len(mine) >= number:
                return [_verified(one) for one in mine]
            count = len(await self.listener.wait_for(max(count, len(self.listener.received) + 1)))


def _verified(received: Received) -> dict[str, Any]:
    return dict(Webhook(SIGNING_SECRET).verify(received.body, dict(received.headers)))


@asynccontextmanager
async def a_world(
    dsn: str, folder: Path, config: str = CONFIG, *, settings: Environment | None = None
) -> AsyncIterator[World]:
    """A world on a database of its own."""
    async with AsyncExitStack() as stack:
        simulators = [
            await stack.enter_async_context(
                Simulator(SimulatorSettings(name, "127.0.0.1", 0, "key", SIGNING_SECRET, folder, receipt_delay_s=0.05))
            )
            for name in ("primary", "fallback")
        ]
        listener = await stack.enter_async_context(Listener())
        text = config.format(primary=simulators[0].base_url, fallback=simulators[1].base_url, secret=SIGNING_SECRET)
        environment = replace(settings or Environment(), port=free_port())
        runtime = await stack.enter_async_context(open_gateway(text, dsn, environment))
        url = await stack.enter_async_context(serve(create_app(runtime), environment.port))
        key = await make_key(runtime, "send", "hlr", "read")
        http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=20)
        await stack.enter_async_context(http)
        await stack.enter_async_context(working(runtime))
        yield World(runtime, simulators[0], simulators[1], listener, http)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
