"""The pipeline over a real database, with providers whose every answer a test writes down beforehand."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson

from service.domain.hlr import HlrStatus
from service.domain.message import Traffic
from service.domain.outcome import Accepted, Outcome
from service.domain.receipt import Receipt
from service.hlr.smsroute import SmsRouteHlr
from service.hlr.source import HlrAccount
from service.http import Transport
from service.metrics import Metrics
from service.pipeline.deliver import Deliver
from service.pipeline.lease import Lease
from service.pipeline.lookup import Lookup
from service.pipeline.receive import Receive
from service.pipeline.screen import Screen
from service.pipeline.submit import Submit
from service.providers.adapter import Callback, Capabilities, Doubt, Submission
from service.pulse import Pulse
from service.runtime import Hints, ProviderAccount, Runtime
from service.settings import GatewayConfig, Settings
from service.storage.queue import MessageQueue, Settlement
from service.storage.receipts import News
from service.targets import TargetPolicy
from tests import rows

HLR_ACCOUNT = HlrAccount("primary", "http://primary.test", "k")
SECRET = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
WITH_KEY = Capabilities(idempotency_key=True, validity_period=True)
WITHOUT_KEY = Capabilities()

Answer = Outcome | Exception | Callable[[], Any]


def config(without: str | None = None, **sections: Any) -> GatewayConfig:
    """Two providers and one route through both; `sections` replace whole sections or, as mappings, add to them."""
    tree: dict[str, Any] = {
        "providers": {name: provider(name) for name in ("primary", "fallback") if name != without},
        "senders": {"MyApp": {"traffic": "transactional"}},
        "routes": [{"providers": ["primary", "fallback"], "hlr": "off"}],
        "deliver": {"poll_s": 0.01, "lease_s": 600, "otp_repeat_s": 0.001},
        "webhooks": {"allow_loopback": True},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section if isinstance(section, dict) else section
    return GatewayConfig.model_validate(tree)


def provider(name: str, **settings: Any) -> dict[str, Any]:
    return {"adapter": "smsroute", "base_url": f"http://{name}.test", "api_key": "k", **settings}


@dataclass(frozen=True, slots=True)
class Call:
    """What reached a provider."""

    provider: str
    key: str
    body: bytes
    timeout_s: float


class FakeAdapter:
    """Carries the submission over as it is; the answer comes with the response."""

    def __init__(self, name: str, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._name = name

    def send_request(self, submission: Submission) -> httpx.Request:
        body = orjson.dumps(
            {
                "to": submission.to,
                "text": submission.text,
                "validity_s": submission.validity_s,
                "callback_url": submission.callback_url,
            }
        )
        headers = {"idempotency-key": submission.idempotency_key}
        return httpx.Request("POST", f"http://{self._name}.test/send", headers=headers, content=body)

    def send_outcome(self, response: httpx.Response) -> Outcome:
        outcome: Outcome = response.extensions["outcome"]
        return outcome

    def credentials_request(self) -> httpx.Request:
        raise NotImplementedError

    def credentials_verdict(self, response: httpx.Response) -> Doubt | None:
        raise NotImplementedError

    def bulk_request(self, *_: object) -> httpx.Request:
        raise NotImplementedError

    def bulk_outcomes(self, *_: object) -> list[Outcome]:
        raise NotImplementedError

    def receipts(self, callback: Callback, now_s: float) -> list[Receipt]:
        raise NotImplementedError


class FakeTransport(Transport):
    """Providers as scripts: each call takes the next answer of its provider, `Accepted` when none is left."""

    def __init__(self) -> None:
        super().__init__(TargetPolicy.trusting())
        self.calls: list[Call] = []
        self.lookups: list[str] = []
        self._answers: dict[str, deque[Answer]] = {}
        self._always: dict[str, Answer] = {}
        self.hlr: Answer | HlrStatus | None = None
        """The status that a look-up finds, or what goes wrong with it."""

    def script(self, provider: str, *answers: Answer) -> None:
        self._answers[provider] = deque(answers)

    def always(self, provider: str, answer: Answer) -> None:
        self._always[provider] = answer

    def called(self) -> list[str]:
        """The providers, in the order of their calls."""
        return [call.provider for call in self.calls]

    async def send(self, request: httpx.Request, *, timeout_s: float, **_: float) -> httpx.Response:
        provider = request.url.host.removesuffix(".test")
        if request.url.path.startswith("/v1/hlr/"):
            number = request.url.path.removeprefix("/v1/hlr/")
            self.lookups.append(number)
            status = await _play(self.hlr)
            return httpx.Response(200, json={"number": number, "status": status, "error_code": None})
        self.calls.append(Call(provider, request.headers["idempotency-key"], request.content, timeout_s))
        answers = self._answers.get(provider)
        answer = answers.popleft() if answers else self._always.get(provider, Accepted(f"p{len(self.calls)}"))
        return httpx.Response(200, request=request, extensions={"outcome": await _play(answer)})


async def _play(answer: Any) -> Any:
    if callable(answer):
        answer = answer()
        if asyncio.iscoroutine(answer):
            answer = await answer
    if isinstance(answer, Exception):
        raise answer
    return answer.value if isinstance(answer, HlrStatus) else answer


class WatchedQueue(MessageQueue):
    """Tells when messages have been settled."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.database, receipt_wait=timedelta(hours=72), settle_again_after_s=())
        self.settled: list[Settlement] = []
        self._changed = asyncio.Condition()

    async def settle(self, item: Settlement) -> str | None:
        status = await super().settle(item)
        async with self._changed:
            self.settled.append(item)
            self._changed.notify_all()
        return status

    async def until_settled(self, message_ids: set[UUID], timeout_s: float = 60) -> None:
        """Wait until each of the messages has moved at least once."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(
                lambda: message_ids <= {item.message_id for item in self.settled if item.move != "keep"}
            )


class World:
    """One worker, and what surrounds it. Nothing moves but by `step`."""

    def __init__(self, base: Runtime, client_id: UUID, config: GatewayConfig, capabilities: Capabilities) -> None:
        self.http = FakeTransport()
        self.client_id = client_id
        accounts = {
            name: ProviderAccount(name, settings, FakeAdapter(name, capabilities))
            for name, settings in config.providers.items()
        }
        self.queue = WatchedQueue(base)
        self.runtime = replace(
            base,
            settings=Settings(base.settings.environment, config),
            metrics=Metrics(),
            hints=Hints(),
            pulse=Pulse(lambda: time.monotonic() + self.ahead_s),
            queue=self.queue,
            providers=accounts,
            hlr_source=SmsRouteHlr(HLR_ACCOUNT) if config.hlr.provider else None,
            provider_http=dict.fromkeys(accounts, self.http),
            lookup_http=self.http,
        )
        self.database = base.database
        self.lease = Lease(self.runtime)
        self.lookup = Lookup(self.runtime)
        self.receive = Receive(self.runtime, self.lookup)
        self.ahead_s = 0.0
        """How far the clock of the breakers and of the pulse is ahead of the real one."""
        self.submit = Submit(self.runtime, lambda: time.monotonic() + self.ahead_s)
        self.deliver = Deliver(self.runtime, self.lease, Screen(self.runtime, self.lookup), self.submit)

    async def accept(self, traffic: str = "transactional", **changes: Any) -> UUID:
        message = rows.a_message(self.client_id, traffic=traffic, **changes)
        await self.runtime.messages.add(message, None)
        return message.id

    async def step(self) -> int:
        """Claim everything that is due and see each message through to its settlement; returns how many there were."""
        claimed = [
            message
            for lane in Traffic
            for message in await self.runtime.queue.claim(lane, self.lease.worker_id, {}, 100)
        ]
        await asyncio.gather(*(self.deliver.deliver(message) for message in claimed))
        return len(claimed)

    async def again(self) -> int:
        """The same, once all that waits has become due."""
        await rows.make_due(self.database)
        return await self.step()

    async def send(self, traffic: str = "transactional", **changes: Any) -> UUID:
        """Accept a message and take the first step with it."""
        message_id = await self.accept(traffic, **changes)
        await self.step()
        return message_id

    async def message(self, message_id: UUID) -> dict[str, Any]:
        return await rows.row(self.database, message_id)

    async def attempts(self, message_id: UUID) -> list[tuple[str, str | None, bool, int]]:
        """Provider, outcome, open, calls of each attempt."""
        found = await rows.attempts(self.database, message_id)
        return [(row["provider"], row["outcome"], row["open"], row["calls"]) for row in found]

    async def where(self, message_id: UUID) -> tuple[str, str | None]:
        """Status and reason."""
        found = await self.message(message_id)
        return found["status"], found["reason"]


@asynccontextmanager
async def delivering(world: World, **parts: Any) -> AsyncIterator[Deliver]:
    """The lanes run; at the end what is under way is waited for."""
    runtime = replace(world.runtime, **parts)
    deliver = Deliver(runtime, world.lease, Screen(runtime, world.lookup), Submit(runtime))
    running = asyncio.create_task(deliver.run())
    try:
        yield deliver
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await deliver.drain(5)


def bodies(calls: list[Call]) -> list[Mapping[str, Any]]:
    return [orjson.loads(call.body) for call in calls]


def news(attempt_id: UUID, status: str, error_code: int | None = None) -> News:
    """A receipt of the primary provider."""
    return News("primary", attempt_id, None, status, error_code, None, None)


def lookup_metric(world: World, origin: str, status: HlrStatus) -> float | None:
    return world.runtime.metrics.registry.get_sample_value(
        "sms_gateway_hlr_lookups_total", {"origin": origin, "status": status.value}
    )
