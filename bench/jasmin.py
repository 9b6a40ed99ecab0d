"""Jasmin as a peer: jasmind, RabbitMQ and Redis as they come. Its queue does not survive a restart of RabbitMQ.

`BENCH_JASMIN` names the folder of `jasmind.py`, where `PATH` does not.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from bench.gateway import free_port
from bench.load import Plan

# Debian's rabbitmq-server in PATH wraps the one in this folder: it changes the user, who may not enter our folder.
_FOLDERS = (os.environ.get("BENCH_JASMIN"), "/usr/lib/rabbitmq/bin", os.environ.get("PATH"))
_PATH = os.pathsep.join(folder for folder in _FOLDERS if folder)
_PROGRAMS = {
    name: shutil.which(name, path=_PATH) or "" for name in ("epmd", "rabbitmq-server", "redis-server", "jasmind.py")
}
INSTALLED = all(_PROGRAMS.values())

_LISTENERS = ("http-api", "router", "client-management", "smpp-server", "smpp-server-pb", "jcli")
_JCLI = (
    "group -a", "gid bench", "ok",
    "user -a", "uid bench", "gid bench", "username bench", "password bench", "ok",
    "smppccm -a", "cid smsc", "ok",  # never started: what is accepted stays in its queue
    "mtrouter -a", "type DefaultRoute", "connector smppc(smsc)", "rate 0", "ok",
)  # fmt: skip
_SEND = (
    "/send?username=bench&password=bench&from=MyApp&to=%2B15555550100"
    "&content=Your+parcel+{n}+arrives+today+between+9+and+11."
)


@asynccontextmanager
async def jasmin(folder: Path) -> AsyncIterator[str]:
    """The URL of a running Jasmin that has accepted a message."""
    home = folder / "jasmin"
    (home / "store").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        amqp = await stack.enter_async_context(_rabbitmq(home))
        redis, ports = free_port(), {name: free_port() for name in _LISTENERS}
        arguments = ["--bind", "127.0.0.1", "--port", str(redis)]
        await stack.enter_async_context(_running(home, "redis-server", arguments, redis))
        config = home / "jasmin.cfg"
        config.write_text(
            "".join(f"[{name}]\nbind = 127.0.0.1\nport = {port}\n" for name, port in ports.items())
            + "authentication = False\n"  # of jcli
            + f"[redis-client]\nport = {redis}\n[amqp-broker]\nport = {amqp}\nspec = {await _amqp_spec()}\n"
        )
        paths = {"LOG_PATH": str(home / "log"), "STORE_PATH": str(home / "store")}
        jasmind = _running(home, "jasmind.py", ["--config", str(config)], ports["jcli"], **paths)
        await stack.enter_async_context(jasmind)
        await _set_up(ports["jcli"])
        url = f"http://127.0.0.1:{ports['http-api']}"
        async with httpx.AsyncClient() as client:
            answer = await client.get(url + _SEND)
        if not answer.text.startswith('Success "'):
            raise SystemExit(f"jasmin: {answer.status_code} {answer.text}")
        yield url


def plan(url: str) -> Plan:
    """Sends to a Jasmin. What it does not accept is no 200."""
    return Plan(url + _SEND, {}, "", connections=32, seconds=1)


@asynccontextmanager
async def _rabbitmq(home: Path) -> AsyncIterator[int]:
    """A RabbitMQ's port. Its epmd is ours too: the one that it would start itself stays behind."""
    epmd, port = free_port(), free_port()
    environment = {
        "HOME": str(home),  # of the Erlang cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd),
        "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes Erlang, instead of a parent that may die without it
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
        "RABBITMQ_CONFIG_FILE": str(home / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "none"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_LOG_BASE": str(home),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
    }
    arguments = ["-noinput", "-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
    async with (
        _running(home, "epmd", [], epmd, **environment),
        _running(home, "rabbitmq-server", arguments, port, **environment),
    ):
        yield port


@asynccontextmanager
async def _running(home: Path, name: str, arguments: list[str], port: int, **environment: str) -> AsyncIterator[None]:
    """A program, from when it listens on its port."""
    log = home / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            _PROGRAMS[name], *arguments, cwd=home, env=os.environ | environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while not await _listens(port):
                if process.returncode is not None:
                    raise SystemExit(f"{name} ended: {log.read_text()[-2000:]}")
                await asyncio.sleep(0.05)
        yield
    finally:
        await _end(process)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it in peace: a killed jasmind leaves its lock in /tmp, and the next does not start."""
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(15):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _amqp_spec() -> Path:
    """The protocol's description. Jasmin's package has none, but that of its AMQP client does."""
    python = Path(_PROGRAMS["jasmind.py"]).with_name("python3")
    process = await asyncio.create_subprocess_exec(
        python, "-c", "import txamqp; print(txamqp.__path__[0])", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return Path(output.decode().strip()) / "specs/standard/amqp0-9-1.stripped.xml"


async def _set_up(port: int) -> None:
    """Give it a user and a route, line by line at its console."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(30):
        for line in ("", *_JCLI):  # it prompts after the first
            writer.write(f"{line}\r\n".encode())
            said = b""
            while not said.endswith((b"jcli : ", b"\n> ")):
                said += await reader.readexactly(1)
    writer.close()
