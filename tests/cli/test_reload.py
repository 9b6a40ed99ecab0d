"""Another gateway.yaml in a running process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.cli.reload import Generations, at_sighup, generations
from service.config_file import ConfigFile
from service.errors import ConfigurationError, StoreOverloaded
from service.runtime import Runtime
from service.settings import GatewayConfig
from service.storage.audit import GATEWAY
from service.storage.upkeep import Upkeep
from tests.cli.running import Messages, eventually, free_ports, running
from tests.gateway import SECRET_KEY, make_key, migrated_database, open_gateway

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def _text(*senders: str, adapter: str = "smsroute", url: str = "http://127.0.0.1:9") -> str:
    named = ", ".join(f"{sender}: {{traffic: transactional}}" for sender in senders)
    return (
        f'providers: {{one: {{adapter: {adapter}, base_url: "{url}", api_key: sim-key, webhook_secret: {SECRET}}}}}\n'
        f"senders: {{{named}}}\nroutes: [{{providers: [one]}}]\n"
    )


def _config(*senders: str, **settings: Any) -> GatewayConfig:
    return ConfigFile.parse(_text(*senders, **settings), {}).config


class _Turns:
    """What the API was turned to."""

    def __init__(self) -> None:
        self.runtimes: list[Runtime] = []
        self.broken = False

    async def __call__(self, runtime: Runtime) -> None:
        if self.broken:
            raise StoreOverloaded("down")
        self.runtimes.append(runtime)


@pytest.fixture
async def base(postgres: str, template: str) -> AsyncIterator[Runtime]:
    async with migrated_database(postgres, template) as dsn, open_gateway(_text("MyApp"), dsn) as runtime:
        yield runtime


async def _workers(base: Runtime) -> list[UUID]:
    return [row["id"] for row in await base.database.fetch("SELECT id FROM workers WHERE expires_at > now()")]


async def test_a_new_worker_begins_before_the_old_one_ends(base: Runtime) -> None:
    turns = _Turns()
    living = Generations(base, work=True, turn=turns)
    await living.begin()
    [first] = await _workers(base)
    await living.follow(_config("MyApp", "Other"))
    async with asyncio.timeout(60):
        while first in (workers := await _workers(base)):  # noqa: ASYNC110 - a table tells nobody
            await asyncio.sleep(0.01)
    assert len(workers) == 1
    [turned] = turns.runtimes
    assert turned.config.senders.keys() == {"MyApp", "Other"}
    assert (turned.database, turned.metrics, turned.hints) == (base.database, base.metrics, base.hints)
    await living.end()
    assert await _workers(base) == []


async def test_what_cannot_be_opened_or_turned_to_changes_nothing(base: Runtime) -> None:
    turns = _Turns()
    living = Generations(base, work=True, turn=turns)
    await living.begin()
    [first] = await _workers(base)
    with pytest.raises(ConfigurationError, match="unknown `adapter`"):
        await living.follow(_config("MyApp", adapter="pigeon"))
    turns.broken = True
    with pytest.raises(StoreOverloaded):
        await living.follow(_config("MyApp", "Other"))
    assert first in await _workers(base)
    assert turns.runtimes == []
    await living.end()
    assert await _workers(base) == []


async def test_a_worker_that_breaks_ends_the_process(base: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(Upkeep):
        async def dead_workers(self) -> list[UUID]:
            raise ValueError("a bug")

    async def run() -> None:
        buggy = replace(base, upkeep=Buggy(base.database))
        async with generations(buggy, work=True, turn=_Turns(), reloads=None):
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError, match="a worker loop ended"):
        await asyncio.create_task(run())
    assert "a bug" in caplog.text


async def test_a_hurried_end_leaves_nothing_behind(base: Runtime) -> None:
    living = Generations(base, work=True, turn=_Turns())
    await living.begin()
    ending = asyncio.create_task(living.end())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert [task for task in asyncio.all_tasks() if "_live" in repr(task.get_coro())] == []


async def test_a_file_that_cannot_be_read_is_only_logged(base: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    answers: list[Exception | GatewayConfig] = [ConfigurationError("no file"), ValueError("a bug"), _config("Other")]
    turns = _Turns()

    def read() -> GatewayConfig:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with at_sighup(read) as reloads:
        async with generations(base, work=False, turn=turns, reloads=reloads):
            await _told_of_each(caplog, "'no file'", "a bug", "'msg': 'reloaded'")
    assert [runtime.config.senders.keys() for runtime in turns.runtimes] == [{"Other"}]


async def _told_of_each(caplog: pytest.LogCaptureFixture, *lines: str) -> None:
    for said in lines:
        signal.raise_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while not any(said in repr(vars(record)) for record in caplog.records):  # noqa: ASYNC110 - nor a log
                await asyncio.sleep(0.01)


async def test_a_signal_that_comes_before_the_first_generation_is_followed_after_it(base: Runtime) -> None:
    followed = asyncio.Event()

    async def turn(runtime: Runtime) -> None:
        assert runtime.config.senders.keys() == {"Other"}
        followed.set()

    with at_sighup(lambda: _config("Other")) as reloads:
        signal.raise_signal(signal.SIGHUP)
        async with generations(base, work=False, turn=turn, reloads=reloads), asyncio.timeout(60):
            await followed.wait()


@pytest.mark.parametrize("command", ["serve", "worker", "all"])
def test_a_signal_kills_no_process_that_still_starts(command: str, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(_text("MyApp"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        settings = {
            "SMS_GATEWAY_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing",
            "SMS_GATEWAY_SECRET_KEY": SECRET_KEY,
            "SMS_GATEWAY_PORT": free_ports(),
        }
        with running(command, folder=tmp_path, **settings) as process:
            waiting, _ = silent.accept()  # it asks its database, which says nothing
            process.process.send_signal(signal.SIGHUP)
            waiting.close()
            assert process.wait() == 1, "it ends because it has no database"


async def test_a_process_goes_on_under_its_new_file_and_loses_nothing(
    postgres: str, template: str, tmp_path: Path
) -> None:
    async with migrated_database(postgres, template) as dsn:
        async with open_gateway(_text("MyApp"), dsn) as runtime:
            key = await make_key(runtime, "send", "read")
        await asyncio.to_thread(_reload_a_process, tmp_path, dsn, key)


def _reload_a_process(tmp_path: Path, dsn: str, key: str) -> None:
    simulator, port = free_ports(), free_ports()
    settings = {
        "SMS_GATEWAY_DATABASE_URL": dsn,
        "SMS_GATEWAY_SECRET_KEY": SECRET_KEY,
        "SMS_GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
    }
    file, url = tmp_path / "gateway.yaml", f"http://127.0.0.1:{simulator}"
    file.write_text(_text("MyApp", url=url))
    provider = {"SMS_SIMULATOR_API_KEY": "sim-key", "SMS_SIMULATOR_WEBHOOK_SECRET": SECRET}
    with ExitStack() as stack:
        simulated = stack.enter_context(running("simulator", "--port", str(simulator), folder=tmp_path, **provider))
        simulated.printed_until("webhook secret")
        gateway = stack.enter_context(running("all", folder=tmp_path, SMS_GATEWAY_PORT=port, **settings))
        eventually(
            lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code, lambda it: it == 200, 40
        )
        messages = Messages(f"http://127.0.0.1:{port}", key)
        control = f"http://127.0.0.1:{simulator + 10}/faults"
        httpx.put(control, json={"fault": "none", "latency_s": 3}).raise_for_status()
        under_way = messages.send()
        eventually(lambda: messages.get(under_way)["attempts"], bool)

        def send(sender: str) -> int:
            body = {"to": "+15555550101", "from": sender, "message": "Hello"}
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.post(f"http://127.0.0.1:{port}/v1/send", headers=headers, json=body).status_code

        assert send("NewApp") == 422
        file.write_text(_text("MyApp", "NewApp", url=url))
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: send("NewApp"), lambda status: status == 200)
        file.write_text("providers: 1\n")
        gateway.process.send_signal(signal.SIGHUP)
        eventually(gateway.log, lambda log: "not reloaded" in log)
        assert send("NewApp") == 200
        ended = messages.ended(under_way)
        assert (ended["status"], [attempt["outcome"] for attempt in ended["attempts"]]) == ("delivered", ["accepted"])
        sends = httpx.get(f"{url}/ledger".replace(f":{simulator}", f":{simulator + 10}"), params={"to": "+15555550100"})
        assert len(sends.json()["sends"]) == 1
        last = messages.send()
        eventually(lambda: messages.get(last)["attempts"], bool)
        gateway.process.send_signal(signal.SIGTERM)

        def ended_with(code: int | None) -> bool:
            if code is None:
                gateway.process.send_signal(signal.SIGHUP)  # kills nothing that is being drained
            return code is not None

        eventually(gateway.process.poll, ended_with)
        assert gateway.wait() == 0


async def test_a_generation_that_never_began_leaves_the_metrics_to_the_present_one(base: Runtime) -> None:
    def shown(name: str) -> float | None:
        return base.metrics.registry.get_sample_value(f"sms_gateway_{name}", {"provider": "one"})

    turns = _Turns()
    living = Generations(base, work=True, turn=turns)
    await living.begin()
    await base.pauses.pause("one", "maintenance", GATEWAY)
    turns.broken = True
    with pytest.raises(StoreOverloaded):
        await living.follow(_config("MyApp", "Other"))
    async with asyncio.timeout(60):
        while shown("provider_paused") != 1 or shown("breaker_state") != 0:  # noqa: ASYNC110 - a gauge tells nobody
            await asyncio.sleep(0.01)
    await base.pauses.resume("one", GATEWAY)
    turns.broken = False
    await living.follow(_config("MyApp", "Other"))
    async with asyncio.timeout(60):
        while shown("provider_paused") != 0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    await living.end()
    assert (shown("provider_paused"), shown("breaker_state")) == (None, None)
