"""The whole system on loopback for benchmarks: PostgreSQL, `serve`, `worker`, simulated providers, a webhook sink.

Each is a process of its own. What a provider got and when is read from its ledger; what a caller got, from the sink.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

import asyncpg
import httpx

from bench.gateway import command, free_port, process
from service.storage.embedded import EmbeddedPostgres

SECRET = "whsec_" + "c2VjcmV0" * 4
CLIENTS = ("mine", "others")
_numbers = count(0)


def a_number() -> str:
    """A number that nobody else has, and that the simulator delivers."""
    number = next(_numbers)
    return f"+1{200 + number // 10_000}5{number // 100 % 100:02}01{number % 100:02}"


def provider(port: int, more: str = "") -> str:
    """One account of `gateway.yaml`."""
    return f'{{adapter: smsroute, base_url: "http://127.0.0.1:{port}", api_key: key, webhook_secret: "{SECRET}"{more}}}'


@dataclass(frozen=True, slots=True)
class World:
    """What runs, and how to reach it. `pids` are the gateway's processes by name."""

    url: str
    http: httpx.AsyncClient
    headers: dict[str, dict[str, str]]
    dsn: str
    folder: Path
    ports: dict[str, int]
    sink_url: str
    settings: dict[str, str]
    """What the gateway's commands have in their environment."""

    async def send(self, client: str, to: str, sender: str) -> datetime:
        """Send one message; when it was accepted."""
        body = {"to": to, "from": sender, "message": "Your parcel arrives today between 9 and 11."}
        answer = await self.http.post("/v1/send", json=body, headers=self.headers[client])
        answer.raise_for_status()
        return datetime.fromisoformat(answer.json()["created_at"])

    async def fault(self, name: str, fault: str, latency_s: float = 0.0) -> None:
        """Switch a fault of a simulated provider on, and let it take so long for every answer."""
        url = f"http://127.0.0.1:{self.ports[name] + 10}/faults"
        (await self.http.put(url, json={"fault": fault, "latency_s": latency_s})).raise_for_status()

    def came(self, name: str, by: str = "idempotency_key") -> dict[str, datetime]:
        """When a provider accepted its first message under each key (`message:account`), or `by` each number (`to`)."""
        came: dict[str, datetime] = {}
        for line in (self.folder / f"{name}.jsonl").read_text().splitlines():
            for send in json.loads(line)["sends"]:
                came.setdefault(send[by], datetime.fromisoformat(send["at"]))
        return came

    def waits_s(self, name: str, accepted: dict[str, datetime]) -> list[float]:
        """From the accept of each number to the provider, sorted; infinite for what has not come."""
        came = self.came(name, by="to")
        waits = ((came[to] - at).total_seconds() if to in came else float("inf") for to, at in accepted.items())
        return sorted(waits)

    async def fetch(self, query: str) -> list[asyncpg.Record]:
        """Rows of the database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def count(self, query: str) -> int:
        """A number from the database."""
        return int((await self.fetch(query))[0][0])


@dataclass(frozen=True, slots=True)
class Part:
    """A process of the gateway: `serve` or `worker`, with settings and a niceness of its own."""

    command: str
    name: str
    settings: dict[str, str] = field(default_factory=dict)
    nice: int = 0


SERVE = Part("serve", "serve")
WORKER = Part("worker", "worker")


@asynccontextmanager
async def a_world(
    folder: Path,
    config: str,
    providers: Sequence[str],
    *,
    paces: dict[str, str] | None = None,
    parts: Sequence[Part] = (SERVE, WORKER),
    receiver_ms: float = 0.0,
) -> AsyncIterator[World]:
    """The system with these providers. `config` names each as `{name}`; `paces` adds settings to some.

    The sink takes `receiver_ms` to acknowledge a webhook.
    """
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(EmbeddedPostgres(folder / "data"))
        ports = {name: free_port() for name in ("sink", *(part.name for part in parts), *providers)}
        accounts = {name: provider(ports[name], (paces or {}).get(name, "")) for name in providers}
        (folder / "gateway.yaml").write_text(config.format(**accounts))
        url = f"http://127.0.0.1:{ports['serve']}"
        settings = {
            "SMS_GATEWAY_DATABASE_URL": dsn,
            "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
            "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
            "SMS_GATEWAY_PUBLIC_URL": url,
        }
        await command("migrate", settings)
        keys = {}
        for name in CLIENTS:
            made = json.loads(await command(f"keys create --client {name} --scopes send,read,admin --json", settings))
            keys[name] = {"Authorization": f"Bearer {made['key']}"}
        for name in providers:
            words = f"simulator --name {name} --port {ports[name]} --data-dir {folder} --api-key key"
            arguments = ["service.cli", *words.split(), "--webhook-secret", SECRET]
            ready = f"http://127.0.0.1:{ports[name] + 10}/ledger?to=x"
            await stack.enter_async_context(process(arguments, ready, folder / f"{name}.log"))
        sink_url = f"http://127.0.0.1:{ports['sink']}"
        await stack.enter_async_context(
            process(["bench.sink", str(ports["sink"]), str(receiver_ms)], f"{sink_url}/count", folder / "sink.log")
        )
        for part in parts:
            ready = f"http://127.0.0.1:{ports[part.name]}/readyz"
            own = {"SMS_GATEWAY_PORT": str(ports[part.name])} | part.settings
            command_line = ["service.cli", part.command]
            started = process(command_line, ready, folder / f"{part.name}.log", **settings, **own)
            (await stack.enter_async_context(started)).nice(part.nice)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60))
        yield World(url, http, keys, dsn, folder, ports, sink_url, settings)
