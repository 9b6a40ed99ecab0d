"""`/v1/webhooks`: every route, every refusal, and that clients do not see each other's."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import BaseModel
from standardwebhooks.webhooks import Webhook

from service.api import webhook_models as models
from service.app import create_app
from service.domain import ids
from service.domain.ids import new_id, show
from service.domain.keyring import Keyring
from service.runtime import Runtime
from service.storage.endpoints import MAX_ENDPOINTS, MAX_REPLAYED, EndpointChange
from service.storage.sql import queries
from tests.api.client import CONFIG, problem
from tests.gateway import make_key, open_gateway, serve
from tests.listener import Listener
from tests.rows import a_message

URL = "https://shop.example.com/receipts"
ROOT = "/v1/webhooks"
NOBODYS = f"whe_{'0' * 32}"


@pytest.fixture(scope="module")
async def runtime(dsn: str) -> AsyncIterator[Runtime]:
    """Loopback is allowed: the test event goes to a listener."""
    async with open_gateway(CONFIG + "webhooks: {allow_loopback: true, timeout_s: 5}\n", dsn) as runtime:
        yield runtime


async def keyed(runtime: Runtime, base_url: str, client: str) -> httpx.AsyncClient:
    key = await make_key(runtime, "admin", client=client)
    return httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
async def mine(runtime: Runtime, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """The admin of a client that has nothing yet."""
    async with await keyed(runtime, base_url, f"client {new_id()}") as http:
        yield http


@pytest.fixture
async def stranger(runtime: Runtime, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with await keyed(runtime, base_url, "stranger") as http:
        yield http


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as listener:
        yield listener


def answered(response: httpx.Response, status: int, model: type[BaseModel]) -> dict[str, Any]:
    """The answer, which must have this status and be as its model says."""
    assert response.status_code == status, response.text
    model.model_validate_json(response.content, strict=True)
    return dict(response.json())


async def register(http: httpx.AsyncClient, url: str = URL, **fields: Any) -> dict[str, Any]:
    return answered(await http.post(ROOT, json={"url": url, **fields}), 201, models.EndpointWithSecretReply)


async def a_delivery(
    runtime: Runtime,
    endpoint: dict[str, Any] | None,
    state: str = "dead",
    at: datetime | None = None,
    keep_message: bool = True,
    **changes: Any,
) -> UUID:
    """A row of the outbox for the endpoint, or for a callback_url of the client of `client_id`."""
    found = ids.read("whe", endpoint["endpoint_id"]) if endpoint else None
    row: dict[str, Any] = {
        "id": UUID(int=ids.smallest_at(at or datetime.now(UTC)).int + secrets.randbits(80)),
        "message_id": new_id(),
        "endpoint_id": found,
        "target": str(found) if found else "client https://origin.example",
        "status": "delivered",
        "state": state,
        "attempts": 10,
        "due_at": datetime.now(UTC) + timedelta(hours=1) if state == "pending" else None,
        "created_at": at or datetime.now(UTC),
        "event_at": at or datetime.now(UTC),
        "last_status": 500,
        "last_error": "http_500",
    }
    row |= changes
    if found is not None:
        row["client_id"] = (await in_store(runtime, "webhook_endpoints", found))["client_id"]
    if keep_message:
        await runtime.messages.add(a_message(row["client_id"], id=row["message_id"]), None)
    columns, places = ", ".join(row), ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await runtime.database.execute(f"INSERT INTO webhook_deliveries ({columns}) VALUES ({places})", *row.values())  # noqa: S608 - names of our own
    return UUID(str(row["id"]))


async def in_store(runtime: Runtime, table: str, row_id: UUID) -> dict[str, Any]:
    row = await runtime.database.fetchrow(f"SELECT * FROM {table} WHERE id = $1", row_id)  # noqa: S608 - names of our own
    assert row is not None
    return dict(row)


async def is_due(runtime: Runtime, delivery_id: UUID) -> bool:
    row = await runtime.database.fetchrow(
        "SELECT state = 'pending' AND attempts = 0 AND due_at <= now() AND ended_at IS NULL AS due"
        " FROM webhook_deliveries WHERE id = $1",
        delivery_id,
    )
    assert row is not None
    return bool(row["due"])


async def test_an_endpoint_shows_its_secret_once_and_is_stored_sealed(
    mine: httpx.AsyncClient, runtime: Runtime
) -> None:
    response = await mine.post(ROOT, json={"url": URL, "events": ["message.failed", "message.failed"]})
    made = answered(response, 201, models.EndpointWithSecretReply)
    assert response.headers["cache-control"] == "no-store"
    secret = made.pop("secret")
    assert (made["url"], made["events"], made["enabled"]) == (URL, ["message.failed"], True)

    one = await mine.get(f"{ROOT}/{made['endpoint_id']}")
    everything = await mine.get(ROOT)
    assert answered(one, 200, models.EndpointReply) == made
    assert answered(everything, 200, models.EndpointsReply) == {"webhooks": [made]}
    found = ids.read("whe", made["endpoint_id"])
    assert found is not None
    sealed = (await in_store(runtime, "webhook_endpoints", found))["secret"]
    assert secret.encode() not in sealed
    assert runtime.keyring.open(sealed) == secret


async def test_two_endpoints_have_two_secrets_and_are_listed_oldest_first(mine: httpx.AsyncClient) -> None:
    first, second = await register(mine), await register(mine, f"{URL}/2")
    assert first["secret"] != second["secret"]
    listed = (await mine.get(ROOT)).json()["webhooks"]
    assert [one["endpoint_id"] for one in listed] == [first["endpoint_id"], second["endpoint_id"]]


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({}, "url", "field_missing"),
        ({"url": "ftp://shop.example.com"}, "url", "url_refused"),
        ({"url": "http://169.254.169.254/"}, "url", "url_refused"),
        ({"url": "https://a.example/\x00"}, "url", "url_refused"),
        ({"url": "https://a.example/" + "a" * 2048}, "url", "too_long"),
        ({"url": None}, "url", "wrong_type"),
        ({"url": URL, "events": []}, "events", "no_events"),
        ({"url": URL, "events": ["message.sent"]}, "events.0", "wrong_type"),
        ({"url": URL, "events": "message.failed"}, "events", "wrong_type"),
        ({"url": URL, "secret": "whsec_mine"}, "secret", "unknown_field"),
    ],
)
async def test_a_bad_endpoint_is_refused(
    mine: httpx.AsyncClient, fields: dict[str, Any], field: str, code: str
) -> None:
    refused = problem(await mine.post(ROOT, json=fields), 422)
    assert [(error.field, error.code) for error in refused.errors] == [(field, code)]
    assert (await mine.get(ROOT)).json() == {"webhooks": []}


async def test_a_client_has_at_most_twenty_endpoints_however_many_ask_at_once(
    mine: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    asked = await asyncio.gather(*(mine.post(ROOT, json={"url": URL}) for _ in range(MAX_ENDPOINTS + 5)))
    refused = [response for response in asked if response.status_code != 201]
    assert [problem(response, 422).code for response in refused] == ["too_many_endpoints"] * 5
    await register(stranger)
    last = (await mine.get(ROOT)).json()["webhooks"][-1]
    assert (await mine.delete(f"{ROOT}/{last['endpoint_id']}")).status_code == 204
    await register(mine)


async def test_an_update_changes_only_what_it_names(mine: httpx.AsyncClient) -> None:
    made = await register(mine, events=["message.failed"])
    path = f"{ROOT}/{made['endpoint_id']}"

    async def changed(**fields: Any) -> dict[str, Any]:
        return answered(await mine.patch(path, json=fields), 200, models.EndpointReply)

    assert await changed() == {name: made[name] for name in made if name != "secret"}
    moved = await changed(url=f"{URL}/new")
    assert (moved["url"], moved["events"]) == (f"{URL}/new", ["message.failed"])
    narrowed = await changed(events=["message.delivered", "message.failed"])
    assert (narrowed["url"], narrowed["events"]) == (f"{URL}/new", ["message.delivered", "message.failed"])
    assert (await changed(events=None))["events"] is None
    bad: list[tuple[dict[str, Any], str]] = [
        ({"url": "gopher://x"}, "url_refused"),
        ({"enabled": "no"}, "wrong_type"),
        ({"x": 1}, "unknown_field"),
    ]
    for fields, code in bad:
        assert problem(await mine.patch(path, json=fields), 422).code == code


async def test_disabling_ends_what_waits_and_enabling_makes_the_endpoint_whole_again(
    mine: httpx.AsyncClient, runtime: Runtime
) -> None:
    made = await register(mine)
    path, found = f"{ROOT}/{made['endpoint_id']}", ids.read("whe", made["endpoint_id"])
    waiting = await a_delivery(runtime, made, "pending")
    disabled = (await mine.patch(path, json={"enabled": False})).json()
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "by its client")
    assert disabled["disabled_at"].endswith("Z")
    row = await in_store(runtime, "webhook_deliveries", waiting)
    assert (row["state"], row["due_at"], row["last_error"]) == ("dead", None, "endpoint_disabled")
    again = (await mine.patch(path, json={"enabled": False})).json()
    assert again["disabled_at"] == disabled["disabled_at"]

    await runtime.outbox.block(str(found), 3, 3600)
    enabled = (await mine.patch(path, json={"enabled": True})).json()
    assert (enabled["enabled"], enabled["disabled_at"], enabled["disabled_reason"]) == (True, None, None)
    target = await runtime.database.fetchrow(
        "SELECT blocked_until <= now() AS free, failures FROM webhook_targets WHERE target = $1", str(found)
    )
    assert target is not None
    assert (target["free"], target["failures"]) == (True, 3)


async def test_a_deleted_endpoint_is_gone_and_what_waited_for_it_has_ended(
    mine: httpx.AsyncClient, runtime: Runtime
) -> None:
    made = await register(mine)
    waiting = await a_delivery(runtime, made, "pending")
    response = await mine.delete(f"{ROOT}/{made['endpoint_id']}")
    assert (response.status_code, response.content) == (204, b"")
    row = await in_store(runtime, "webhook_deliveries", waiting)
    assert (row["state"], row["due_at"], row["last_error"]) == ("dead", None, "endpoint_deleted")
    assert problem(await mine.delete(f"{ROOT}/{made['endpoint_id']}"), 404).code == "endpoint_not_found"
    refused = await mine.post(f"{ROOT}/deliveries/{show('whd', waiting)}/replay")
    assert problem(refused, 409).code == "endpoint_deleted"


async def test_a_rotation_keeps_the_old_secret_for_a_day_unless_told_otherwise(
    mine: httpx.AsyncClient, runtime: Runtime
) -> None:
    made = await register(mine)
    path, found = f"{ROOT}/{made['endpoint_id']}/rotate", ids.read("whe", made["endpoint_id"])
    assert found is not None

    async def rotate(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        rotated = answered(await mine.post(path, json=fields), 200, models.EndpointWithSecretReply)
        return rotated, await in_store(runtime, "webhook_endpoints", found)

    rotated, row = await rotate({})
    assert runtime.keyring.open(row["secret"]) == rotated["secret"] != made["secret"]
    assert runtime.keyring.open(row["previous_secret"]) == made["secret"]
    left = datetime.fromisoformat(rotated["previous_secret_until"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)

    leaked, row = await rotate({"overlap_s": 0})
    assert leaked["previous_secret_until"] is None
    assert (row["previous_secret"], row["previous_secret_until"]) == (None, None)
    for overlap_s, code in [(-1, "out_of_range"), (604_801, "out_of_range"), (True, "wrong_type")]:
        assert problem(await mine.post(path, json={"overlap_s": overlap_s}), 422).code == code


async def test_deliveries_are_paged_newest_first_and_filtered_by_state(
    mine: httpx.AsyncClient, runtime: Runtime
) -> None:
    made = await register(mine)
    path = f"{ROOT}/{made['endpoint_id']}/deliveries"
    states = ["dead", "pending", "delivered", "dead", "delivered"]
    made_ids = [ids.smallest_at(datetime.now(UTC) + timedelta(seconds=n)) for n in range(len(states))]
    for delivery_id, state in zip(made_ids, states, strict=True):
        await a_delivery(runtime, made, state, id=delivery_id)
    newest_first = [show("whd", delivery_id) for delivery_id in reversed(made_ids)]

    seen: list[str] = []
    cursor: str | None = None
    for size in (2, 2, 1):
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = answered(await mine.get(path, params=params), 200, models.DeliveriesReply)
        assert len(page["deliveries"]) == size
        seen += [one["webhook_id"] for one in page["deliveries"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (newest_first, None)

    dead = answered(await mine.get(path, params={"state": "dead"}), 200, models.DeliveriesReply)
    assert [one["webhook_id"] for one in dead["deliveries"]] == [newest_first[1], newest_first[4]]
    first = dead["deliveries"][0]
    assert (first["type"], first["attempts"], first["http_status"], first["error"]) == (
        "message.delivered",
        10,
        500,
        "http_500",
    )
    waiting = (await mine.get(path, params={"state": "pending"})).json()["deliveries"]
    assert waiting[0]["next_attempt_at"] is not None


async def test_a_page_of_deliveries_begins_where_the_one_before_ended(runtime: Runtime) -> None:
    """In the index: under a plan that is kept for every page, too."""
    async with runtime.database.reading() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE page(uuid, text, uuid, bigint) AS {queries('webhooks')['deliveries']}")
        plan = await connection.fetch("EXPLAIN EXECUTE page(gen_random_uuid(), NULL, gen_random_uuid(), 51)")
        await connection.execute("DEALLOCATE page")
    conditions = [row[0] for row in plan if "Index Cond" in row[0]]
    assert conditions
    assert all("endpoint_id = $1" in each and "id < $3" in each for each in conditions), conditions


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"state": "lost"}, "wrong_type"),
        ({"limit": "0"}, "out_of_range"),
        ({"limit": "201"}, "out_of_range"),
        ({"limit": "few"}, "wrong_type"),
        ({"cursor": "x"}, "cursor_invalid"),
        ({"cursor": show("whd", new_id())}, "cursor_invalid"),
    ],
)
async def test_a_bad_query_of_deliveries_is_refused(mine: httpx.AsyncClient, query: dict[str, str], code: str) -> None:
    made = await register(mine)
    refused = await mine.get(f"{ROOT}/{made['endpoint_id']}/deliveries", params=query)
    assert problem(refused, 422).code == code


@pytest.mark.parametrize("state", ["dead", "delivered", "pending"])
async def test_one_webhook_is_replayed_whatever_became_of_it(
    mine: httpx.AsyncClient, runtime: Runtime, state: str
) -> None:
    made = await register(mine)
    delivery_id = await a_delivery(runtime, made, state)
    await runtime.outbox.block(made["endpoint_id"], 1, 3600)
    runtime.hints.webhooks.clear()
    response = await mine.post(f"{ROOT}/deliveries/{show('whd', delivery_id)}/replay")
    assert answered(response, 202, models.ReplayReply) == {"replayed": 1}
    assert await is_due(runtime, delivery_id)
    assert runtime.hints.webhooks.is_set()


async def test_a_webhook_that_is_on_its_way_is_left_to_its_worker(mine: httpx.AsyncClient, runtime: Runtime) -> None:
    made, worker_id = await register(mine), new_id()
    delivery_id = await a_delivery(runtime, made, "pending", due_at=None, worker_id=worker_id)
    assert (await mine.post(f"{ROOT}/deliveries/{show('whd', delivery_id)}/replay")).status_code == 202
    row = await in_store(runtime, "webhook_deliveries", delivery_id)
    assert (row["worker_id"], row["due_at"]) == (worker_id, None)


async def test_a_webhook_of_a_callback_url_is_replayed_too(
    mine: httpx.AsyncClient, stranger: httpx.AsyncClient, runtime: Runtime
) -> None:
    made = ids.read("whe", (await register(mine))["endpoint_id"])
    assert made is not None
    client_id = (await in_store(runtime, "webhook_endpoints", made))["client_id"]
    delivery_id = await a_delivery(runtime, None, client_id=client_id)
    path = f"{ROOT}/deliveries/{show('whd', delivery_id)}/replay"
    assert problem(await stranger.post(path), 404).code == "webhook_not_found"
    assert not await is_due(runtime, delivery_id)
    assert (await mine.post(path)).status_code == 202
    assert await is_due(runtime, delivery_id)


@pytest.mark.parametrize("webhook_id", ["whd_0", f"whd_{'0' * 32}", f"msg_{'0' * 32}"])
async def test_an_unknown_webhook_is_a_404(mine: httpx.AsyncClient, webhook_id: str) -> None:
    assert problem(await mine.post(f"{ROOT}/deliveries/{webhook_id}/replay"), 404).code == "webhook_not_found"


async def test_a_range_is_replayed_with_its_beginning_and_without_its_end(
    mine: httpx.AsyncClient, runtime: Runtime
) -> None:
    made = await register(mine)
    began = datetime(2026, 1, 31, 9, tzinfo=UTC)
    hours = [
        await a_delivery(runtime, made, state, began + timedelta(hours=hour))
        for hour, state in enumerate(["dead", "dead", "delivered", "pending", "dead"])
    ]
    span = {"from": "2026-01-31T10:00:00Z", "to": "2026-01-31T13:00:00Z"}
    path = f"{ROOT}/{made['endpoint_id']}/replay"
    assert answered(await mine.post(path, json=span), 202, models.ReplayReply) == {"replayed": 1}
    assert [await is_due(runtime, one) for one in hours] == [False, True, False, False, False]
    assert (await mine.post(path, json=span | {"state": "delivered"})).json() == {"replayed": 1}
    assert [await is_due(runtime, one) for one in hours] == [False, True, True, False, False]
    assert (await mine.post(path, json=span)).json() == {"replayed": 0}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"from": "2026-01-31T10:00:00Z", "to": "2026-01-31T10:00:00Z"}, "invalid_range"),
        ({"from": "2026-01-31T10:00:00Z"}, "field_missing"),
        ({"from": "yesterday", "to": "2026-01-31T10:00:00Z"}, "invalid_time"),
        ({"from": "2026-01-31T10:00:00Z", "to": "2026-01-31T11:00:00Z", "state": "pending"}, "wrong_type"),
        ({"from": "0001-01-01T00:00:00+14:00", "to": "2026-01-31T11:00:00Z"}, "unstorable"),
    ],
)
async def test_a_bad_range_is_refused(mine: httpx.AsyncClient, fields: dict[str, str], code: str) -> None:
    made = await register(mine)
    assert problem(await mine.post(f"{ROOT}/{made['endpoint_id']}/replay", json=fields), 422).code == code


async def test_a_range_that_is_too_large_replays_nothing(mine: httpx.AsyncClient, runtime: Runtime) -> None:
    made = await register(mine)
    await a_delivery(runtime, made)
    await runtime.database.execute(
        "INSERT INTO webhook_deliveries (id, client_id, message_id, endpoint_id, target, status, event_at, state)"
        " SELECT new_id(), client_id, message_id, endpoint_id, target, status, event_at, state"
        " FROM webhook_deliveries, generate_series(1, $2) WHERE endpoint_id = $1",
        ids.read("whe", made["endpoint_id"]),
        MAX_REPLAYED,
    )
    span = {"from": "2026-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}
    assert problem(await mine.post(f"{ROOT}/{made['endpoint_id']}/replay", json=span), 422).code == "range_too_large"
    dead = (await mine.get(f"{ROOT}/{made['endpoint_id']}/deliveries", params={"state": "pending"})).json()
    assert dead["deliveries"] == []


async def test_a_webhook_of_a_purged_message_is_not_replayed(mine: httpx.AsyncClient, runtime: Runtime) -> None:
    made = await register(mine)
    delivery_id = await a_delivery(runtime, made, keep_message=False)
    one = await mine.post(f"{ROOT}/deliveries/{show('whd', delivery_id)}/replay")
    assert problem(one, 409).code == "message_purged"
    span = {"from": "2026-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}
    answer = await mine.post(f"{ROOT}/{made['endpoint_id']}/replay", json=span)
    assert answered(answer, 202, models.ReplayReply) == {"replayed": 0}
    await runtime.endpoints.replay(delivery_id, made["endpoint_id"])
    assert (await in_store(runtime, "webhook_deliveries", delivery_id))["state"] == "dead"


async def test_nothing_is_replayed_to_a_disabled_endpoint(mine: httpx.AsyncClient, runtime: Runtime) -> None:
    made = await register(mine)
    delivery_id = await a_delivery(runtime, made)
    await mine.patch(f"{ROOT}/{made['endpoint_id']}", json={"enabled": False})
    span = {"from": "2026-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}
    one = await mine.post(f"{ROOT}/deliveries/{show('whd', delivery_id)}/replay")
    many = await mine.post(f"{ROOT}/{made['endpoint_id']}/replay", json=span)
    for refused in (one, many):
        assert problem(refused, 409).code == "endpoint_disabled"
    assert not await is_due(runtime, delivery_id)


async def test_a_test_event_is_signed_and_the_answer_is_told(mine: httpx.AsyncClient, listener: Listener) -> None:
    made = await register(mine, f"{listener.url}/hook")
    path = f"{ROOT}/{made['endpoint_id']}"
    told = answered(await mine.post(f"{path}/test"), 200, models.TrialReply)
    [received] = listener.received
    event = Webhook(made["secret"]).verify(received.body, dict(received.headers))
    assert (event["type"], event["endpoint_id"]) == ("webhook.test", made["endpoint_id"])
    assert told == {
        "webhook_id": received.headers["webhook-id"],
        "delivered": True,
        "http_status": 204,
        "error": None,
    }

    await mine.patch(path, json={"enabled": False})
    listener.reply_status = 500
    told = answered(await mine.post(f"{path}/test"), 200, models.TrialReply)
    assert (told["delivered"], told["http_status"], told["error"]) == (False, 500, "http_500")
    await listener.stop()
    told = answered(await mine.post(f"{path}/test"), 200, models.TrialReply)
    assert (told["delivered"], told["http_status"]) == (False, None)
    assert told["error"].startswith("NotSent")


async def test_a_test_event_says_when_the_secret_cannot_be_read(
    mine: httpx.AsyncClient, runtime: Runtime, listener: Listener
) -> None:
    made = await register(mine, listener.url)
    async with serve(create_app(replace(runtime, keyring=Keyring("another-secret-key-of-32-characters")))) as url:
        response = await mine.post(f"{url}/v1/webhooks/{made['endpoint_id']}/test")
    assert answered(response, 200, models.TrialReply)["error"] == "secret_unreadable"
    assert listener.received == []


_ROUTES = [
    ("GET", ""),
    ("PATCH", ""),
    ("DELETE", ""),
    ("POST", "/rotate"),
    ("GET", "/deliveries"),
    ("POST", "/replay"),
    ("POST", "/test"),
]


@pytest.mark.parametrize(("method", "rest"), _ROUTES)
async def test_the_endpoint_of_another_client_is_a_404_and_stays_as_it_is(
    mine: httpx.AsyncClient, stranger: httpx.AsyncClient, method: str, rest: str
) -> None:
    made = await register(mine)
    before = (await mine.get(f"{ROOT}/{made['endpoint_id']}")).json()
    body: dict[str, Any] | None = None if method in {"GET", "DELETE"} else {}
    for endpoint_id in (made["endpoint_id"], NOBODYS, "whe_0"):
        refused = await stranger.request(method, f"{ROOT}/{endpoint_id}{rest}", json=body)
        assert problem(refused, 404).code == "endpoint_not_found"
    assert (await mine.get(f"{ROOT}/{made['endpoint_id']}")).json() == before
    assert made["endpoint_id"] not in (await stranger.get(ROOT)).text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ROOT),
        ("GET", ROOT),
        *((method, f"{ROOT}/{NOBODYS}{rest}") for method, rest in _ROUTES),
        ("POST", f"{ROOT}/deliveries/whd_{'0' * 32}/replay"),
    ],
)
async def test_only_an_admin_key_may(runtime: Runtime, base_url: str, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {await make_key(runtime, 'send', 'read', 'hlr')}"}
    async with httpx.AsyncClient(base_url=base_url) as http:
        assert problem(await http.request(method, path, headers=headers), 403).code == "scope_missing"
        assert problem(await http.request(method, path), 401).code == "unauthorized"


@pytest.mark.parametrize(("method", "rest"), [("POST", None), ("PATCH", ""), ("POST", "/rotate"), ("POST", "/replay")])
async def test_a_body_must_be_json_within_the_limit(mine: httpx.AsyncClient, method: str, rest: str | None) -> None:
    path = ROOT if rest is None else f"{ROOT}/{(await register(mine))['endpoint_id']}{rest}"
    json_type = {"Content-Type": "application/json"}

    async def refused(status: int, content: bytes, headers: dict[str, str]) -> str:
        return problem(await mine.request(method, path, content=content, headers=headers), status).code

    assert await refused(400, b"{", json_type) == "not_json"
    assert await refused(415, b"{}", {"Content-Type": "text/plain"}) == "not_json_type"
    assert await refused(413, b" " * 30_001, json_type) == "body_too_large"
    assert await refused(422, b"[]", json_type) == "not_an_object"


async def test_an_endpoint_that_was_deleted_meanwhile_is_not_made_anew(runtime: Runtime) -> None:
    change = EndpointChange(URL, set_events=False, events=None, enabled=True)
    assert await runtime.endpoints.update(new_id(), new_id(), change) is None
    assert await runtime.endpoints.rotate(new_id(), new_id(), b"sealed", 0) is None
