"""What fails on the way is tried again with the same key, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import asyncpg
import pytest
from conftest import Clock, Connect
from proxy import Answer, Fault, Proxy, problem
from sms_gateway_client import (
    AsyncSmsGateway,
    InvalidRequest,
    NoAnswer,
    RateLimited,
    Refused,
    SmsGatewayError,
    Unavailable,
    UnexpectedAnswer,
)

from service.domain.pacing import Rate
from service.storage.clients import ClientChange
from tests.gateway import make_key
from tests.journeys.world import World, free_port

NUMBER = "+15555550100"


@pytest.fixture
def sms(connect: Connect, proxy: Proxy) -> AsyncSmsGateway:
    return connect(proxy.url)


@pytest.fixture
async def limited(world: World) -> str:
    """The key of a client that may send once in ten seconds, and to two recipients of a bulk in twenty."""
    name = f"limited-{uuid4().hex[:8]}"
    key = await make_key(world.runtime, "send", "read", client=name)
    await world.runtime.clients.set_client(name, ClientChange(limits={"send": Rate(0.1, 1), "bulk": Rate(0.1, 2)}))
    return key


def _sent(**changed: object) -> bytes:
    """The answer to a send, with something else in it than there may be."""
    whole = {
        "message_id": "msg_1",
        "status": "queued",
        "to": NUMBER,
        "from": "MyApp",
        "traffic": "otp",
        "segments": 1,
        "encoding": "gsm-7",
        "reference": None,
        "created_at": "2026-01-31T09:30:00.123Z",
    }
    return json.dumps(whole | changed).encode()


async def stored(sms: AsyncSmsGateway, reference: str) -> int:
    return len((await sms.list(reference=reference)).messages)


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER_IT_PASSED, Fault.CUT_ANSWER])
async def test_a_connection_that_breaks_after_the_body_went_out_makes_one_message(
    sms: AsyncSmsGateway, proxy: Proxy, clock: Clock, fault: Fault
) -> None:
    reference = uuid4().hex
    proxy.script.extend([fault, fault])
    sent = await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference)
    assert [seen.path for seen in proxy.seen] == ["/v1/send"] * 3
    assert len(set(proxy.keys)) == 1
    assert proxy.keys[0]
    assert len(clock.pauses) == 2
    assert (await sms.message(sent.message_id)).reference == reference
    assert await stored(sms, reference) == 1


async def test_an_answer_that_does_not_come_is_asked_for_again(connect: Connect, proxy: Proxy) -> None:
    sms, reference = connect(proxy.url, timeout_s=1), uuid4().hex
    proxy.script.append(Fault.STALL_AFTER_IT_PASSED)
    await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference)
    assert len(proxy.keys) >= 2
    assert len(set(proxy.keys)) == 1
    assert await stored(sms, reference) == 1


async def test_a_commit_that_nobody_knows_of_is_repeated_with_the_same_key(
    sms: AsyncSmsGateway, proxy: Proxy, clock: Clock
) -> None:
    reference = uuid4().hex
    refusal = problem(503, "commit_unknown", Retry_After="1")
    proxy.script.append(Answer(refusal.status, refusal.body, refusal.headers, passed=True))
    await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference)
    assert len(set(proxy.keys)) == 1
    assert clock.pauses[0] >= 1
    assert await stored(sms, reference) == 1


async def test_a_store_that_hangs_for_a_while_makes_one_message(
    connect: Connect, world: World, proxy: Proxy, clock: Clock
) -> None:
    """The gateway's own 503: a lock holds every statement that stores, until the client pauses."""
    sms, reference = connect(proxy.url), uuid4().hex
    dsn = world.runtime.settings.environment.database_url
    locking = await asyncpg.connect(dsn)
    await locking.execute("BEGIN; LOCK TABLE idempotency_keys")
    clock.during = locking.close
    await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference)
    assert len(clock.pauses) >= 1
    assert len(set(proxy.keys)) == 1
    assert await stored(sms, reference) == 1


async def test_over_the_limit_it_waits_as_told_and_then_sends(
    connect: Connect, world: World, clock: Clock, limited: str
) -> None:
    sms, two = connect(key=limited), [NUMBER, "+15555550101"]
    await sms.bulk(two, "Hello", sender="MyApp")
    clock.during = lambda: world.runtime.database.execute("DELETE FROM pacing")  # as if the time had passed
    done = await sms.bulk(two, "Hello", sender="MyApp")
    assert len(done.accepted) == 2
    (pause_s,) = clock.pauses
    assert 10 < pause_s <= 20.2


async def test_a_limit_that_asks_for_more_than_the_deadline_is_told_at_once(
    connect: Connect, clock: Clock, limited: str
) -> None:
    sms = connect(key=limited, deadline_s=5)
    await sms.send(NUMBER, "Hello", sender="MyApp")
    with pytest.raises(RateLimited) as refused:
        await sms.send(NUMBER, "Hello", sender="MyApp")
    assert clock.pauses == []
    assert 5 < refused.value.retry_after_s <= 10
    assert refused.value.idempotency_key
    assert not refused.value.may_be_stored


async def test_pauses_double_at_random_and_end_with_the_deadline(connect: Connect, proxy: Proxy, clock: Clock) -> None:
    sms = connect(proxy.url, deadline_s=60)
    proxy.script.extend([problem(503, "overloaded")] * 100)
    with pytest.raises(Unavailable) as refused:
        await sms.send(NUMBER, "Hello", sender="MyApp")
    longest = [min(0.2 * 2**number, 10) for number in range(len(clock.pauses))]
    assert all(0 <= pause_s <= limit_s for pause_s, limit_s in zip(clock.pauses, longest, strict=True))
    assert len(set(clock.pauses)) == len(clock.pauses) >= 8
    assert sum(clock.pauses) <= 60
    assert len(proxy.seen) == len(clock.pauses) + 1
    assert not refused.value.may_be_stored, "the gateway said each time that nothing was stored"


async def test_a_doubt_stays_whatever_a_later_try_says(connect: Connect, proxy: Proxy) -> None:
    sms = connect(proxy.url, deadline_s=2)
    proxy.script.extend([Fault.RESET_AFTER_IT_PASSED, problem(429, "rate_limited", Retry_After="60")])
    with pytest.raises(RateLimited) as refused:
        await sms.send(NUMBER, "Hello", sender="MyApp")
    assert refused.value.may_be_stored
    assert refused.value.idempotency_key == proxy.keys[0]


async def test_the_key_of_a_failure_makes_a_later_call_safe(connect: Connect, proxy: Proxy) -> None:
    sms, reference = connect(proxy.url, retry=False), uuid4().hex
    proxy.script.append(Fault.RESET_AFTER_IT_PASSED)
    with pytest.raises(NoAnswer) as failed:
        await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference)
    assert len(proxy.seen) == 1, "without retries there is one try"
    assert failed.value.may_be_stored
    key = failed.value.idempotency_key
    await sms.send(NUMBER, "Hello", sender="MyApp", reference=reference, idempotency_key=key)
    assert await stored(sms, reference) == 1


async def test_a_gateway_that_is_not_there_surely_stored_nothing(connect: Connect, clock: Clock) -> None:
    sms = connect(f"http://127.0.0.1:{free_port()}", deadline_s=10)
    with pytest.raises(NoAnswer) as failed:
        await sms.send(NUMBER, "Hello", sender="MyApp")
    assert len(clock.pauses) >= 4
    assert failed.value.idempotency_key
    assert not failed.value.may_be_stored


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_proxy_that_refuses_is_asked_again(sms: AsyncSmsGateway, proxy: Proxy, status: int) -> None:
    proxy.script.append(Answer(status, b"<html>no healthy upstream</html>", {"Content-Type": "text/html"}))
    await sms.send(NUMBER, "Hello", sender="MyApp")
    assert len(set(proxy.keys)) == 1


async def test_a_proxy_that_finds_no_gateway_for_too_long_leaves_a_doubt(connect: Connect, proxy: Proxy) -> None:
    proxy.script.append(Answer(504, b"<html>"))
    with pytest.raises(Unavailable) as refused:
        await connect(proxy.url, retry=False).send(NUMBER, "Hello", sender="MyApp")
    assert (refused.value.status, refused.value.code) == (504, "proxy")
    assert refused.value.may_be_stored


@pytest.mark.parametrize(("status", "error"), [(422, InvalidRequest), (500, Refused)])
async def test_a_refusal_is_final(sms: AsyncSmsGateway, proxy: Proxy, status: int, error: type[Refused]) -> None:
    proxy.script.append(problem(status, "some_code"))
    with pytest.raises(error) as refused:
        await sms.send(NUMBER, "Hello", sender="MyApp")
    assert (refused.value.code, refused.value.may_be_stored) == ("some_code", status == 500)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Welcome</html>"),
        Answer(200, b'{"message_id": 1}'),
        Answer(200, b'{"message_id": "msg_1"}'),
        Answer(200, b"[]"),
        Answer(200, _sent(created_at="yesterday")),
        Answer(200, _sent(segments=True)),
        Answer(404, b"<html>"),
        Answer(307, b"", {"Location": "https://example.com/"}),
        Answer(500, b"Internal Server Error"),
    ],
)
async def test_what_is_no_gateway_is_not_believed(sms: AsyncSmsGateway, proxy: Proxy, answer: Answer) -> None:
    proxy.script.append(answer)
    with pytest.raises(UnexpectedAnswer) as failed:
        await sms.send(NUMBER, "Hello", sender="MyApp")
    assert len(proxy.seen) == 1
    assert failed.value.may_be_stored == (answer.status in {200, 500})


@pytest.mark.parametrize("told", ["soon", "", "-1", "9999999999999", "1.5"])
async def test_a_retry_after_that_is_no_number_of_seconds_counts_as_none(
    sms: AsyncSmsGateway, proxy: Proxy, clock: Clock, told: str
) -> None:
    proxy.script.append(problem(429, "rate_limited", Retry_After=told))
    await sms.send(NUMBER, "Hello", sender="MyApp")
    assert 0 <= clock.pauses[0] <= 0.2


async def test_a_read_is_tried_again_too_and_has_no_key(sms: AsyncSmsGateway, proxy: Proxy) -> None:
    sent = await sms.send(NUMBER, "Hello", sender="MyApp")
    proxy.script.extend([Fault.RESET_AFTER_IT_PASSED, problem(503, "overloaded")])
    assert (await sms.message(sent.message_id)).to == NUMBER
    assert proxy.keys[1:] == [None, None, None]


async def test_a_read_that_fails_leaves_no_doubt(connect: Connect, proxy: Proxy) -> None:
    proxy.script.append(Fault.RESET_AFTER_IT_PASSED)
    with pytest.raises(SmsGatewayError) as failed:
        await connect(proxy.url, retry=False).hlr(NUMBER)
    assert (failed.value.may_be_stored, failed.value.idempotency_key) == (False, None)


async def test_each_send_has_a_key_of_its_own_unless_given(sms: AsyncSmsGateway, proxy: Proxy) -> None:
    sends = (sms.send(NUMBER, "Hello", sender="MyApp") for _ in range(5))
    await asyncio.gather(*sends)
    first = await sms.send(NUMBER, "Hello", sender="MyApp", idempotency_key="order-4711")
    again = await sms.send(NUMBER, "Hello", sender="MyApp", idempotency_key="order-4711")
    assert first == again
    assert len(set(proxy.keys[:5])) == 5
    assert proxy.keys[5:] == ["order-4711", "order-4711"]
