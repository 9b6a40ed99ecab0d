from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import urlsplit

import orjson
import pytest
from standardwebhooks.webhooks import Webhook

from service.api.message_models import MessageReply
from service.domain import ids
from service.runtime import Runtime
from tests.api.client import WEBHOOK_SECRET, GatewayClient, body, problem

_DELIVERED = {"message_id": "id-1", "status": "delivered", "error_code": 0}


async def _sent(api: GatewayClient, runtime: Runtime, provider: str) -> tuple[str, str]:
    """A message that the provider has accepted: its id, and the path for its receipts."""
    message_id: str = (await api.send(body())).json()["message_id"]
    internal = ids.read("msg", message_id)
    assert internal is not None
    attempt_id = ids.new_attempt_id(internal)
    await runtime.database.execute(
        "INSERT INTO attempts (id, message_id, provider, outcome, provider_message_id)"
        " VALUES ($1, $2, $3, 'accepted', 'id-1')",
        attempt_id,
        internal,
        provider,
    )
    await runtime.database.execute("UPDATE messages SET status = 'sent' WHERE id = $1", internal)
    return message_id, f"/v1/receipts/{provider}/{runtime.keyring.attempt_token(provider, attempt_id)}"


async def test_a_receipt_moves_its_message_on(api: GatewayClient, runtime: Runtime) -> None:
    message_id, path = await _sent(api, runtime, "primary")
    response = await api.http.post(f"{path}?a=1", json=_DELIVERED, headers={"Authorization": ""})
    assert (response.status_code, response.content) == (204, b"")
    message = MessageReply.model_validate_json((await api.http.get(f"/v1/messages/{message_id}")).content)
    assert message.status == "delivered"
    assert [receipt.status for receipt in message.receipts] == ["delivered"]


async def test_a_receipt_may_come_by_get(api: GatewayClient, runtime: Runtime) -> None:
    """The adapter of `primary` reads the body, which a GET may have; that of Kannel reads the query."""
    message_id, path = await _sent(api, runtime, "primary")
    response = await api.http.request("GET", path, json=_DELIVERED, headers={"Authorization": ""})
    assert (response.status_code, response.content) == (204, b"")
    message = MessageReply.model_validate_json((await api.http.get(f"/v1/messages/{message_id}")).content)
    assert message.status == "delivered"


async def test_a_get_without_a_receipt_in_it_changes_nothing(api: GatewayClient, runtime: Runtime) -> None:
    _, path = await _sent(api, runtime, "primary")
    assert problem(await api.http.get(path), 422).code == "unreadable_callback"
    assert problem(await api.http.get("/v1/receipts/primary/nonsense"), 403).code == "forged_callback"


async def test_the_signature_of_the_provider_is_verified_besides(api: GatewayClient, runtime: Runtime) -> None:
    _, path = await _sent(api, runtime, "signing")
    assert problem(await api.http.post(path, json=_DELIVERED), 403).code == "forged_callback"
    content, now = orjson.dumps(_DELIVERED), datetime.now(UTC)
    signature = Webhook(WEBHOOK_SECRET).sign("whd_1", now, content.decode())
    headers = {"Webhook-Id": "whd_1", "Webhook-Timestamp": str(int(now.timestamp())), "Webhook-Signature": signature}
    assert (await api.http.post(path, content=content, headers=headers)).status_code == 204


@pytest.mark.parametrize("token", ["nonsense", "%00", "%C3%A9", "A" * 35, "*"])
async def test_a_token_that_we_did_not_make_is_refused(api: GatewayClient, token: str) -> None:
    assert problem(await api.http.post(f"/v1/receipts/primary/{token}", json=_DELIVERED), 403).code == "forged_callback"


async def test_the_token_of_another_account_is_refused(api: GatewayClient, runtime: Runtime) -> None:
    _, path = await _sent(api, runtime, "primary")
    other = path.replace("/primary/", "/signing/")
    assert problem(await api.http.post(other, json=_DELIVERED), 403).code == "forged_callback"


async def test_an_unknown_account_is_a_404(api: GatewayClient) -> None:
    assert problem(await api.http.post("/v1/receipts/nobody/x", json=_DELIVERED), 404).code == "unknown_account"


async def test_what_is_not_understood_is_a_422(api: GatewayClient, runtime: Runtime) -> None:
    _, path = await _sent(api, runtime, "primary")
    assert problem(await api.http.post(path, content=b"nonsense"), 422).code == "unreadable_callback"


async def test_a_large_body_is_refused(api: GatewayClient, runtime: Runtime) -> None:
    _, path = await _sent(api, runtime, "primary")
    assert problem(await api.http.post(path, content=b" " * 65_537), 413).code == "body_too_large"


async def test_the_path_of_callback_urls_is_the_one_that_is_served(runtime: Runtime, api: GatewayClient) -> None:
    """Behind a proxy that takes a part of the path away, the public URL keeps it."""
    assert urlsplit(runtime.settings.environment.base_url).path == "/base"
    path = f"/v1/receipts/primary/{runtime.keyring.account_token('primary')}"
    assert (await api.http.post(path, json=_DELIVERED)).status_code == 204


async def test_who_does_not_know_a_url_of_ours_is_turned_away_before_his_body_is_read(api: GatewayClient) -> None:
    reader, writer = await asyncio.open_connection(api.http.base_url.host, api.http.base_url.port)
    writer.write(b"POST /v1/receipts/primary/AAAA HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\n{")
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 403")
    writer.close()
    await writer.wait_closed()
