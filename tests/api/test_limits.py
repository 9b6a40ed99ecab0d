"""429: what a caller hears, and what costs nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from service.app import create_app
from service.domain.pacing import Rate
from service.runtime import Runtime
from service.storage.clients import ClientChange
from tests.api.client import body
from tests.gateway import make_key, serve


@pytest.fixture
async def limited(runtime: Runtime) -> AsyncIterator[httpx.AsyncClient]:
    """A client that may send twice, to five recipients, and look up once."""
    key = await make_key(runtime, "send", "hlr", client="limited")
    limits = {"send": Rate(0.1, 2), "bulk": Rate(0.1, 5), "hlr": Rate(0.1, 1)}
    await runtime.clients.set_client("limited", ClientChange(limits=limits))
    await runtime.database.execute("DELETE FROM pacing")
    async with (
        serve(create_app(runtime)) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http,
    ):
        yield http


async def test_a_send_over_the_limit_is_429_with_the_time_to_wait(limited: httpx.AsyncClient) -> None:
    answers = [await limited.post("/v1/send", json=body()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused = answers[-1]
    assert refused.json()["code"] == "rate_limited"
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["ratelimit-policy"] == '"send";q=2;w=20'
    assert refused.headers["ratelimit"].startswith('"send";r=0;t=')


async def test_a_replay_costs_nothing_and_comes_back_even_over_the_limit(limited: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = await limited.post("/v1/send", json=body(), headers=key)
    for _ in range(3):
        again = await limited.post("/v1/send", json=body(), headers=key)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotency-replayed"] == "true"
    assert (await limited.post("/v1/send", json=body())).status_code == 200
    assert (await limited.post("/v1/send", json=body())).status_code == 429
    assert (await limited.post("/v1/send", json=body(), headers=key)).content == first.content


async def test_a_bulk_is_limited_in_recipients_and_one_that_never_fits_is_422(limited: httpx.AsyncClient) -> None:
    def bulk(count: int) -> dict[str, object]:
        numbers = [f"+155555501{number:02}" for number in range(count)]
        return {"from": "MyApp", "message": "Hello", "recipients": numbers}

    never = await limited.post("/v1/send/bulk", json=bulk(6))
    assert (never.status_code, never.json()["code"]) == (422, "too_many_for_limit")
    key = {"Idempotency-Key": "bulk"}
    first = await limited.post("/v1/send/bulk", json=bulk(3), headers=key)
    assert first.status_code == 200
    assert (await limited.post("/v1/send/bulk", json=bulk(3))).status_code == 429
    replayed = await limited.post("/v1/send/bulk", json=bulk(3), headers=key)
    assert (replayed.status_code, replayed.content) == (200, first.content)
    assert (await limited.post("/v1/send/bulk", json=bulk(2))).status_code == 200


async def test_look_ups_have_a_limit_of_their_own(limited: httpx.AsyncClient) -> None:
    assert (await limited.get("/v1/hlr/+15555550100")).status_code == 200
    refused = await limited.get("/v1/hlr/+15555550100")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert (await limited.post("/v1/send", json=body())).status_code == 200
