"""What belongs to one client does not exist for another: every route of the OpenAPI document that names something."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.app import openapi_document
from service.domain import ids
from service.runtime import Runtime
from tests.api.client import NUMBER, body, bulk_body, problem
from tests.api.test_webhooks import a_delivery

DOCUMENT = openapi_document()
NOBODYS = {"number": "+15555550177"}
"""By the name of a parameter what names nothing; for all else it is an id of zeros."""
OF_NOBODY = {
    "/v1/hlr/{number}": "what the network says of a number belongs to nobody",
    "/v1/receipts/{account}/{token}": "providers call it, with tokens: see test_callbacks",
}

OPERATORS = "/v1/admin/"
"""What only operators may: a client's key, of whatever other scopes, is refused before anything is looked up."""

Operation = tuple[str, str]


def _operations(*, named: bool, for_operators: bool = False) -> list[Operation]:
    """Method and path of those for clients (or operators) that name something in their path, or do not."""
    return [
        (method, path)
        for path, operations in DOCUMENT["paths"].items()
        if path not in OF_NOBODY and path.startswith(OPERATORS) is for_operators
        for method, operation in operations.items()
        if bool(re.search(r"\{\w+\}", path)) is named and "security" in operation
    ]


def _body(method: str, path: str) -> Any:
    """The example of the document."""
    content = DOCUMENT["paths"][path][method].get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    schema = DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    return content.get("example", schema["examples"][0])


async def belongings(runtime: Runtime, owner: httpx.AsyncClient) -> dict[str, str]:
    """One new thing of each kind that a client has, by the name that its id has in paths."""
    for old in (await owner.get("/v1/webhooks")).json()["webhooks"]:  # a client may have a few only
        await owner.delete(f"/v1/webhooks/{old['endpoint_id']}")
    await owner.post("/v1/suppressions", json={"number": NUMBER})
    endpoint = (await owner.post("/v1/webhooks", json={"url": "https://owner.example/hook"})).json()
    message_id = (await owner.post("/v1/send", json=body(reference="order-7"), headers={"Idempotency-Key": "k"})).json()
    delivery_id = await a_delivery(runtime, endpoint)
    return {
        "message_id": message_id["message_id"],
        "batch_id": (await owner.post("/v1/send/bulk", json=bulk_body(NUMBER))).json()["batch_id"],
        "endpoint_id": endpoint["endpoint_id"],
        "webhook_id": ids.show("whd", delivery_id),
        "number": NUMBER,
    }


async def _call(http: httpx.AsyncClient, operation: Operation, names: Mapping[str, str]) -> httpx.Response:
    method, path = operation
    unknown = set(re.findall(r"\{(\w+)\}", path)) - names.keys()
    assert not unknown, (
        f"a new kind of thing: let `belongings` make one, or say in OF_NOBODY why it is nobody's: {path}"
    )
    return await http.request(method, path.format_map(names).replace("+", "%2B"), json=_body(method, path))


def _nobodys(names: Mapping[str, str]) -> dict[str, str]:
    return {name: NOBODYS.get(name) or re.sub(r"[0-9a-f]{32}$", "0" * 32, value) for name, value in names.items()}


async def _state(runtime: Runtime) -> list[Any]:
    """Everything that a stranger could have changed."""
    tables = ("messages", "batches", "webhook_endpoints", "webhook_deliveries", "suppressions", "idempotency_keys")
    client = await runtime.database.fetchrow("SELECT id FROM clients WHERE name = 'owner'")
    assert client is not None
    query = "SELECT row_to_json(t)::text AS row FROM {} AS t WHERE client_id = $1 ORDER BY 1"
    return [await runtime.database.fetch(query.format(table), client["id"]) for table in tables]


@pytest.mark.parametrize("operation", _operations(named=True), ids=" ".join)
async def test_for_a_stranger_there_is_no_such_thing(
    runtime: Runtime, owner: httpx.AsyncClient, stranger: httpx.AsyncClient, operation: Operation
) -> None:
    names = await belongings(runtime, owner)
    before = await _state(runtime)
    refused = problem(await _call(stranger, operation, names), 404)
    missing = problem(await _call(stranger, operation, _nobodys(names)), 404)
    assert refused.model_copy(update={"request_id": None}) == missing.model_copy(update={"request_id": None})
    assert await _state(runtime) == before
    assert (await _call(owner, operation, names)).status_code in {200, 202, 204, 409}


@pytest.mark.parametrize("path", [path for method, path in _operations(named=False) if method == "get"])
async def test_no_list_shows_what_another_client_has(
    runtime: Runtime, owner: httpx.AsyncClient, stranger: httpx.AsyncClient, path: str
) -> None:
    names = await belongings(runtime, owner)
    secrets = {**names, "reference": "order-7", "url": "owner.example", "client": "owner"}
    answer = await stranger.get(path)
    assert answer.status_code == 200
    assert [name for name, value in secrets.items() if value in answer.text] == []


@pytest.mark.parametrize("filters", [{"batch_id": True}, {"to": NUMBER}, {"reference": "order-7"}, {"from": "MyApp"}])
async def test_no_filter_finds_what_another_client_has(
    runtime: Runtime, owner: httpx.AsyncClient, stranger: httpx.AsyncClient, filters: dict[str, Any]
) -> None:
    names = await belongings(runtime, owner)
    params = {name: names[name] if value is True else value for name, value in filters.items()}
    assert (await owner.get("/v1/messages", params=params)).json()["messages"] != []
    assert (await stranger.get("/v1/messages", params=params)).json()["messages"] == []


@pytest.mark.parametrize("changed", [{}, {"message": "Another text"}])
async def test_the_idempotency_key_of_another_client_says_nothing(
    runtime: Runtime, owner: httpx.AsyncClient, stranger: httpx.AsyncClient, changed: dict[str, str]
) -> None:
    names = await belongings(runtime, owner)
    for path, fields in (("/v1/send", body(reference="order-7")), ("/v1/send/bulk", bulk_body(NUMBER))):
        headers = {"Idempotency-Key": f"key-{len(changed)}"}
        mine = await owner.post(path, json=fields, headers=headers)
        theirs = await stranger.post(path, json=fields | changed, headers=headers)
        assert (mine.status_code, theirs.status_code) == (200, 200)
        assert "idempotency-replayed" not in theirs.headers
        assert not set(re.findall(r"(?:msg|bat)_\w+", mine.text)) & set(re.findall(r"(?:msg|bat)_\w+", theirs.text))
    assert names["message_id"] not in theirs.text


async def test_the_cursor_of_another_client_leads_nowhere(
    runtime: Runtime, owner: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    for _ in range(2):
        names = await belongings(runtime, owner)
        await owner.post("/v1/suppressions", json={"number": "+447700900123"})
    await a_delivery(runtime, {"endpoint_id": names["endpoint_id"]})
    own = (await stranger.post("/v1/webhooks", json={"url": "https://stranger.example"})).json()["endpoint_id"]
    for path, theirs in (
        ("/v1/messages", "/v1/messages"),
        ("/v1/suppressions", "/v1/suppressions"),
        (f"/v1/webhooks/{names['endpoint_id']}/deliveries", f"/v1/webhooks/{own}/deliveries"),
    ):
        cursor = (await owner.get(path, params={"limit": 1})).json()["next_cursor"]
        assert (await owner.get(path, params={"limit": 1, "cursor": cursor})).status_code == 200
        refused = await stranger.get(theirs, params={"limit": 1, "cursor": cursor})
        assert problem(refused, 422).code == "cursor_invalid"


@pytest.mark.parametrize("operation", _operations(named=True) + _operations(named=False), ids=" ".join)
async def test_without_a_key_nothing_is_said_of_what_there_is(
    runtime: Runtime, owner: httpx.AsyncClient, base_url: str, operation: Operation
) -> None:
    names = await belongings(runtime, owner)
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as nobody:
        assert problem(await _call(nobody, operation, names), 401).code == "unauthorized"


@pytest.mark.parametrize(
    "operation",
    _operations(named=True, for_operators=True) + _operations(named=False, for_operators=True),
    ids=" ".join,
)
async def test_what_is_for_operators_is_for_no_client(
    runtime: Runtime, owner: httpx.AsyncClient, base_url: str, operation: Operation
) -> None:
    names = {"client": "owner", "key_id": "key_" + "0" * 32, "account": "primary"}
    before = await _state(runtime)
    assert problem(await _call(owner, operation, names), 403).code == "scope_missing"
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as nobody:
        assert problem(await _call(nobody, operation, names), 401).code == "unauthorized"
    assert await _state(runtime) == before


def test_ids_cannot_be_counted_through() -> None:
    """What a stranger would have to guess besides the millisecond: 74 random bits (RFC 9562)."""
    made = [ids.new_id() for _ in range(1_000)]
    random = {UUID(int=one.int & ~(0xFFFF_FFFF_FFFF << 80)) for one in made}
    assert len(random) == len(made)
