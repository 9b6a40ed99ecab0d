from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from service.api.message_models import MessageReply
from service.domain import ids
from service.runtime import Runtime
from tests.api.client import GatewayClient, body, problem
from tests.gateway import make_key

_AT = datetime(2026, 1, 31, 9, 30, 0, 123_456, tzinfo=UTC)


async def _attempt(runtime: Runtime, message_id: UUID, provider: str, outcome: str | None, after_s: int) -> UUID:
    attempt_id = ids.new_attempt_id(message_id)
    await runtime.database.execute(
        "INSERT INTO attempts (id, message_id, provider, open, outcome, provider_message_id, started_at, ended_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        attempt_id,
        message_id,
        provider,
        outcome == "accepted",
        outcome,
        f"id-at-{provider}",
        _AT + timedelta(seconds=after_s),
    )
    return attempt_id


async def test_a_message_shows_its_attempts_and_receipts_in_time_order(api: GatewayClient, runtime: Runtime) -> None:
    message_id = (await api.send(body())).json()["message_id"]
    internal = ids.read("msg", message_id)
    assert internal is not None
    await _attempt(runtime, internal, "primary", "unavailable", 0)
    accepted = await _attempt(runtime, internal, "fallback", "accepted", 1)
    await _attempt(runtime, internal, "third", "throttled", 2)
    for second, status in enumerate(["sent", "delivered"]):
        await runtime.database.execute(
            "INSERT INTO receipts (attempt_id, status, error_code, provider_code, occurred_at, received_at)"
            " VALUES ($1, $2, 0, '000', $3, $3)",
            accepted,
            status,
            _AT + timedelta(seconds=second),
        )
    response = await api.http.get(f"/v1/messages/{message_id}")
    assert response.status_code == 200
    message = MessageReply.model_validate_json(response.content)
    assert [(a.provider, a.outcome, a.open) for a in message.attempts] == [
        ("primary", "unavailable", False),
        ("fallback", "accepted", True),
        ("third", "throttled", False),
    ]
    assert message.provider == "fallback"
    assert [(r.provider, r.status, r.provider_code) for r in message.receipts] == [
        ("fallback", "sent", "000"),
        ("fallback", "delivered", "000"),
    ]
    assert response.json()["receipts"][0]["occurred_at"] == "2026-01-31T09:30:00.123Z"
    assert "481902" not in response.text


async def test_without_an_acceptance_the_last_provider_is_named(api: GatewayClient, runtime: Runtime) -> None:
    message_id = (await api.send(body())).json()["message_id"]
    internal = ids.read("msg", message_id)
    assert internal is not None
    assert (await api.http.get(f"/v1/messages/{message_id}")).json()["provider"] is None
    await _attempt(runtime, internal, "primary", "unavailable", 0)
    await _attempt(runtime, internal, "fallback", None, 1)
    assert (await api.http.get(f"/v1/messages/{message_id}")).json()["provider"] == "fallback"


@pytest.mark.parametrize("message_id", ["msg_" + "0" * 32, "msg_0", "bat_" + "0" * 32, "%00", "+15555550100"])
async def test_an_unknown_message_is_a_404(api: GatewayClient, message_id: str) -> None:
    assert problem(await api.http.get(f"/v1/messages/{message_id}"), 404).code == "message_not_found"


async def test_the_message_of_another_client_is_a_404(api: GatewayClient, runtime: Runtime) -> None:
    message_id = (await api.send(body())).json()["message_id"]
    stranger = {"Authorization": f"Bearer {await make_key(runtime, 'admin', client='stranger')}"}
    response = await api.http.get(f"/v1/messages/{message_id}", headers=stranger)
    assert problem(response, 404).code == "message_not_found"
