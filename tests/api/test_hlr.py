from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service.api.models import HlrReply
from service.app import create_app
from service.domain.pacing import Rate
from service.runtime import Runtime
from service.simulator.faults import NO_FAULT, Fault, FaultPlan
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from service.storage.clients import ClientChange
from tests.api.client import CONFIG, GatewayClient, problem
from tests.gateway import make_key, open_gateway, serve


@pytest.fixture(scope="module")
async def simulator(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        name="primary",
        host="127.0.0.1",
        port=0,
        api_key="key-of-primary",
        webhook_secret="whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
        data_dir=Path(tmp_path_factory.mktemp("simulator")),
    )
    async with Simulator(settings) as simulator:
        yield simulator


@pytest.fixture(scope="module")
async def asking(dsn: str, simulator: Simulator) -> AsyncIterator[GatewayClient]:
    """A gateway whose look-ups go to the simulator."""
    config = CONFIG.replace("http://127.0.0.1:9", simulator.base_url) + "hlr: {provider: primary}\n"
    async with open_gateway(config, dsn) as runtime, serve(create_app(runtime)) as url:
        headers = {"Authorization": f"Bearer {await make_key(runtime, 'hlr')}"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:
            yield GatewayClient(http)


@pytest.mark.parametrize("written", ["+15555550100", "%2B15555550100"])
async def test_a_number_is_looked_up_live_and_then_from_the_cache(asking: GatewayClient, written: str) -> None:
    live = await _look_up(asking, f"{written}?max_age=0")
    assert (live.number, live.status, live.country) == ("+15555550100", "active", "US")
    assert (live.mcc, live.source, live.cached, live.ported) == ("310", "primary", False, False)
    assert abs(datetime.now(UTC) - live.checked_at) < timedelta(minutes=1)
    cached = await _look_up(asking, f"{written}?max_age=3600")
    assert cached.cached
    assert cached.model_copy(update={"cached": False}) == live


async def test_an_old_answer_is_asked_for_anew(asking: GatewayClient) -> None:
    first = await _look_up(asking, "+15555550150")
    again = await _look_up(asking, "+15555550150?max_age=0")
    assert again.checked_at > first.checked_at


async def test_a_dead_number_is_invalid(asking: GatewayClient) -> None:
    dead = await _look_up(asking, "+15555550261")
    assert (dead.status, dead.error_code, dead.network, dead.ported) == ("invalid", 1, None, None)


async def test_without_an_answer_the_number_is_unknown(asking: GatewayClient, simulator: Simulator) -> None:
    simulator.faults.plan = FaultPlan(fault=Fault.HLR_DOWN)
    try:
        unknown = await _look_up(asking, "+447700900123")
    finally:
        simulator.faults.plan = NO_FAULT
    assert (unknown.status, unknown.country, unknown.cached) == ("unknown", "GB", False)


async def test_without_a_source_the_number_is_unknown(api: GatewayClient) -> None:
    unknown = await _look_up(api, "+4915112345678")
    assert (unknown.status, unknown.country, unknown.source, unknown.mcc) == ("unknown", "DE", None, None)


@pytest.mark.parametrize(
    ("number", "code"),
    [("15555550100", "number_missing_plus"), ("+1555", "number_too_short"), ("%00", "number_missing_plus")],
)
async def test_a_bad_number_is_refused(api: GatewayClient, number: str, code: str) -> None:
    refused = problem(await api.http.get(f"/v1/hlr/{number}"), 422)
    assert (refused.code, refused.errors[0].field) == (code, "number")


@pytest.mark.parametrize(
    ("max_age", "code"),
    [("-1", "out_of_range"), ("x", "wrong_type"), ("9" * 5000, "out_of_range"), ("99999999", "out_of_range")],
)
async def test_a_bad_max_age_is_refused(api: GatewayClient, max_age: str, code: str) -> None:
    refused = problem(await api.http.get(f"/v1/hlr/+15555550100?max_age={max_age}"), 422)
    assert (refused.code, refused.errors[0].field) == (code, "max_age")


@pytest.mark.parametrize(
    ("number", "code"), [("+447700900123", "country_forbidden"), ("+19005550100", "number_type_not_allowed")]
)
async def test_what_a_client_may_not_send_to_it_may_not_look_up_either(
    runtime: Runtime, base_url: str, number: str, code: str
) -> None:
    """Nor does the refusal take anything of its limit: there is one look-up, and it is there yet."""
    key = await make_key(runtime, "hlr", client=code)
    change = ClientChange(countries=["US"], limits={"hlr": Rate(0.01, 1)})
    await runtime.clients.set_client(code, change)
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        assert problem(await http.get(f"/v1/hlr/{number}"), 403).code == code
        assert (await http.get("/v1/hlr/+15555550100")).status_code == 200
        assert problem(await http.get("/v1/hlr/+15555550100"), 429).code == "rate_limited"


async def test_an_unknown_parameter_is_refused(api: GatewayClient) -> None:
    refused = problem(await api.http.get("/v1/hlr/+15555550100?maxage=0"), 422)
    assert (refused.code, refused.errors[0].field) == ("unknown_parameter", "maxage")


async def test_the_key_is_checked_before_the_query(api: GatewayClient) -> None:
    response = await api.http.get("/v1/hlr/+15555550100?max_age=x", headers={"Authorization": ""})
    assert problem(response, 401).code == "unauthorized"


async def _look_up(api: GatewayClient, path: str) -> HlrReply:
    response = await api.http.get(f"/v1/hlr/{path}")
    assert response.status_code == 200, response.text
    return HlrReply.model_validate_json(response.content)
