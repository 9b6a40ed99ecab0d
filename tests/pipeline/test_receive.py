"""Receipts: which callback is believed, and what it changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import UUID

import pytest

from service.domain.hlr import HlrStatus
from service.domain.ids import new_id
from service.domain.outcome import Unknown
from service.domain.receipt import Receipt, ReceiptStatus
from service.errors import ForgedReceipt, Problem, ReceiptError, UnreadableReceipt
from service.pipeline.receive import Receive
from service.providers.adapter import Callback, Capabilities
from service.storage.receipts import News
from tests import rows
from tests.pipeline.conftest import MakeWorld
from tests.pipeline.world import WITH_KEY, FakeAdapter, World, news

CALLBACK = Callback(b"{}", {}, {}, "https://sms.example/v1/receipts/primary/x")


class Speaking(FakeAdapter):
    """Finds in every callback what a test puts there."""

    def __init__(self, *found: Receipt, error: ReceiptError | None = None) -> None:
        super().__init__("primary", WITH_KEY)
        self._found = found
        self._error = error

    def receipts(self, callback: Callback, now_s: float) -> list[Receipt]:
        assert callback is CALLBACK
        assert abs(now_s - datetime.now(UTC).timestamp()) < 5
        if self._error is not None:
            raise self._error
        return list(self._found)


def receiving(world: World, *found: Receipt, error: ReceiptError | None = None) -> Receive:
    account = replace(world.runtime.providers["primary"], adapter=Speaking(*found, error=error))
    runtime = replace(world.runtime, providers=MappingProxyType({"primary": account}))
    return Receive(runtime, world.lookup)


async def sent(world: World) -> tuple[UUID, UUID]:
    """A message that the primary has, and its attempt."""
    message_id = await world.send()
    [attempt] = await rows.attempts(world.database, message_id)
    return message_id, attempt["id"]


def counted(world: World, result: str, status: str = "delivered") -> float | None:
    return world.runtime.metrics.registry.get_sample_value(
        "sms_gateway_receipts_total", {"provider": "primary", "status": status, "result": result}
    )


def refused(world: World, provider: str, reason: str) -> float | None:
    return world.runtime.metrics.registry.get_sample_value(
        "sms_gateway_callbacks_refused_total", {"provider": provider, "reason": reason}
    )


async def taken(receive: Receive, account: str, token: str, callback: Callback) -> int:
    """As the API does it."""
    return await receive.callback(account, receive.attempt_of(account, token), callback)


async def test_a_delivered_receipt_ends_its_message_and_writes_one_webhook(world: World) -> None:
    message_id, attempt_id = await sent(world)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    receive = receiving(world, Receipt(ReceiptStatus.DELIVERED, "p-1", 0, "DELIVRD", at))
    token = world.runtime.keyring.attempt_token("primary", attempt_id)
    world.runtime.hints.webhooks.clear()
    assert await taken(receive, "primary", token, CALLBACK) == 1
    message = await world.message(message_id)
    assert (message["status"], message["reason"], message["error_code"]) == ("delivered", None, 0)
    assert message["due_at"] is None
    [webhook] = await rows.webhooks(world.database, message_id)
    assert (webhook["status"], webhook["event_at"], webhook["error_code"]) == ("delivered", at, 0)
    assert world.runtime.hints.webhooks.is_set()
    assert counted(world, "applied") == 1
    assert await taken(receive, "primary", token, CALLBACK) == 1
    assert counted(world, "duplicate") == 1
    assert len(await rows.webhooks(world.database, message_id)) == 1


@pytest.mark.parametrize(("status", "times"), [("delivered", 1), ("undelivered", 0), ("sent", 0)])
async def test_the_time_to_the_phone_is_taken_once(world: World, status: str, times: int) -> None:
    _, attempt_id = await sent(world)
    receive = receiving(world)
    for _ in range(2):
        await receive.apply(news(attempt_id, status))
    sample = world.runtime.metrics.registry.get_sample_value
    provider = {"provider": "primary"}
    assert (sample("sms_gateway_delivery_seconds_count", provider) or 0) == times
    assert 0 <= (sample("sms_gateway_delivery_seconds_sum", provider) or 0) < 60


async def test_a_callback_may_hold_several_receipts(world: World) -> None:
    message_id, attempt_id = await sent(world)
    receive = receiving(world, Receipt(ReceiptStatus.SENT), Receipt(ReceiptStatus.UNDELIVERED, error_code=27))
    assert await taken(receive, "primary", world.runtime.keyring.attempt_token("primary", attempt_id), CALLBACK) == 2
    assert await world.where(message_id) == ("undelivered", "absent_subscriber")
    assert counted(world, "recorded", "sent") == 1


async def test_an_unknown_account_is_404(world: World) -> None:
    with pytest.raises(Problem) as problem:
        await taken(receiving(world), "nobody", "x", CALLBACK)
    assert (problem.value.status, problem.value.code) == (404, "unknown_account")
    assert refused(world, "", "unknown_account") == 1


@pytest.mark.parametrize("token", ["", "x", "AAAA", "not-base64!", "A" * 35])
async def test_a_token_that_is_not_ours_is_403(world: World, token: str) -> None:
    with pytest.raises(Problem) as problem:
        await taken(receiving(world, Receipt(ReceiptStatus.DELIVERED)), "primary", token, CALLBACK)
    assert (problem.value.status, problem.value.code) == (403, "forged_callback")
    assert refused(world, "primary", "forged") == 1


async def test_a_token_of_another_account_is_403(world: World) -> None:
    _, attempt_id = await sent(world)
    token = world.runtime.keyring.attempt_token("fallback", attempt_id)
    with pytest.raises(Problem) as problem:
        await taken(receiving(world, Receipt(ReceiptStatus.DELIVERED)), "primary", token, CALLBACK)
    assert problem.value.status == 403


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(ForgedReceipt("no signature"), 403, "forged"), (UnreadableReceipt("not JSON"), 422, "unreadable")],
)
async def test_a_callback_that_the_adapter_does_not_take_changes_nothing(
    world: World, error: ReceiptError, status: int, reason: str
) -> None:
    message_id, attempt_id = await sent(world)
    token = world.runtime.keyring.attempt_token("primary", attempt_id)
    with pytest.raises(Problem) as problem:
        await taken(receiving(world, error=error), "primary", token, CALLBACK)
    assert problem.value.status == status
    assert refused(world, "primary", reason) == 1
    assert (await world.message(message_id))["status"] == "sent"


async def test_an_accounts_token_matches_by_the_providers_id(make_world: MakeWorld) -> None:
    world = await make_world(Capabilities(callback_per_message=False))
    message_id, _ = await sent(world)
    receive = receiving(world, Receipt(ReceiptStatus.DELIVERED, "p1"))
    assert await taken(receive, "primary", world.runtime.keyring.account_token("primary"), CALLBACK) == 1
    assert (await world.message(message_id))["status"] == "delivered"


async def test_a_receipt_for_nobody_is_kept_and_matched_later(make_world: MakeWorld) -> None:
    world = await make_world(Capabilities(callback_per_message=False))
    orphan = News("primary", None, "p1", "delivered", None, None, None)
    await world.receive.apply(orphan)
    assert counted(world, "orphan") == 1
    await world.receive.match_orphans()
    assert await world.runtime.receipts.matched_orphans() == []
    message_id, _ = await sent(world)
    assert (await world.message(message_id))["status"] == "sent"
    await world.receive.match_orphans()
    assert (await world.message(message_id))["status"] == "delivered"
    assert await world.database.fetch("SELECT FROM orphan_receipts") == []


async def test_a_token_of_an_attempt_that_is_gone_changes_nothing(world: World) -> None:
    await world.receive.apply(news(new_id(), "delivered"))
    assert counted(world, "duplicate") == 1


async def test_unknown_subscriber_teaches_the_cache_that_the_number_is_dead(world: World) -> None:
    _, attempt_id = await sent(world)
    await world.receive.apply(news(attempt_id, "undelivered", 1))
    result = await world.lookup.cached("+15555550100")
    assert result is not None
    assert (result.status, result.error_code, result.source) == (HlrStatus.INVALID, 1, "receipt:primary")


@pytest.mark.parametrize(("status", "error_code"), [("undelivered", 27), ("failed", 1), ("delivered", 1)])
async def test_no_other_receipt_does(world: World, status: str, error_code: int) -> None:
    _, attempt_id = await sent(world)
    await world.receive.apply(news(attempt_id, status, error_code))
    assert await world.lookup.cached("+15555550100") is None


async def test_a_negative_receipt_in_the_pause_before_an_otps_repeat_ends_it_there(world: World) -> None:
    async def unknown_then_receipt() -> Unknown:
        [attempt] = await rows.attempts(world.database, message_id)
        await world.receive.apply(news(attempt["id"], "undelivered", 27))
        return Unknown("http_500")

    message_id = await world.accept("otp")
    world.http.script("primary", unknown_then_receipt)
    await world.step()
    assert await world.where(message_id) == ("undelivered", "absent_subscriber")
    assert world.http.called() == ["primary"]
