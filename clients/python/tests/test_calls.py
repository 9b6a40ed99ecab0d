"""Both clients against a real gateway with simulated providers."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from conftest import Connect
from sms_gateway_client import (
    AsyncSmsGateway,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotEnded,
    NotFound,
    SmsGateway,
    Unauthorized,
)

from tests.gateway import make_key
from tests.journeys.world import World

NUMBER = "+15555550100"
LATER = datetime.now(UTC) + timedelta(days=1)


async def test_a_message_is_sent_and_followed_to_its_end(sms: AsyncSmsGateway) -> None:
    sent = await sms.send(NUMBER, "Hello", sender="MyApp", reference="order-4711")
    assert (sent.to, sent.sender, sent.traffic, sent.segments) == (NUMBER, "MyApp", "transactional", 1)

    message = await sms.wait_until_ended(sent.message_id)

    assert (message.status, message.provider, message.reference) == ("delivered", "primary", "order-4711")
    assert [attempt.outcome for attempt in message.attempts] == ["accepted"]
    assert [receipt.status for receipt in message.receipts] == ["delivered"]
    assert message.ended
    assert message.ended_at is not None
    assert sent.created_at == message.created_at
    assert message.created_at.tzinfo is not None


async def test_every_option_of_a_send_arrives(sms: AsyncSmsGateway, world: World) -> None:
    sent = await sms.send(
        NUMBER,
        "Hello",
        sender="MyAppPromo",
        traffic="marketing",
        callback_url=f"{world.listener.url}/x",
        reference="r",
        send_at=LATER,
        validity_period=600,
        idempotency_key=uuid4().hex,
    )
    message = await sms.message(sent.message_id)
    assert message.send_at == LATER.replace(microsecond=LATER.microsecond // 1000 * 1000)
    assert message.expires_at - message.send_at == timedelta(seconds=600)
    assert (message.traffic, message.reference) == ("marketing", "r")


async def test_a_message_that_waits_is_cancelled_once_and_told_so_again(sms: AsyncSmsGateway) -> None:
    sent = await sms.send(NUMBER, "Hello", sender="MyApp", send_at=LATER)
    assert (await sms.cancel(sent.message_id)).status == "cancelled"
    assert (await sms.cancel(sent.message_id)).status == "cancelled"
    assert (await sms.wait_until_ended(sent.message_id)).status == "cancelled"


async def test_what_has_ended_cannot_be_cancelled(sms: AsyncSmsGateway) -> None:
    sent = await sms.send(NUMBER, "Hello", sender="MyApp")
    await sms.wait_until_ended(sent.message_id)
    with pytest.raises(Conflict) as refused:
        await sms.cancel(sent.message_id)
    assert refused.value.code == "not_cancellable"


async def test_a_message_that_does_not_end_in_time_is_shown_as_it_stands(sms: AsyncSmsGateway) -> None:
    sent = await sms.send(NUMBER, "Hello", sender="MyApp", send_at=LATER)
    with pytest.raises(NotEnded, match="still queued") as still:
        await sms.wait_until_ended(sent.message_id, timeout_s=5)
    assert still.value.message.message_id == sent.message_id


async def test_messages_are_listed_page_by_page_and_with_filters(sms: AsyncSmsGateway) -> None:
    reference = uuid4().hex
    sent = [
        (await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference, send_at=LATER)).message_id
        for _ in range(3)
    ]
    first = await sms.list(reference=reference, limit=2)
    assert [message.message_id for message in first.messages] == [sent[2], sent[1]]
    second = await sms.list(reference=reference, limit=2, cursor=first.next_cursor)
    assert [message.message_id for message in second.messages] == [sent[0]]
    assert second.next_cursor is None
    at, to = first.messages[0].created_at, first.messages[0].to
    narrowed = await sms.list(
        reference=reference, to=to, sender="MyApp", status="queued", created_after=at - timedelta(days=1)
    )
    assert len(narrowed.messages) == 3
    assert not (await sms.list(reference=reference, sender="MyAppOTP")).messages


async def test_every_page_is_walked_through(url: str, key: str) -> None:
    async with AsyncSmsGateway(url, key) as sms:
        reference = uuid4().hex
        for _ in range(3):
            await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference, send_at=LATER)
        walked = [message.message_id async for message in sms.list_all(reference=reference, limit=2)]
    assert len(set(walked)) == 3
    with SmsGateway(url, key) as blocking:
        again = await asyncio.to_thread(lambda: [*blocking.list_all(reference=reference, limit=2)])
    assert [message.message_id for message in again] == walked


async def test_a_number_is_looked_up_and_then_known(sms: AsyncSmsGateway) -> None:
    asked = await sms.hlr("+15555550101", max_age=0)
    assert (asked.status, asked.country, asked.cached) == ("active", "US", False)
    assert (await sms.hlr("+15555550101")).cached


async def test_a_preview_says_what_a_send_would_come_to(sms: AsyncSmsGateway) -> None:
    good = await sms.preview(NUMBER, "Grüße 🙂", sender="MyAppOTP", reference="r")
    assert (good.would_be_accepted, good.message.encoding, good.sender.traffic) == (True, "ucs-2", "otp")
    assert good.route is not None
    assert [provider.provider for provider in good.route.providers] == ["primary", "fallback"]
    bad = await sms.preview("555-555-0100", "Hello", sender="Nobody")
    assert not bad.would_be_accepted
    assert {error.field for error in bad.errors} == {"to", "from"}
    assert bad.route is None


async def test_a_refusal_says_what_to_do(sms: AsyncSmsGateway) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await sms.send("555-555-0100", "Hello", sender="MyApp")
    error = refused.value
    assert (error.status, error.code) == (422, "number_missing_plus")
    assert [(each.field, each.code) for each in error.errors] == [("to", "number_missing_plus")]
    assert error.request_id is not None
    assert error.request_id in str(error)
    assert "E.164" in str(error)
    assert "555-0100" not in str(error)
    assert not error.may_be_stored


async def test_an_id_is_one_part_of_a_path_whatever_it_holds(sms: AsyncSmsGateway) -> None:
    for odd in ("msg_unknown", "../routes", "a/b?c#d"):
        with pytest.raises(NotFound):
            await sms.message(odd)


async def test_who_may_not_is_told_so(connect: Connect, world: World) -> None:
    with pytest.raises(Unauthorized):
        await connect(key="sk_wrong").message("msg_x")
    reader = connect(key=await make_key(world.runtime, "read"))
    with pytest.raises(Forbidden) as refused:
        await reader.send(NUMBER, "Hello", sender="MyApp")
    assert refused.value.code == "scope_missing"


async def test_what_cannot_be_sent_is_said_at_once(sms: AsyncSmsGateway) -> None:
    naive = datetime(2026, 1, 31, 9, 30)  # noqa: DTZ001 - the mistake that is told of
    with pytest.raises(ValueError, match="send_at needs a time zone"):
        await sms.send(NUMBER, "Hello", sender="MyApp", send_at=naive)
    for bad_key in ("", "with space", "x" * 256, "ключ"):
        with pytest.raises(ValueError, match="visible ASCII"):
            await sms.send(NUMBER, "Hello", sender="MyApp", idempotency_key=bad_key)


def test_both_clients_have_the_same_methods() -> None:
    def surface(client: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {name: [*inspect.signature(method).parameters] for name, method in methods if name[0] != "_"}

    blocking, asynchronous = surface(SmsGateway), surface(AsyncSmsGateway)
    blocking["aclose"] = blocking.pop("close")
    assert blocking == asynchronous
    assert [*inspect.signature(SmsGateway).parameters] == [*inspect.signature(AsyncSmsGateway).parameters]
