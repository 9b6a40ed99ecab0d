from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest

from service.app import create_app
from service.runtime import Runtime
from tests.api.client import BRITISH, CONFIG, NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import make_key, open_gateway, serve


@pytest.fixture(scope="module")
async def changed(api: GatewayClient, dsn: str) -> AsyncIterator[GatewayClient]:
    """The same client at a gateway on the same database that does not know the sender `MyApp` any more."""
    async with (
        open_gateway(CONFIG.replace("MyApp:", "Other:"), dsn) as runtime,
        serve(create_app(runtime)) as url,
        httpx.AsyncClient(base_url=url, headers=api.http.headers) as http,
    ):
        yield GatewayClient(http)


async def test_the_same_key_and_body_get_the_first_answer_again(api: GatewayClient) -> None:
    first = await api.send(body(reference="a"), "key-1")
    again = await api.send(body(reference="a"), "key-1")
    assert again.status_code == 200
    assert again.json() == first.json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_spacing_and_key_order_make_no_other_body(api: GatewayClient) -> None:
    fields = body()
    first = await api.send(fields, "key-2")
    turned = orjson.dumps(dict(reversed(fields.items())), option=orjson.OPT_INDENT_2)
    headers = {"Idempotency-Key": "key-2", "Content-Type": "application/json"}
    again = await api.http.post("/v1/send", content=turned, headers=headers)
    assert again.json() == first.json()


async def test_the_same_key_with_another_body_is_refused(api: GatewayClient) -> None:
    await api.send(body(), "key-3")
    assert problem(await api.send(body(to=BRITISH), "key-3"), 422).code == "idempotency_key_reused"
    assert problem(await api.send(body(to="nonsense"), "key-3"), 422).code == "idempotency_key_reused"


async def test_requests_with_one_key_at_the_same_time_make_one_message(api: GatewayClient) -> None:
    answers = await asyncio.gather(*(api.send(body(), "key-4") for _ in range(8)))
    assert len({answer.json()["message_id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7


async def test_a_refused_request_leaves_its_key_free(api: GatewayClient) -> None:
    problem(await api.send(body(to="nonsense"), "key-5"), 422)
    assert (await api.send(body(), "key-5")).status_code == 200


async def test_keys_of_two_clients_do_not_meet(api: GatewayClient, runtime: Runtime) -> None:
    first = await api.send(body(), "key-6")
    stranger = {
        "Authorization": f"Bearer {await make_key(runtime, 'send', client='other')}",
        "Idempotency-Key": "key-6",
    }
    other = await api.http.post("/v1/send", json=body(), headers=stranger)
    assert other.json()["message_id"] != first.json()["message_id"]


async def test_what_was_accepted_once_is_replayed_whatever_the_rules_are_now(
    api: GatewayClient, changed: GatewayClient
) -> None:
    first = await api.send(body(), "key-7")
    assert problem(await changed.send(body(), "key-8"), 422).code == "unknown_sender"
    again = await changed.send(body(), "key-7")
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"


async def test_a_bulk_is_replayed_with_its_results(api: GatewayClient, changed: GatewayClient) -> None:
    fields = bulk_body(NUMBER, "nonsense", BRITISH)
    first = await api.bulk(fields, "key-9")
    for gateway in (api, changed):
        again = await gateway.bulk(fields, "key-9")
        assert again.content == first.content
        assert again.headers["Idempotency-Replayed"] == "true"
    assert problem(await api.bulk(bulk_body(NUMBER), "key-9"), 422).code == "idempotency_key_reused"
    assert problem(await changed.bulk(fields, "key-10"), 422).code == "unknown_sender"


async def test_send_and_bulk_have_keys_of_their_own(api: GatewayClient) -> None:
    assert (await api.send(body(), "key-11")).status_code == 200
    assert (await api.bulk(bulk_body(NUMBER), "key-11")).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "kéy"])
async def test_a_key_is_visible_ascii(api: GatewayClient, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    response = await api.http.post("/v1/send", json=body(), headers=headers)  # type: ignore[arg-type]
    refused = problem(response, 422)
    assert (refused.code, refused.errors[0].field) == ("idempotency_key_invalid", "Idempotency-Key")


async def test_a_client_can_be_made_to_send_keys(api: GatewayClient, runtime: Runtime) -> None:
    headers = {"Authorization": f"Bearer {await make_key(runtime, 'send', client='careful')}"}
    await runtime.database.execute("UPDATE clients SET require_idempotency_key = true WHERE name = 'careful'")
    without = await api.http.post("/v1/send", json=body(), headers=headers)
    assert problem(without, 422).code == "idempotency_key_required"
    given = await api.http.post("/v1/send", json=body(), headers=headers | {"Idempotency-Key": "k"})
    assert given.status_code == 200
