"""The one path that faces the internet: callbacks that were forged, replayed, or meant for something else."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from standardwebhooks.webhooks import Webhook

from service.domain import ids
from service.domain.keyring import Keyring
from service.runtime import Runtime
from tests.api.client import WEBHOOK_SECRET, body, problem
from tests.gateway import SECRET_KEY

ACCOUNTS = ("primary", "signing")
"""Only the callbacks of the second are signed."""


class Sent:
    """A message that a provider has accepted as `provider_id`."""

    def __init__(self, message_id: str, attempt_id: UUID, account: str, token: str, provider_id: str) -> None:
        self.message_id, self.attempt_id, self.account = message_id, attempt_id, account
        self.token, self.provider_id = token, provider_id

    @property
    def path(self) -> str:
        return f"/v1/receipts/{self.account}/{self.token}"

    def receipt(self, status: str = "delivered") -> bytes:
        return orjson.dumps({"message_id": self.provider_id, "status": status, "error_code": 0})


async def sent(runtime: Runtime, owner: httpx.AsyncClient, account: str) -> Sent:
    message_id: str = (await owner.post("/v1/send", json=body(callback_url="https://owner.example/"))).json()[
        "message_id"
    ]
    internal = ids.read("msg", message_id)
    assert internal is not None
    attempt_id = ids.new_attempt_id(internal)
    provider_id = f"provider-{attempt_id.hex[-8:]}"
    await runtime.database.execute(
        "INSERT INTO attempts (id, message_id, provider, outcome, provider_message_id)"
        " VALUES ($1, $2, $3, 'accepted', $4)",
        *(attempt_id, internal, account, provider_id),
    )
    await runtime.database.execute("UPDATE messages SET status = 'sent' WHERE id = $1", internal)
    return Sent(message_id, attempt_id, account, runtime.keyring.attempt_token(account, attempt_id), provider_id)


async def status(owner: httpx.AsyncClient, message: Sent) -> str:
    return str((await owner.get(f"/v1/messages/{message.message_id}")).json()["status"])


async def webhooks_of(runtime: Runtime, message: Sent) -> list[Any]:
    query = "SELECT status FROM webhook_deliveries WHERE message_id = $1"
    return [row["status"] for row in await runtime.database.fetch(query, ids.read("msg", message.message_id))]


def signed(content: bytes, secret: str = WEBHOOK_SECRET, age: timedelta = timedelta(0)) -> dict[str, str]:
    at = datetime.now(UTC) - age
    signature = Webhook(secret).sign("whd_1", at, content.decode())
    return {"webhook-id": "whd_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


async def test_a_token_that_was_changed_is_refused(runtime: Runtime, owner: httpx.AsyncClient) -> None:
    message = await sent(runtime, owner, "primary")
    token = message.token
    changed = [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(0, 33, 2)]
    forged = [*changed, token[:-1], token + "A", token.lower(), token[22:], token[:21], "", "."]
    for other in dict.fromkeys(forged):
        answer = await owner.post(f"/v1/receipts/primary/{other}", content=message.receipt())
        assert answer.status_code in {403, 404}, other
    assert await status(owner, message) == "sent"


@pytest.mark.parametrize("secret_key", ["x" * 40, SECRET_KEY + "x", SECRET_KEY[:-1]])
async def test_a_token_made_with_another_key_is_refused(
    runtime: Runtime, owner: httpx.AsyncClient, secret_key: str
) -> None:
    message = await sent(runtime, owner, "primary")
    for token in (
        Keyring(secret_key).attempt_token("primary", message.attempt_id),
        Keyring(secret_key).account_token("primary"),
        base64.urlsafe_b64encode(message.attempt_id.bytes + bytes(10)).decode().rstrip("="),
    ):
        answer = await owner.post(f"/v1/receipts/primary/{token}", content=message.receipt())
        assert problem(answer, 403).code == "forged_callback"
    assert await status(owner, message) == "sent"


@pytest.mark.parametrize("account", ACCOUNTS)
async def test_a_token_is_good_for_its_account_only(runtime: Runtime, owner: httpx.AsyncClient, account: str) -> None:
    message = await sent(runtime, owner, account)
    [other] = set(ACCOUNTS) - {account}
    for token in (message.token, runtime.keyring.account_token(account)):
        path = f"/v1/receipts/{other}/{token}"
        answer = await owner.post(path, content=message.receipt(), headers=signed(message.receipt()))
        assert problem(answer, 403).code == "forged_callback"
    assert await status(owner, message) == "sent"


async def test_a_token_moves_its_own_message_whatever_the_callback_names(
    runtime: Runtime, owner: httpx.AsyncClient
) -> None:
    mine, other = await sent(runtime, owner, "primary"), await sent(runtime, owner, "primary")
    assert (await owner.post(mine.path, content=other.receipt("undelivered"))).status_code == 204
    assert (await status(owner, mine), await status(owner, other)) == ("undelivered", "sent")


async def test_one_account_cannot_speak_of_the_messages_of_another(runtime: Runtime, owner: httpx.AsyncClient) -> None:
    message = await sent(runtime, owner, "signing")
    path = f"/v1/receipts/primary/{runtime.keyring.account_token('primary')}"
    assert (await owner.post(path, content=message.receipt())).status_code == 204
    assert await status(owner, message) == "sent"


async def test_a_callback_with_a_genuine_token_needs_its_signature_too(
    runtime: Runtime, owner: httpx.AsyncClient
) -> None:
    message = await sent(runtime, owner, "signing")
    content, others = message.receipt(), "whsec_" + base64.b64encode(b"another secret of somebody").decode()
    genuine = signed(content)
    for headers in (
        {},
        signed(content, others),
        signed(message.receipt("undelivered")),
        signed(content, age=timedelta(minutes=6)),
        signed(content, age=timedelta(minutes=-6)),
        genuine | {"webhook-id": "whd_2"},
        genuine | {"webhook-timestamp": str(int(genuine["webhook-timestamp"]) + 1)},
        genuine | {"webhook-signature": ""},
        genuine | {"webhook-signature": genuine["webhook-signature"][:-4]},
        genuine | {"webhook-signature": "v1a," + genuine["webhook-signature"][3:]},
    ):
        answer = await owner.post(message.path, content=content, headers=headers)
        assert problem(answer, 403).code == "forged_callback"
    assert await status(owner, message) == "sent"
    assert (await owner.post(message.path, content=content, headers=genuine)).status_code == 204
    assert await status(owner, message) == "delivered"


@pytest.mark.parametrize("account", ACCOUNTS)
async def test_a_replayed_callback_changes_nothing_and_tells_nobody_again(
    runtime: Runtime, owner: httpx.AsyncClient, account: str
) -> None:
    message = await sent(runtime, owner, account)
    content = message.receipt()
    headers = signed(content)
    for _ in range(3):
        assert (await owner.post(message.path, content=content, headers=headers)).status_code == 204
    shown = (await owner.get(f"/v1/messages/{message.message_id}")).json()
    assert (shown["status"], len(shown["receipts"])) == ("delivered", 1)
    assert await webhooks_of(runtime, message) == ["delivered"]


async def test_a_later_callback_does_not_take_a_delivery_back(runtime: Runtime, owner: httpx.AsyncClient) -> None:
    message = await sent(runtime, owner, "primary")
    for said in ("delivered", "undelivered", "failed"):
        assert (await owner.post(message.path, content=message.receipt(said))).status_code == 204
    assert await status(owner, message) == "delivered"
    assert await webhooks_of(runtime, message) == ["delivered"]


async def test_nothing_but_its_callbacks_can_be_done_with_a_token(runtime: Runtime, owner: httpx.AsyncClient) -> None:
    message = await sent(runtime, owner, "primary")
    async with httpx.AsyncClient(base_url=owner.base_url, timeout=60) as provider:
        for method in ("PUT", "PATCH", "DELETE"):
            assert problem(await provider.request(method, message.path), 405).code == "method_not_allowed"
        bearer = {"Authorization": f"Bearer {message.token}"}
        for path in (f"/v1/messages/{message.message_id}", "/v1/messages", "/v1/webhooks"):
            assert problem(await provider.get(path, headers=bearer), 401).code == "unauthorized"
