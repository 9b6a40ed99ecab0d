"""An old and a new version side by side, while the new one migrates the database of both."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

import service
from service.storage.schema import newest_version
from tests.chaos.processes import Command, free_port
from tests.chaos.stage import SECRET_KEY, Stage, a_stage
from tests.replicas.proof import assert_delivered_once, until
from tests.replicas.traffic import Traffic, traffic

NEXT: Final = f"{newest_version()}_next"
MIGRATION: Final = f"""
from alembic import op

revision = "{NEXT}"
down_revision = "{newest_version()}"


def upgrade():
    op.execute('ALTER TABLE messages ADD COLUMN colour text')
    op.execute('CREATE INDEX messages_colour ON messages (colour) WHERE colour IS NOT NULL')
"""


class Release:
    """The next version of the gateway: this one, in a folder of its own, with one migration more."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        ours = Path(service.__file__).parent
        shutil.copytree(ours, folder / "service")
        (folder / "service/storage/migrations/versions/next_version.py").write_text(MIGRATION)
        self._folder = folder
        self._stage = stage

    def command(self, old: Command, port: int) -> Command:
        """The same command as `old` of a stage, on the same port, of this version."""
        kind = "serve" if old.name.startswith("serve") else "worker"
        ready_url = f"http://127.0.0.1:{port}/readyz"
        environment = self._environment() | {"SMS_GATEWAY_PORT": str(port)}
        log = self._folder / f"{old.name}.log"
        return Command(f"new-{old.name}", (kind,), environment, ready_url, log, other_code=True)

    async def run(self, command: str, port: int = 0) -> tuple[int, str]:
        """The exit code of a command that ends by itself, and what it printed."""
        environment = self._environment() | ({"SMS_GATEWAY_PORT": str(port)} if port else {})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.cli", command),
            env=os.environ | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    def _environment(self) -> dict[str, str]:
        return {
            # Before the version in the working directory, which `-m` would take else.
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": str(self._folder),
            "SMS_GATEWAY_PUBLIC_URL": self._stage.door.url,
            "SMS_GATEWAY_DATABASE_URL": self._stage.dsn,
            "SMS_GATEWAY_CONFIG": str(self._stage.folder / "gateway.yaml"),
            "SMS_GATEWAY_SECRET_KEY": SECRET_KEY,
        }


@asynccontextmanager
async def up(*commands: Command) -> AsyncIterator[None]:
    """These run while the body does."""
    try:
        await asyncio.gather(*(command.start() for command in commands))
        yield
    finally:
        await asyncio.gather(*(command.kill() for command in commands))


async def ready(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as answer:
        return answer.status


async def twenty_more(seen: Traffic) -> None:
    """Wait for a second's worth of answers."""
    replies = len(seen.replies) + 20
    await until(lambda: len(seen.replies) >= replies)


async def test_a_new_version_replaces_the_old_one_without_a_failed_request(tmp_path: Path, cluster: Path) -> None:
    async with a_stage(tmp_path, cluster, serves=2, workers=2, started=False) as stage, AsyncExitStack() as newer:
        release = await asyncio.to_thread(Release, tmp_path / "new", stage)
        (old_serve, in_its_place), (old_worker, _) = stage.serves, stage.workers
        old_port, new_port = stage.port_of(old_serve), stage.port_of(in_its_place)
        stage.door.closed.add(new_port)  # until it is ready
        await asyncio.gather(*(command.start() for command in (*stage.providers, old_serve, old_worker)))
        async with traffic(stage) as seen:
            await twenty_more(seen)
            code, said = await release.run("serve", new_port)
            assert (code, "run `sms-gateway migrate`" in said) == (2, True), said

            for code, said in await asyncio.gather(*(release.run("migrate") for _ in range(3))):
                assert code == 0, said
            assert [row[0] for row in await stage.fetch("SELECT version_num FROM alembic_version")] == [NEXT]
            assert await ready(stage.url_of(old_serve)) == 200

            new_worker = release.command(old_worker, free_port({old_port, new_port}))
            await newer.enter_async_context(up(release.command(old_serve, new_port), new_worker))
            stage.door.closed.remove(new_port)
            await twenty_more(seen)
            stage.door.closed.add(old_port)
            await twenty_more(seen)  # so that no connection is on its way to the old one
            assert [await old_serve.terminate(), await old_worker.terminate()] == [0, 0]
            await twenty_more(seen)
        assert [reply for reply in seen.replies if reply.status != 200] == []
        await assert_delivered_once(stage, seen.reference, seen.message_ids)
