"""`/v1/admin`: what operators may do, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.api.admin_models import AuditReply, ClientWithSecretReply, KeyList, KeyRotationReply, NewKeyReply
from service.runtime import Runtime
from tests.api.client import BRITISH, GatewayClient, body, problem
from tests.gateway import make_key


@pytest.fixture(scope="module")
async def admin(base_url: str, runtime: Runtime) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client."""
    key = await make_key(runtime, "operator", client="operations")
    async with httpx.AsyncClient(base_url=f"{base_url}/v1/admin", headers={"Authorization": f"Bearer {key}"}) as http:
        yield http


async def _acts(admin: httpx.AsyncClient, **query: Any) -> AuditReply:
    response = await admin.get("/audit", params=query)
    assert response.status_code == 200, response.text
    return AuditReply.model_validate_json(response.content)


async def _client(admin: httpx.AsyncClient, name: str) -> ClientWithSecretReply:
    response = await admin.post("/clients", json={"name": name})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    return ClientWithSecretReply.model_validate_json(response.content)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/clients"), ("POST", "/clients"), ("PATCH", "/clients/shop"), ("GET", "/keys"), ("POST", "/keys"),
        ("POST", "/keys/x/rotate"), ("DELETE", "/keys/x"), ("GET", "/providers"), ("POST", "/providers/primary/pause"),
        ("POST", "/providers/primary/resume"), ("GET", "/audit"),
    ],
)  # fmt: skip
async def test_an_admin_of_a_client_is_no_operator(
    admin: httpx.AsyncClient, runtime: Runtime, method: str, path: str
) -> None:
    key = await make_key(runtime, "send", "read", "hlr", "admin")
    refused = await admin.request(method, path, headers={"Authorization": f"Bearer {key}"})
    assert problem(refused, 403).code == "scope_missing"


async def test_an_operator_does_not_send(admin: httpx.AsyncClient, api: GatewayClient) -> None:
    refused = await api.http.post("/v1/send", json=body(), headers={"Authorization": admin.headers["authorization"]})
    assert problem(refused, 403).code == "scope_missing"


async def test_a_client_is_made_once_and_changed(admin: httpx.AsyncClient) -> None:
    made = await _client(admin, "made")
    assert made.webhook_secret.startswith("whsec_")
    assert problem(await admin.post("/clients", json={"name": "made"}), 409).code == "client_exists"
    limits = {"send": {"per_s": 5, "burst": 2}}
    changes = {"senders": ["MyApp"], "countries": ["US"], "special_rates": True, "limits": limits}
    changed = (await admin.patch("/clients/made", json=changes)).json()
    assert {name: changed[name] for name in changes} == changes
    again = (await admin.patch("/clients/made", json={"senders": [], "require_idempotency_key": True})).json()
    assert (again["senders"], again["countries"], again["require_idempotency_key"]) == (None, ["US"], True)
    assert again in (await admin.get("/clients")).json()["clients"]
    reset = (await admin.patch("/clients/made", json={"limits": {"send": None}})).json()
    assert reset["limits"] == {}, "those of gateway.yaml hold again"


@pytest.mark.parametrize(
    ("method", "path", "fields", "status", "code"),
    [
        ("POST", "/clients", {"name": " shop"}, 422, "invalid_name"),
        ("POST", "/clients", {"name": "a\nb"}, 422, "invalid_name"),
        ("POST", "/clients", {"name": "x" * 65}, 422, "too_long"),
        ("PATCH", "/clients/nobody", {}, 404, "client_not_found"),
        ("PATCH", "/clients/%00", {}, 404, "client_not_found"),
        ("PATCH", "/clients/shop", {"senders": ["a sender too long"]}, 422, "invalid_sender"),
        ("PATCH", "/clients/shop", {"countries": ["Germany"]}, 422, "invalid_country"),
        ("PATCH", "/clients/shop", {"limits": {"mms": {"per_s": 1, "burst": 1}}}, 422, "invalid_value"),
        ("PATCH", "/clients/shop", {"limits": {"send": {"per_s": 0, "burst": 1}}}, 422, "invalid_value"),
        ("POST", "/keys", {"client": "nobody", "scopes": ["send"]}, 422, "unknown_client"),
        ("POST", "/keys", {"client": "shop", "scopes": []}, 422, "invalid_value"),
        ("POST", "/keys", {"client": "shop", "scopes": ["root"]}, 422, "wrong_type"),
        ("POST", "/keys", {"client": "shop", "scopes": ["send"], "countries": ["de"]}, 422, "invalid_country"),
        ("POST", "/keys", {"client": "shop", "scopes": ["send"], "lasts_s": 10**18}, 422, "out_of_range"),
        ("POST", "/keys/nonsense/rotate", {}, 404, "key_not_found"),
        ("POST", "/keys/00000000-0000-7000-8000-000000000000/rotate", {}, 404, "key_not_found"),
        ("DELETE", "/keys/00000000-0000-7000-8000-000000000000", None, 404, "key_not_found"),
        ("DELETE", "/keys/%00", None, 404, "key_not_found"),
        ("POST", "/providers/nobody/pause", {"reason": "x"}, 404, "provider_not_found"),
        ("POST", "/providers/nobody/resume", None, 404, "provider_not_found"),
        ("POST", "/providers/primary/pause", {"reason": "a\x00b"}, 422, "invalid_characters"),
    ],
)
async def test_what_cannot_be_is_refused(
    admin: httpx.AsyncClient, api: GatewayClient, *, method: str, path: str, fields: Any, status: int, code: str
) -> None:
    assert (await api.send(body())).status_code == 200  # so that the client `shop` is there
    assert problem(await admin.request(method, path, json=fields), status).code == code


async def test_a_key_works_from_its_making_to_its_revocation(admin: httpx.AsyncClient, api: GatewayClient) -> None:
    await _client(admin, "keyed")
    terms = {"client": "keyed", "scopes": ["send"], "countries": ["US"], "lasts_s": 3600}
    response = await admin.post("/keys", json=terms)
    assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
    made = NewKeyReply.model_validate_json(response.content)

    async def send(key: str, **fields: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return (await api.http.post("/v1/send", json=body(**fields), headers=headers)).status_code

    assert (await send(made.key), await send(made.key, to=BRITISH)) == (200, 403)
    rotated = await admin.post(f"/keys/{made.key_id}/rotate", json={"overlap_s": 60})
    new = KeyRotationReply.model_validate_json(rotated.content)
    assert (await send(made.key), await send(new.key), await send(new.key, to=BRITISH)) == (200, 200, 403)
    listed = KeyList.model_validate_json((await admin.get("/keys")).content)
    old, successor = (key for key in listed.keys if key.client == "keyed")
    assert (old.key_id, old.hint, old.expires_at) == (made.key_id, made.key[:10], new.old_expires_at)
    assert (successor.key_id, successor.countries, successor.expires_at) == (new.key_id, ["US"], new.expires_at)
    assert (await admin.delete(f"/keys/{new.key_id}")).status_code == 204
    assert problem(await admin.delete(f"/keys/{new.key_id}"), 404).code == "key_not_found"
    assert made.key not in (await admin.get("/keys")).text


async def test_a_provider_is_paused_and_resumed(admin: httpx.AsyncClient) -> None:
    paused = (await admin.post("/providers/primary/pause", json={"reason": "maintenance"})).json()
    assert (paused["provider"], paused["under_way"], paused["paused"]["reason"]) == ("primary", 0, "maintenance")
    assert paused["paused"]["by"].startswith("key:")
    assert paused in (await admin.get("/providers")).json()["providers"]
    for _ in range(2):
        resumed = (await admin.post("/providers/primary/resume")).json()
        assert resumed == {"provider": "primary", "under_way": 0, "paused": None}


async def test_every_act_can_be_read_again_page_by_page(admin: httpx.AsyncClient, runtime: Runtime) -> None:
    made = await _client(admin, "audited")
    changed = await admin.patch("/clients/audited", json={"countries": ["DE"]})
    key = (await admin.post("/keys", json={"client": "audited", "scopes": ["send"]})).json()
    first = await _acts(admin, limit=2)
    second = await _acts(admin, limit=1, cursor=first.next_cursor)
    acts = [*first.acts, *second.acts]
    assert [act.action for act in acts] == ["key.create", "client.set", "client.create"]
    assert [act.object for act in acts] == [f"key:{key['key_id']}", "client:audited", "client:audited"]
    assert acts[1].details == {"countries": ["DE"]}
    assert acts[1].request_id == changed.headers["x-request-id"]
    own = {f"key:{row['id']}" for row in await runtime.clients.keys(UUID(int=0), 500) if row["client"] == "operations"}
    assert {act.who for act in acts} <= own
    log = (await admin.get("/audit", params={"limit": 500})).text
    assert key["key"] not in log
    assert made.webhook_secret not in log
    assert problem(await admin.get("/audit", params={"cursor": "x"}), 422).code == "cursor_invalid"


@pytest.mark.parametrize(("path", "id_"), [("clients", "name"), ("keys", "key_id")])
async def test_clients_and_keys_are_listed_page_by_page(admin: httpx.AsyncClient, path: str, id_: str) -> None:
    for number in range(2):
        await _client(admin, f"paged-{path}-{number}")
        await admin.post("/keys", json={"client": f"paged-{path}-{number}", "scopes": ["send"]})
    whole = (await admin.get(f"/{path}", params={"limit": 500})).json()
    assert whole["next_cursor"] is None
    listed: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await admin.get(f"/{path}", params={"limit": 2} | cursor)).json()
        assert 0 < len(page[path]) <= 2
        listed += [one[id_] for one in page[path]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert listed == [one[id_] for one in whole[path]]
    assert len(listed) >= 3
    for wrong, code in (({"cursor": "x"}, "cursor_invalid"), ({"limit": 501}, "out_of_range")):
        assert problem(await admin.get(f"/{path}", params=wrong), 422).code == code


async def test_what_an_admin_does_to_its_client_is_noted_too(
    admin: httpx.AsyncClient, api: GatewayClient, runtime: Runtime
) -> None:
    headers = {"Authorization": f"Bearer {await make_key(runtime, 'admin', client='careful')}"}

    async def call(method: str, path: str, **content: Any) -> Any:
        response = await api.http.request(method, f"/v1/{path}", headers=headers | content.pop("more", {}), **content)
        assert response.is_success, response.text
        return response.json() if response.content else None

    endpoint_id = (await call("POST", "webhooks", json={"url": "https://hooks.example/secret"}))["endpoint_id"]
    await call("PATCH", f"webhooks/{endpoint_id}", json={"enabled": False})
    await call("POST", f"webhooks/{endpoint_id}/rotate", json={"overlap_s": 0})
    await call("DELETE", f"webhooks/{endpoint_id}")
    await call("POST", "suppressions", json={"number": BRITISH})
    await call("DELETE", f"suppressions/{BRITISH}")
    await call("POST", "suppressions/import", content=b"number\n+15555550300\n", more={"Content-Type": "text/csv"})

    acts = list(reversed((await _acts(admin, limit=7)).acts))
    assert [act.action for act in acts] == [
        "webhook.create", "webhook.update", "webhook.rotate", "webhook.delete",
        "suppression.add", "suppression.remove", "suppression.import",
    ]  # fmt: skip
    assert {act.object for act in acts[:4]} == {f"webhook:{endpoint_id}"}
    assert acts[1].details == {"enabled": False}
    assert acts[5].details == {"number": "+4477******23"}
    assert len({act.who for act in acts}) == 1
    assert not any(secret in str(acts) for secret in (BRITISH, "hooks.example", "+15555550300"))
