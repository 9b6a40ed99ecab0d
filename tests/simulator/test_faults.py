from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from service.simulator.faults import Fault, FaultPlan, Faults
from service.simulator.server import Simulator
from tests.listener import Listener
from tests.simulator.conftest import Client, settings_in

PROBE_S = 0.3


async def test_without_a_fault_the_control_port_says_so(client: Client) -> None:
    assert (await client.control.get("/faults")).json() == {
        "fault": "none",
        "rate": 1.0,
        "latency_s": 0.0,
        "jitter_s": 0.0,
    }


async def test_a_fault_is_shown_and_can_be_taken_back(client: Client) -> None:
    await client.fault("error", rate=1, latency_s=0)
    assert (await client.control.get("/faults")).json() == {
        "fault": "error",
        "rate": 1.0,
        "latency_s": 0.0,
        "jitter_s": 0.0,
    }
    assert (await client.send()).status_code == 500
    await client.fault("none")
    assert (await client.send()).status_code == 200


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"fault": "fire"},
        {"fault": "none", "speed": 1},
        {"fault": "hang", "rate": 1.1},
        {"fault": "hang", "rate": -0.1},
        {"fault": "hang", "rate": "1"},
        {"fault": "hang", "rate": True},
        {"fault": "none", "latency_s": -1},
        {"fault": "none", "latency_s": None},
        {"fault": "none", "jitter_s": -1},
        {"fault": "down", "rate": 0.5},
        ["none"],
    ],
)
async def test_control_input_is_strict(client: Client, plan: object) -> None:
    answer = await client.control.put("/faults", json=plan)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await client.control.get("/faults")).json()["fault"] == "none"


async def test_down_refuses_connections_and_cuts_the_open_ones(client: Client, simulator: Simulator) -> None:
    await client.send()
    await client.fault("down")
    reader, writer = await _try_to_connect(simulator.port)
    assert (reader, writer) == (None, None)
    with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)):
        await client.send()
    with pytest.raises(httpx.ConnectError):
        await client.send()
    await client.fault("down")
    assert (await client.control.get("/faults")).json()["fault"] == "down"
    assert len(await client.ledger()) == 1

    await client.fault("none")
    assert (await client.send()).status_code == 200


async def test_down_also_cuts_a_request_that_slips_through(client: Client, simulator: Simulator) -> None:
    simulator.faults.plan = FaultPlan(fault=Fault.DOWN)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await client.send()
    assert await client.ledger() == []


async def test_down_cuts_a_request_that_is_waiting_for_its_answer(client: Client) -> None:
    await client.fault("hang")
    hanging = asyncio.create_task(client.send())
    await asyncio.wait([hanging], timeout=PROBE_S)
    assert not hanging.done()
    await client.fault("down")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await asyncio.wait_for(hanging, 5)


async def test_hang_never_answers_and_does_not_accept(client: Client) -> None:
    await client.fault("hang")
    with pytest.raises(httpx.ReadTimeout):
        await client.api.get("/v1/hlr/+15555550100", timeout=PROBE_S)
    with pytest.raises(httpx.ReadTimeout):
        await client.api.post("/v1/send", json={"to": "+15555550100"}, timeout=PROBE_S)
    assert (await client.api.get("/healthz")).status_code == 200
    assert await client.ledger() == []


async def test_a_simulator_stops_while_requests_hang(tmp_path: Path) -> None:
    simulator = Simulator(settings_in(tmp_path))
    await simulator.start()
    client = Client(simulator)
    await client.fault("hang")
    hanging = asyncio.create_task(client.send())
    await asyncio.wait([hanging], timeout=PROBE_S)
    await asyncio.wait_for(simulator.stop(), 5)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await hanging
    await client.close()


async def test_throttle_is_429_with_a_time_to_wait_and_does_not_accept(client: Client) -> None:
    await client.fault("throttle")
    answer = await client.send()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert await client.ledger() == []


async def test_error_is_500_and_does_not_accept(client: Client) -> None:
    await client.fault("error")
    assert (await client.send()).status_code == 500
    assert await client.ledger() == []


async def test_drop_after_accept_cuts_the_answer_of_a_send_that_counts_once(client: Client) -> None:
    await client.fault("drop_after_accept")
    for _ in range(2):
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.send(key="k")
    (entry,) = await client.ledger()
    assert entry["idempotency_key"] == "k"

    await client.fault("none")
    answer = await client.send(key="k")
    assert answer.json()["message_id"] == entry["message_id"]
    assert answer.headers["Idempotency-Replayed"] == "true"


async def test_the_receipt_of_a_dropped_send_waits_until_a_repeat_is_answered(
    client: Client, listener: Listener
) -> None:
    await client.fault("drop_after_accept")
    for key in ("k", "k"):
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.send(key=key, callback_url=listener.url)
    await client.fault("none")
    await client.send(callback_url=listener.url, reference="another")
    (other,) = await listener.wait_for(1)
    assert other.json()["reference"] == "another"

    repeated = await client.send(key="k", callback_url=listener.url)
    receipts = await listener.wait_for(2)
    assert receipts[-1].json()["message_id"] == repeated.json()["message_id"]


async def test_garbage_is_a_200_that_cannot_be_parsed_of_a_send_that_counts(client: Client) -> None:
    await client.fault("garbage")
    answer = await client.send()
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        answer.json()
    assert len(await client.ledger()) == 1


async def test_duplicate_receipt_comes_twice_with_one_id(client: Client, listener: Listener) -> None:
    await client.fault("duplicate_receipt")
    await client.send(callback_url=listener.url)
    first, second = await listener.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


async def test_early_receipt_comes_before_the_answer(tmp_path: Path, listener: Listener) -> None:
    async with Simulator(settings_in(tmp_path, receipt_delay_s=30)) as simulator:
        client = Client(simulator)
        await client.fault("early_receipt")
        listener.delay = 0.2
        started = time.monotonic()
        answer = await client.send(callback_url=listener.url)
        assert time.monotonic() - started >= listener.delay
        assert [one.json()["message_id"] for one in listener.received] == [answer.json()["message_id"]]
        await client.close()


async def test_early_receipt_without_a_target_is_an_ordinary_send(client: Client) -> None:
    await client.fault("early_receipt")
    assert (await client.send()).status_code == 200


async def test_no_receipt_never_comes(client: Client, listener: Listener) -> None:
    await client.fault("no_receipt")
    await client.send(callback_url=listener.url)
    await client.fault("none")
    later = (await client.send(callback_url=listener.url)).json()["message_id"]
    assert [one.json()["message_id"] for one in await listener.wait_for(1)] == [later]


async def test_hlr_down_is_503_for_look_ups_only(client: Client) -> None:
    await client.fault("hlr_down")
    answer = await client.api.get("/v1/hlr/+15555550100")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (await client.send()).status_code == 200


async def test_latency_delays_answers_and_refusals_but_not_health(client: Client) -> None:
    await client.fault("none", latency_s=PROBE_S)
    for probe in (client.send(), client.send("+15555550250")):
        started = time.monotonic()
        await probe
        assert time.monotonic() - started >= PROBE_S
    await client.fault("none", latency_s=60)
    assert (await client.api.get("/healthz", timeout=10)).status_code == 200


def test_jitter_delays_each_answer_by_another_time_on_top_of_the_latency() -> None:
    faults = Faults()
    assert faults.delay_s() == 0.0
    faults.plan = FaultPlan(fault=Fault.NONE, latency_s=0.05, jitter_s=0.4)
    delays_s = [faults.delay_s() for _ in range(1000)]
    assert all(0.05 <= delay_s <= 0.45 for delay_s in delays_s)
    assert max(delays_s) - min(delays_s) > 0.2


async def test_an_answer_waits_for_its_jitter(client: Client) -> None:
    await client.fault("none", jitter_s=3600)
    with pytest.raises(httpx.ReadTimeout):
        await client.api.post("/v1/send", json={}, timeout=0.2)


async def test_a_rate_of_zero_hits_nothing(client: Client) -> None:
    await client.fault("error", rate=0)
    assert (await client.send()).status_code == 200


def test_a_rate_hits_its_share() -> None:
    faults = Faults()
    faults.plan = FaultPlan(fault=Fault.ERROR, rate=0.3)
    hits = sum(faults.hit(Fault.ERROR) for _ in range(10_000))
    assert 2_700 < hits < 3_300
    assert not any(faults.hit(Fault.HANG) for _ in range(100))


async def _try_to_connect(port: int) -> tuple[asyncio.StreamReader | None, asyncio.StreamWriter | None]:
    try:
        return await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return None, None
