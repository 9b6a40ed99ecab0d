"""A gateway of real processes whose every output is kept, and a search in it for what must not be there."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx

from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from service.storage.embedded import EmbeddedPostgres
from tests.cli.running import Running, free_ports, running, sms_gateway
from tests.collector import Collector
from tests.listener import Listener

TALKATIVE = {"log_statement": "all", "log_min_duration_statement": "0", "log_connections": "on"}
"""What operators turn on when they look for trouble. The rest of the settings is that of the embedded server."""

CONFIG = """\
providers:
  primary: {{adapter: smsroute, base_url: "{primary}", api_key: {key}, webhook_secret: {signing}, timeout_s: 1}}
  fallback: {{adapter: smsroute, base_url: "{fallback}", api_key: {key}, timeout_s: 1}}
senders:
  MyAppOTP: {{traffic: otp}}
  MyApp: {{traffic: transactional}}
routes:
  - {{providers: [primary, fallback], hlr: required}}
hlr: {{provider: primary}}
webhooks: {{allow_loopback: true}}
deliver: {{lease_s: 4}}
"""


def secret(prefix: str = "") -> str:
    """Random, so that wherever it is found it has leaked."""
    return prefix + secrets.token_hex(16)


@dataclass
class Spoken:
    """What was said where, and what nobody may say."""

    outputs: dict[str, str] = field(default_factory=dict)
    forbidden: dict[str, str] = field(default_factory=dict)
    """What it is, by how it reads."""

    def forbid(self, what: str, *texts: str) -> None:
        self.forbidden |= dict.fromkeys(texts, what)

    def forbid_numbers(self, *numbers: str) -> None:
        """Their digits, in whatever form a URL or a log has them."""
        self.forbid("number", *(number.removeprefix("+") for number in numbers))

    def found(self) -> list[str]:
        """Where something is that must not be."""
        return [
            f"{what} in {where}: ...{text[max(0, text.index(it) - 80) : text.index(it) + 80]!r}..."
            for where, text in self.outputs.items()
            for it, what in self.forbidden.items()
            if it in text
        ]


class Scene:
    """`serve` and `worker` as processes, on a PostgreSQL that logs all it does, with two simulated providers."""

    def __init__(
        self, folder: Path, dsn: str, listener: Listener, collector: Collector, simulators: list[Simulator]
    ) -> None:
        self.spoken = Spoken()
        self.folder, self.dsn, self.listener, self.simulators = folder, dsn, listener, simulators
        self.collector = collector
        self.port = free_ports()
        self.secret_key, self.signing = secret(), simulators[0].settings.webhook_secret
        self._logs: list[Running] = []
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=120, event_hooks={"response": [self._keep_refusal]}
        )
        (folder / "database-url").write_text(dsn)
        (folder / "secret-key").write_text(self.secret_key)
        provider_key = simulators[0].settings.api_key
        (folder / "gateway.yaml").write_text(
            CONFIG.format(
                primary=simulators[0].base_url,
                fallback=simulators[1].base_url,
                key=provider_key,
                signing=self.signing,
            )
        )
        password = dsn.split(":")[2].split("@", maxsplit=1)[0]
        self.spoken.forbid("secret", self.secret_key, self.signing, self.signing[6:], provider_key, password)

    @property
    def settings(self) -> Mapping[str, str | Path]:
        """Everything secret by file, at the level that says most."""
        return {
            "SMS_GATEWAY_DATABASE_URL_FILE": self.folder / "database-url",
            "SMS_GATEWAY_SECRET_KEY_FILE": self.folder / "secret-key",
            "SMS_GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "SMS_GATEWAY_LOG_LEVEL": "DEBUG",
            "SMS_GATEWAY_OTLP_ENDPOINT": self.collector.url,
        }

    def start(self, stack: AsyncExitStack, command: str, port: int) -> Running:
        process = stack.enter_context(running(command, folder=self.folder, SMS_GATEWAY_PORT=port, **self.settings))
        self._logs.append(process)
        return process

    def cli(self, *arguments: str) -> str:
        done = sms_gateway(*arguments, **self.settings)
        assert done.returncode == 0, done.stderr
        self.spoken.outputs[f"complaints of {arguments[0]}"] = done.stderr
        return done.stdout

    async def _keep_refusal(self, answer: httpx.Response) -> None:
        if answer.is_error:
            await answer.aread()
            number = len(self.spoken.outputs)
            self.spoken.outputs[f"answer {number} to {answer.request.method}"] = f"{answer.headers}\n{answer.text}"

    async def is_ready(self, port: int) -> None:
        async with asyncio.timeout(120):
            while True:
                try:
                    if (await self.http.get(f"http://127.0.0.1:{port}/readyz")).is_success:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)  # the process has nothing to wait on

    async def fault(self, fault: str) -> None:
        """Both providers have it."""
        for simulator in self.simulators:
            answer = await self.http.put(f"{simulator.control_url}/faults", json={"fault": fault})
            assert answer.is_success, answer.text

    def see_processes(self, processes: Iterable[Running]) -> None:
        """What anybody on the machine, or in its container, sees of them."""
        for process in (member for one in processes for member in one.family()):
            self.spoken.outputs[f"arguments of {process.pid}"] = " ".join(process.cmdline())
            self.spoken.outputs[f"environment of {process.pid}"] = str(process.environ())

    def collect(self) -> Spoken:
        """Everything said, logs and traces included."""
        self.spoken.outputs["traces"] = "\n".join(self.collector.said)
        self.spoken.outputs["log of service"] = "".join({process.log() for process in self._logs})
        self.spoken.outputs["log of PostgreSQL"] = (self.folder / "data" / "pg.log").read_text(errors="replace")
        return self.spoken


async def _with_role(admin_dsn: str) -> str:
    """The DSN of a database with the role that docs/security.md tells operators to make."""
    password, parts = secret(), urlsplit(admin_dsn)
    connection = await asyncpg.connect(admin_dsn)
    await connection.execute("SET log_statement = 'none'; SET log_min_duration_statement = -1")  # it holds the password
    await connection.execute(f"CREATE ROLE gateway LOGIN PASSWORD '{password}' NOSUPERUSER NOCREATEDB NOCREATEROLE")
    await connection.execute("CREATE DATABASE gateway OWNER gateway")
    await connection.execute("REVOKE ALL ON DATABASE gateway FROM PUBLIC")
    await connection.close()
    return urlunsplit(parts._replace(netloc=f"gateway:{password}@{parts.hostname}:{parts.port}", path="/gateway"))


@asynccontextmanager
async def a_scene(folder: Path, postgres_settings: Mapping[str, str]) -> AsyncIterator[Scene]:
    """Everything but `serve` and `worker`, which the body starts."""
    signing, key = "whsec_" + secrets.token_urlsafe(24).replace("-", "A").replace("_", "B"), secret("pk-")
    async with AsyncExitStack() as stack:
        simulators = [
            await stack.enter_async_context(
                Simulator(SimulatorSettings(name, "127.0.0.1", 0, key, signing, folder, receipt_delay_s=0.05))
            )
            for name in ("primary", "fallback")
        ]
        listener = await stack.enter_async_context(Listener())
        admin = await stack.enter_async_context(EmbeddedPostgres(folder / "data", settings=postgres_settings))
        collector = await stack.enter_async_context(Collector())
        scene = Scene(folder, await _with_role(admin), listener, collector, simulators)
        stack.push_async_callback(scene.http.aclose)
        yield scene
