from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from service.api.message_models import MessageSummary
from service.domain.ids import new_attempt_id, new_id, read
from service.domain.message import MessageStatus, Traffic, may_become
from service.runtime import Runtime
from service.storage.queue import Begin
from tests import rows
from tests.api.client import GatewayClient, body, problem
from tests.gateway import make_key


async def _sent(api: GatewayClient, **fields: object) -> str:
    return str((await api.send(body(**fields))).json()["message_id"])


def _internal(message_id: str) -> UUID:
    found = read("msg", message_id)
    assert found is not None
    return found


async def test_a_queued_message_is_cancelled_without_a_webhook(api: GatewayClient, runtime: Runtime) -> None:
    message_id = await _sent(api, callback_url="https://example.com/hook")
    response = await api.http.post(f"/v1/messages/{message_id}/cancel")
    assert response.status_code == 200, response.text
    cancelled = MessageSummary.model_validate_json(response.content)
    assert (cancelled.message_id, cancelled.status, cancelled.reason) == (message_id, "cancelled", None)
    assert cancelled.ended_at is not None
    stored = await rows.row(runtime.database, _internal(message_id))
    assert (stored["status"], stored["due_at"]) == ("cancelled", None)
    assert await rows.webhooks(runtime.database, _internal(message_id)) == []


async def test_a_second_cancel_changes_nothing(api: GatewayClient, runtime: Runtime) -> None:
    def ended() -> float:
        labels = {"status": "cancelled", "reason": ""}
        return runtime.metrics.registry.get_sample_value("sms_gateway_messages_ended_total", labels) or 0

    message_id, before = await _sent(api), ended()
    first = await api.http.post(f"/v1/messages/{message_id}/cancel")
    second = await api.http.post(f"/v1/messages/{message_id}/cancel")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert ended() == before + 1


async def test_a_scheduled_message_can_be_cancelled(api: GatewayClient) -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    message_id = await _sent(api, send_at=later)
    assert (await api.http.post(f"/v1/messages/{message_id}/cancel")).json()["status"] == "cancelled"


async def test_a_message_that_was_put_back_can_be_cancelled(api: GatewayClient, runtime: Runtime) -> None:
    message_id = await _sent(api)
    await runtime.database.execute(
        "UPDATE messages SET reason = 'provider_busy', due_at = now() + interval '1 hour' WHERE id = $1",
        _internal(message_id),
    )
    cancelled = (await api.http.post(f"/v1/messages/{message_id}/cancel")).json()
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", None)


@pytest.mark.parametrize("status", ["sending", "sent", "delivered", "undelivered", "failed"])
async def test_it_is_too_late_once_a_worker_has_it(api: GatewayClient, runtime: Runtime, status: str) -> None:
    assert not may_become(MessageStatus(status), MessageStatus.CANCELLED)
    message_id = await _sent(api)
    await runtime.database.execute("UPDATE messages SET status = $2 WHERE id = $1", _internal(message_id), status)
    refused = problem(await api.http.post(f"/v1/messages/{message_id}/cancel"), 409)
    assert refused.code == "not_cancellable"
    assert f"`{status}`" in refused.detail
    assert (await rows.row(runtime.database, _internal(message_id)))["status"] == status


@pytest.mark.parametrize("message_id", ["msg_" + "0" * 32, "bat_" + "0" * 32, "x"])
async def test_an_unknown_message_cannot_be_cancelled(api: GatewayClient, message_id: str) -> None:
    assert problem(await api.http.post(f"/v1/messages/{message_id}/cancel"), 404).code == "message_not_found"


async def test_nobody_cancels_the_message_of_another_client(api: GatewayClient, runtime: Runtime) -> None:
    message_id = await _sent(api)
    stranger = {"Authorization": f"Bearer {await make_key(runtime, 'send', client='stranger')}"}
    response = await api.http.post(f"/v1/messages/{message_id}/cancel", headers=stranger)
    assert problem(response, 404).code == "message_not_found"
    assert (await rows.row(runtime.database, _internal(message_id)))["status"] == "queued"


async def test_a_key_that_may_only_read_cannot_cancel(api: GatewayClient, runtime: Runtime) -> None:
    key = {"Authorization": f"Bearer {await make_key(runtime, 'read')}"}
    response = await api.http.post(f"/v1/messages/{await _sent(api)}/cancel", headers=key)
    assert problem(response, 403).code == "scope_missing"


async def test_a_cancel_and_a_claim_at_the_same_time_never_both_win(runtime: Runtime) -> None:
    worker_id = new_id()
    await runtime.queue.enlist(worker_id, rows.LEASE)
    cancelled = sent = 0
    for turn in range(40):
        client_id = await rows.a_client(runtime.database, f"racer-{turn % 3}")
        messages = [rows.a_message(client_id) for _ in range(10)]
        await asyncio.gather(*(runtime.messages.add(message, None) for message in messages))

        async def cancel(message_id: UUID, client_id: UUID = client_id) -> bool:
            row, done = await runtime.messages.cancel(message_id, client_id)
            assert row is not None
            assert (row["status"] == "cancelled") is done
            return bool(done)

        async def claim_and_begin() -> set[UUID]:
            claimed = await runtime.queue.claim(Traffic.TRANSACTIONAL, worker_id, {}, 100)
            begun = [
                (one.id, await runtime.queue.begin(Begin(new_attempt_id(one.id), one.id, "primary", worker_id)))
                for one in claimed
            ]
            return {message_id for message_id, written in begun if written is not None}

        cancels = [cancel(message.id) for message in messages]
        work = [claim_and_begin()] if turn % 2 else []
        late = [] if turn % 2 else [claim_and_begin()]
        answers = await asyncio.gather(*work, *cancels, *late)
        begun = next(answer for answer in answers if isinstance(answer, set))
        done = [answer for answer in answers if isinstance(answer, bool)]
        for message, was_cancelled in zip(messages, done, strict=True):
            attempts = await rows.attempts(runtime.database, message.id)
            stored = await rows.row(runtime.database, message.id)
            assert was_cancelled is (stored["status"] == "cancelled")
            assert was_cancelled is (attempts == []), "what is cancelled was never tried, all else goes on"
            assert (message.id in begun) is not was_cancelled or stored["status"] == "queued"
            cancelled, sent = cancelled + was_cancelled, sent + bool(attempts)
    assert cancelled, "the race was never won by a cancel"
    assert sent, "the race was never won by a claim"
