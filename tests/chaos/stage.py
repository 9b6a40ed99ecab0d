"""A stage: everything real, each part a process of its own that a test can kill, stop, restart or break.

    async with a_stage(folder, cluster, serves=2, workers=2) as stage:
        answer = await stage.send(to="+15555550100")          # through the door, the load balancer
        await stage.workers[0].kill()
        await stage.postgres.kill(); await stage.postgres.start()      # same port, same data
        await stage.primary.fault("throttle", rate=0.5)
        rows = await stage.fetch("SELECT status FROM messages")
        sends = stage.primary.ledger()

`cluster` is the fixture `cluster` of `conftest.py`: files of a migrated PostgreSQL, copied for each stage.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import orjson

from service.domain.keyring import Keyring
from service.storage.clients import ClientStore, KeyTerms
from service.storage.database import Database
from service.storage.migrate import migrate
from tests.chaos.config import CONFIG
from tests.chaos.door import Door
from tests.chaos.keyless import NAME as KEYLESS
from tests.chaos.processes import Command, Postgres, free_port
from tests.listener import Listener

SECRET_KEY: Final = "test-secret-key-of-32-characters-or-more"
SIGNING_SECRET: Final = "whsec_" + "c2VjcmV0" * 4
"""Signs the webhooks of every client, and the receipts of both simulators."""
CLIENTS: Final = ("shop", "bank")
_GIVEN_UP: Final = re.compile(r"receipt of (\w+) given up")


@dataclass(frozen=True, slots=True)
class LedgerSend:
    """A send that a simulator accepted, as its file says.

    `receipt`: one was planned; `receipt_done`: nothing more of it is to come; `receipt_taken`: it was acknowledged.
    """

    message_id: str
    to: str
    key: str
    at: datetime
    receipt: bool
    receipt_done: bool
    receipt_taken: bool

    @property
    def news(self) -> str:
        """How far its receipt is."""
        if not self.receipt:
            return "none"
        return "taken" if self.receipt_taken else "refused" if self.receipt_done else "owed"


class Provider(Command):
    """A simulator as a process. Its ledger outlives it."""

    def __init__(self, name: str, port: int, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.control_url = f"http://127.0.0.1:{port + 10}"
        self._ledger = folder / f"{name}.jsonl"
        settings = {
            "SMS_SIMULATOR_NAME": name,
            "SMS_SIMULATOR_PORT": str(port),
            "SMS_SIMULATOR_DATA_DIR": str(folder),
            "SMS_SIMULATOR_API_KEY": "key",
            "SMS_SIMULATOR_WEBHOOK_SECRET": SIGNING_SECRET,
        }
        delays = ("--receipt-delay", "0.1", "--slow-receipt-delay", "3")
        super().__init__(name, ("simulator", *delays), settings, f"{self.control_url}/healthz", folder / f"{name}.log")
        self.pace: Mapping[str, float] = {}
        """How long it takes to answer (`latency_s`, `jitter_s`), whatever fault is in force, and after a restart."""

    async def ready(self) -> None:
        """The same, and at its pace."""
        await super().ready()
        if self.pace:
            await self.fault("none")

    async def fault(self, fault: str, **more: Any) -> None:
        """Put a fault into force (`rate`, `latency_s` besides); `none` ends it. A restart ends it too."""
        more = {**self.pace, **more}
        async with (
            aiohttp.ClientSession() as http,
            http.put(f"{self.control_url}/faults", json={"fault": fault} | more) as answer,
        ):
            assert answer.status == 200, await answer.text()

    def ledger(self) -> list[LedgerSend]:
        """Every send that it accepted, in order, read from its file."""
        lines = [
            orjson.loads(line) for line in self._ledger.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"
        ]
        done = {line["receipt_done"] for line in lines if line["receipt_done"]}
        taken = done.difference(_GIVEN_UP.findall(self.log.read_text()))
        return [
            LedgerSend(
                message_id=send["message_id"],
                to=send["to"],
                key=send["idempotency_key"] or "",
                at=datetime.fromisoformat(send["at"]),
                receipt=send["receipt"] is not None,
                receipt_done=send["message_id"] in done,
                receipt_taken=send["message_id"] in taken,
            )
            for line in lines
            for send in line["sends"]
        ]


class Stage:
    """The parts, by name. `serves` and `workers` are in the order of their ports; start more of them at will."""

    def __init__(self, folder: Path, config: str, serves: int, workers: int, settings: Mapping[str, str]) -> None:
        taken: set[int] = set()
        self.folder = folder
        self.postgres = Postgres(folder / "postgres", free_port(taken), settings)
        self.primary = Provider("primary", free_port(taken, 10), folder)
        self.fallback = Provider("fallback", free_port(taken, 10), folder)
        self.listener = Listener()
        self.api_keys: dict[str, str] = {}
        """The key of each of `CLIENTS`, with every scope."""
        self.dsn = ""
        serve_ports = [free_port(taken) for _ in range(serves)]
        self.door = Door(free_port(taken), serve_ports)
        self.write(config)
        self._serve_ports = serve_ports
        self._worker_ports = [free_port(taken) for _ in range(workers)]
        self.serves: list[Command] = []
        self.workers: list[Command] = []

    def write(self, config: str) -> None:
        """Have the processes that start from now on read it."""
        text = config.format(primary=self.primary.url, fallback=self.fallback.url, secret=SIGNING_SECRET)
        (self.folder / "gateway.yaml").write_text(text)
        self.config = config
        self.keyless = frozenset(re.findall(rf"(\w+):\s+{{adapter: {KEYLESS}\b", text))

    async def change(self, config: str) -> None:
        """Run with another `config` from now on."""
        if config != self.config:
            self.write(config)
            await asyncio.gather(*(command.restart() for command in (*self.serves, *self.workers)))

    @property
    def providers(self) -> tuple[Provider, Provider]:
        return self.primary, self.fallback

    @property
    def commands(self) -> Sequence[Command]:
        """Every process but PostgreSQL."""
        return (*self.providers, *self.serves, *self.workers)

    async def open_store(self) -> None:
        """Start PostgreSQL, make the clients, and know how the gateway's processes are started."""
        self.dsn = await self.postgres.start()
        database = await Database.open(self.dsn, connections=1)
        try:
            clients, keyring = ClientStore(database), Keyring(SECRET_KEY)
            for name in CLIENTS:
                client_id, _ = await clients.ensure_client(name, keyring.seal(SIGNING_SECRET))
                self.api_keys[name] = f"sk_{name}_{'x' * 32}"
                await clients.add_key(client_id, self.api_keys[name], KeyTerms(["send", "hlr", "read", "admin"]))
        finally:
            await database.close()
        self.serves += [self._gateway(f"serve{n}", "serve", port) for n, port in enumerate(self._serve_ports)]
        self.workers += [self._gateway(f"worker{n}", "worker", port) for n, port in enumerate(self._worker_ports)]

    def _gateway(self, name: str, command: str, port: int) -> Command:
        environment = {
            "SMS_GATEWAY_PORT": str(port),
            "SMS_GATEWAY_PUBLIC_URL": self.door.url,
            "SMS_GATEWAY_DATABASE_URL": self.dsn,
            "SMS_GATEWAY_CONFIG": str(self.folder / "gateway.yaml"),
            "SMS_GATEWAY_SECRET_KEY": SECRET_KEY,
            "SMS_GATEWAY_CONNECTIONS": "10",
        }
        return Command(name, (command,), environment, f"http://127.0.0.1:{port}/readyz", self.folder / f"{name}.log")

    def url_of(self, serve: Command) -> str:
        """The address of one `serve`, past the door."""
        return f"http://127.0.0.1:{self._serve_ports[self.serves.index(serve)]}"

    @property
    def addresses(self) -> list[str]:
        """host:port of every `serve` and then of every `worker`, past the door."""
        return [f"127.0.0.1:{port}" for port in (*self._serve_ports, *self._worker_ports)]

    def port_of(self, serve: Command) -> int:
        """For `door.closed`."""
        return self._serve_ports[self.serves.index(serve)]

    async def post(
        self, path: str, body: Mapping[str, Any], key: str = "", client: str = "shop", url: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of one POST, on a connection of its own.

        Raises:
            aiohttp.ClientError, TimeoutError: no answer.
        """
        headers = {"Authorization": f"Bearer {self.api_keys[client]}"} | ({"Idempotency-Key": key} if key else {})
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
            http.post(f"{url or self.door.url}{path}", json=body, headers=headers) as answer,
        ):
            return answer.status, orjson.loads(await answer.read())

    async def send(self, to: str = "+15555550100", sender: str = "MyApp", key: str = "", **more: Any) -> dict[str, Any]:
        """The reply to a send whose webhook goes to the listener."""
        body = {"to": to, "from": sender, "message": "Hello", "callback_url": f"{self.listener.url}/hook"} | more
        status, reply = await self.post("/v1/send", body, key)
        assert status == 200, reply
        return reply

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the test's own to the database, as its superuser."""
        connection = await asyncpg.connect(self.dsn, timeout=10)
        try:
            yield connection
        finally:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=1)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            return list(await connection.fetch(query, *arguments))

    async def execute(self, statement: str, *arguments: Any) -> str:
        async with self.connection() as connection:
            return str(await connection.execute(statement, *arguments))

    async def start(self) -> None:
        """Start whatever does not run, and wait until all of it is ready."""
        if not self.postgres.up:
            await self.postgres.start()
        for command in self.commands:
            command.go_on()
            await command.launch_only()
        await asyncio.gather(*(command.ready() for command in self.commands))

    def logs(self) -> str:
        """The last lines of every process, for a failure's message."""
        return "\n".join(f"--- {command.name}\n{command.log.read_text()[-1500:]}" for command in self.commands)


async def make_cluster(folder: Path) -> Path:
    """The files of a PostgreSQL with the newest schema, to copy for each stage."""
    server = Postgres(folder, free_port(set()), {})
    async with server as dsn:
        await asyncio.to_thread(migrate, dsn)
    return folder


@asynccontextmanager
async def a_stage(
    folder: Path,
    cluster: Path,
    *,
    serves: int = 1,
    workers: int = 1,
    config: str = CONFIG,
    postgres_settings: Mapping[str, str] | None = None,
    started: bool = True,
) -> AsyncIterator[Stage]:
    """A stage on a copy of `cluster`, all of it up (`started` False: PostgreSQL and the listener only).

    Whatever happens, no process of it is left.
    """
    # With owners and modes: PostgreSQL insists on both.
    await asyncio.to_thread(subprocess.check_call, ["cp", "-a", cluster, folder / "postgres"])
    stage = Stage(folder, config, serves, workers, postgres_settings or {})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stage.postgres.stop)
        await stage.open_store()
        await stack.enter_async_context(stage.listener)
        await stack.enter_async_context(stage.door)
        for command in stage.commands:
            stack.push_async_callback(command.kill)
        if started:
            await stage.start()
        yield stage
    shutil.rmtree(folder / "postgres")
