"""Backup and restore as docs/backup-and-restore.md tells it, with the commands that stand there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.environment import Environment
from service.pipeline.worker import working
from service.runtime import Runtime
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from service.storage.embedded import EmbeddedPostgres
from service.storage.migrate import migrate
from service.storage.programs import find_folder
from tests.gateway import make_key, migrated_database, open_gateway, serve
from tests.journeys.world import SIGNING_SECRET, free_port
from tests.postgres import create_database, drop_database

PAGE = Path(__file__).parents[2] / "docs" / "backup-and-restore.md"
CONFIG = """
providers: {{primary: {{adapter: smsroute, base_url: "{url}", api_key: key, webhook_secret: "{secret}"}}}}
senders: {{MyApp: {{traffic: transactional}}}}
routes: [{{providers: [primary]}}]
deliver: {{poll_s: 0.02}}
"""
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Simulator]:
    settings = SimulatorSettings("primary", "127.0.0.1", 0, "key", SIGNING_SECRET, tmp_path, receipt_delay_s=0.05)
    async with Simulator(settings) as provider:
        yield provider


@dataclass(frozen=True, slots=True)
class Gateway:
    """`serve`; for a worker, `working(gateway.runtime)`."""

    runtime: Runtime
    http: httpx.AsyncClient

    async def send(self, to: str, key: str, **more: Any) -> str:
        """The message's id."""
        body = {"to": to, "from": "MyApp", "message": "Hello"} | more
        answer = await self.http.post("/v1/send", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["message_id"])

    async def state(self, message_id: str) -> tuple[str, str | None]:
        """Its status and reason; what the gateway does not know is `unknown`."""
        answer = await self.http.get(f"/v1/messages/{message_id}")
        if answer.status_code == 404:
            return "unknown", None
        return answer.json()["status"], answer.json()["reason"]

    async def ended(self, message_id: str) -> tuple[str, str | None]:
        async with asyncio.timeout(60):
            while True:
                state = await self.state(message_id)
                if state[0] not in {"queued", "sending", "sent"}:
                    return state
                await asyncio.sleep(0.02)  # over HTTP there is nothing to wait on


@asynccontextmanager
async def a_gateway(dsn: str, provider: Simulator, api_key: str | None = None) -> AsyncIterator[Gateway]:
    text, environment = CONFIG.format(url=provider.base_url, secret=SIGNING_SECRET), Environment(port=free_port())
    async with open_gateway(text, dsn, environment) as runtime, serve(create_app(runtime), environment.port) as url:
        api_key = api_key or await make_key(runtime, "send", "read")
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {api_key}"}) as http:
            yield Gateway(runtime, http)


async def run(name: str, folder: Path, **variables: str) -> str:
    """What the page's commands of that name print."""
    found = re.search(rf"<!-- {name} -->\n\n((?: {{4}}.*\n|\n)+)", PAGE.read_text(encoding="utf-8"))
    assert found, f"the page has no commands {name!r}"
    script = "".join(line.removeprefix("    ") for line in found[1].splitlines(keepends=True))
    path = f"{find_folder(find_spec)}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-euc", script),
        cwd=folder,
        env=os.environ | variables | {"PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


async def sends(provider: Simulator, to: str) -> int:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{provider.control_url}/ledger", params={"to": to})
    return len(answer.json()["sends"])


async def test_a_restored_dump_sends_nothing_again_that_went_out_since(
    postgres: str, template: str, provider: Simulator, tmp_path: Path
) -> None:
    one, two, three = "+15555550100", "+15555550101", "+15555550102"
    async with migrated_database(postgres, template) as lost, a_gateway(lost, provider) as before:
        waiting = await before.send(one, "waiting")
        later = await before.send(two, "later", send_at=TOMORROW)
        await run("dump", tmp_path, SMS_GATEWAY_DATABASE_URL=lost)
        async with working(before.runtime):
            assert await before.ended(waiting) == ("delivered", None)
            since = await before.send(three, "since")
            assert await before.ended(since) == ("delivered", None)
        api_key = before.http.headers["Authorization"].removeprefix("Bearer ")
    told = {"RESTORED_URL": await create_database(postgres), "LOST_AT": datetime.now(UTC).isoformat()}
    await run("restore", tmp_path, **told)
    assert "queued | transactional |     2" in await run("look", tmp_path, **told)
    await run("hold back", tmp_path, **told)
    async with a_gateway(told["RESTORED_URL"], provider, api_key) as after:
        async with working(after.runtime):
            assert await after.ended(waiting) == ("failed", "expired")
            new = await after.send(one, "new")
            assert await after.ended(new) == ("delivered", None)
        assert await after.state(later) == ("queued", None)
        assert await after.state(since) == ("unknown", None)
        assert await after.send(one, "waiting") == waiting, "keys from before the backup are known"
    await drop_database(postgres, told["RESTORED_URL"])
    assert [await sends(provider, number) for number in (one, two, three)] == [2, 0, 1]


async def test_a_base_backup_with_the_wal_up_to_the_end_loses_nothing(provider: Simulator, tmp_path: Path) -> None:
    archive, data, restored = tmp_path / "wal", tmp_path / "data", tmp_path / "restored"
    archive.mkdir()
    keep = f"test ! -f {archive}/%f && cp %p {archive}/%f"
    server = EmbeddedPostgres(data, settings={"archive_mode": "on", "archive_timeout": "60", "archive_command": keep})
    async with server as dsn:
        await asyncio.to_thread(migrate, dsn)
        async with a_gateway(dsn, provider) as before:
            early = await before.send("+15555550100", "early")
            await run("base backup", tmp_path, BACKUP_URL=dsn, BACKUP=str(tmp_path))
            async with working(before.runtime):
                assert await before.ended(early) == ("delivered", None)
                api_key = before.http.headers["Authorization"].removeprefix("Bearer ")
            last = await before.send("+15555550101", "last")
    for segment in (data / "pg" / "pg_wal").iterdir():  # what the old server can still be read of
        if segment.is_file() and not (archive / segment.name).exists():
            shutil.copy2(segment, archive)
    restored.mkdir(mode=0o700)
    shutil.copytree(tmp_path / "base", restored / "pg")
    shutil.copy2(data / "pg-password", restored)
    (restored / "pg" / "recovery.signal").touch()
    again = {"restore_command": f"cp {archive}/%f %p", "recovery_target_timeline": "latest"}
    async with EmbeddedPostgres(restored, settings=again) as dsn, a_gateway(dsn, provider, api_key) as after:
        assert await after.state(early) == ("delivered", None), "it is known that this went out"
        assert await after.state(last) == ("queued", None), "the last 200 is kept"
        async with working(after.runtime):
            assert await after.ended(last) == ("delivered", None)
    assert [await sends(provider, number) for number in ("+15555550100", "+15555550101")] == [1, 1]
