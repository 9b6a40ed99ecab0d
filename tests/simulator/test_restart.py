from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.errors import ConfigurationError
from service.simulator.ledger import Ledger
from service.simulator.receipts import Receipts
from service.simulator.server import Simulator, serve
from tests.listener import Listener
from tests.simulator.conftest import SECRET, Client, a_send, settings_in


async def test_a_restart_forgets_no_send_and_no_key(tmp_path: Path) -> None:
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        first = await client.send(key="k")
        before = await client.ledger()
        await client.close()
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        assert await client.ledger() == before
        again = await client.send(key="k")
        assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
        assert await client.ledger() == before
        await client.close()


async def test_a_restart_sends_the_receipts_still_due(tmp_path: Path, listener: Listener) -> None:
    async with Simulator(settings_in(tmp_path, receipt_delay_s=0.5)) as simulator:
        client = Client(simulator)
        due = (await client.send(callback_url=listener.url)).json()["message_id"]
        await client.close()
    assert listener.received == []
    async with Simulator(settings_in(tmp_path)):
        assert [one.json()["message_id"] for one in await listener.wait_for(1)] == [due]


async def test_a_restart_sends_no_receipt_that_was_acknowledged(tmp_path: Path, listener: Listener) -> None:
    path = tmp_path / "primary.jsonl"
    ledger = Ledger.open(path)
    receipts = Receipts(ledger, SECRET)
    done, due = a_send("msg_1", listener.url), a_send("msg_2", listener.url)
    ledger.accept([done, due], None)
    await asyncio.gather(*receipts.begin([done]))
    await receipts.close()
    ledger.close()
    reopened = Ledger.open(path)
    assert reopened.sends == [done, due]
    assert reopened.pending == {"msg_2": due}
    reopened.close()


_CHILD = """
import asyncio, pathlib, sys
from service.simulator.server import Simulator
from tests.simulator.conftest import settings_in

async def run():
    async with Simulator(settings_in(pathlib.Path(sys.argv[1]))) as simulator:
        print(simulator.base_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(run())
"""


async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", _CHILD, tmp_path, stdout=subprocess.PIPE)
    assert child.stdout
    base_url = (await child.stdout.readline()).decode().strip()
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": "Bearer key"}) as http:
        body = {"recipients": ["+15555550100", "+15555550101"], "from": "MyApp", "message": "Hello"}
        answer = (await http.post("/v1/send/bulk", json=body)).json()
        child.kill()
    await child.wait()
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        kept = [entry["message_id"] for entry in await client.ledger()]
        assert kept == [result["message_id"] for result in answer["results"]]
        await client.close()


async def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "primary.jsonl"
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        await client.send(key="whole")
        await client.send(key="torn")
        await client.close()
    path.write_bytes(path.read_bytes()[:-20])
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        assert [entry["idempotency_key"] for entry in await client.ledger()] == ["whole"]
        assert "Idempotency-Replayed" not in (await client.send(key="torn")).headers
        await client.close()
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        assert [entry["idempotency_key"] for entry in await client.ledger()] == ["whole", "torn"]
        await client.close()


async def test_a_file_that_is_no_ledger_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "primary.jsonl"
    path.write_text("these are\nmy notes\n")
    with pytest.raises(ConfigurationError, match=r"primary\.jsonl, line 1,"):
        await Simulator(settings_in(tmp_path)).start()
    assert path.read_text() == "these are\nmy notes\n"


async def test_the_message_text_is_not_kept(tmp_path: Path) -> None:
    async with Simulator(settings_in(tmp_path)) as simulator:
        client = Client(simulator)
        await client.send(key="k", message="481902")
        await client.close()
    assert "481902" not in (tmp_path / "primary.jsonl").read_text()


async def test_control_is_on_the_port_plus_ten() -> None:
    simulator = Simulator(settings_in(Path(), port=18080))
    assert (simulator.base_url, simulator.control_url) == ("http://127.0.0.1:18080", "http://127.0.0.1:18090")


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(tmp_path: Path, simulator: Simulator) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await Simulator(settings_in(tmp_path / "api", port=simulator.port)).start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", port + 10)):
        with pytest.raises(OSError, match="address already in use"):
            await Simulator(settings_in(tmp_path / "control", port=port)).start()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_serve_runs_until_cancelled(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    task = asyncio.create_task(serve(settings_in(tmp_path, port=port)))
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=5)) as http:
        assert (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_secrets_stay_out_of_the_settings_repr(tmp_path: Path) -> None:
    shown = repr(settings_in(tmp_path, api_key="hush"))
    assert "hush" not in shown
    assert "whsec_" not in shown
