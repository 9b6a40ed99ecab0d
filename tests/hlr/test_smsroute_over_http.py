"""Look-ups against the simulator, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from service.domain.hlr import HlrResult, HlrStatus
from service.hlr.smsroute import SmsRouteHlr
from service.hlr.source import HlrAccount
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings


@pytest.fixture(scope="module")
async def simulator(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        name="primary",
        host="127.0.0.1",
        port=0,
        api_key="sk_test_1",
        webhook_secret="whsec_c29tZSBzaWduaW5nIGtleQ==",
        data_dir=tmp_path_factory.mktemp("simulator"),
    )
    async with Simulator(settings) as running:
        yield running


async def look_up(simulator: Simulator, number: str, api_key: str = "sk_test_1") -> HlrResult:
    source = SmsRouteHlr(HlrAccount("lookups", simulator.base_url, api_key))
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.send(source.lookup_request(number))
    return source.lookup_result(number, response, datetime.now(UTC))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("+447700900123", (HlrStatus.ACTIVE, False, False, 0)),
        ("+447700900270", (HlrStatus.ABSENT, False, False, 27)),
        ("+447700900260", (HlrStatus.INVALID, None, None, 1)),
        ("+447700900280", (HlrStatus.ACTIVE, True, False, 0)),
        ("+447700900290", (HlrStatus.ACTIVE, False, True, 0)),
    ],
)
async def test_a_look_up_is_understood(simulator: Simulator, number: str, expected: tuple[object, ...]) -> None:
    result = await look_up(simulator, number)
    assert (result.status, result.ported, result.roaming, result.error_code) == expected
    assert (result.mcc is None) == (result.status is HlrStatus.INVALID)


async def test_a_wrong_key_or_a_bad_number_says_nothing_of_the_number(simulator: Simulator) -> None:
    assert (await look_up(simulator, "+447700900260", api_key="sk_wrong")).status is HlrStatus.UNKNOWN
    assert (await look_up(simulator, "447700900260")).status is HlrStatus.UNKNOWN


async def test_a_source_that_is_down_says_nothing_of_the_number(simulator: Simulator) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        for fault, status in (("hlr_down", HlrStatus.UNKNOWN), ("none", HlrStatus.INVALID)):
            (await http.put(f"{simulator.control_url}/faults", json={"fault": fault})).raise_for_status()
            assert (await look_up(simulator, "+447700900260")).status is status
