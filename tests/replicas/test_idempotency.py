"""One Idempotency-Key, many callers, two replicas: one message, one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
import pytest

from tests.chaos.stage import Stage
from tests.replicas.proof import assert_delivered_once, eventually

CALLERS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """`breaks`: how many connections of its caller broke before it came."""

    status: int
    body: bytes
    replayed: bool
    breaks: int

    @property
    def message_ids(self) -> set[str]:
        reply = orjson.loads(self.body)
        return {result["message_id"] for result in reply.get("results", [reply])}


class Callers:
    """They share a key. Each asks one of two replicas, and repeats at the other one when its connection breaks.

    One that is told 429 or 503 repeats too.
    """

    def __init__(self, stage: Stage, path: str) -> None:
        self.first_answer = asyncio.Event()
        self._urls = [stage.url_of(serve) + path for serve in stage.serves]
        self.key = uuid4().hex
        self._headers = {"Authorization": f"Bearer {stage.api_keys['shop']}", "Idempotency-Key": self.key}

    async def ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """What each body was answered. All are asked at once, in turn at the first replica and at the second."""
        timeout = aiohttp.ClientTimeout(total=20)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as http:
            return await asyncio.gather(*(self._one(http, number, body) for number, body in enumerate(bodies)))

    async def _one(self, http: aiohttp.ClientSession, number: int, body: Mapping[str, Any]) -> Answer:
        breaks = 0
        while breaks < 3:
            try:
                async with http.post(self._urls[(number + breaks) % 2], json=body) as reply:
                    replayed = reply.headers.get("Idempotency-Replayed") == "true"
                    answer = Answer(reply.status, await reply.read(), replayed, breaks)
            except aiohttp.ClientError:
                breaks += 1
                continue
            if answer.status not in {429, 503}:
                self.first_answer.set()
                return answer
            await asyncio.sleep(0.2)  # so many bulks at once are too many: come again
        raise AssertionError("both replicas broke the connection")


def single(stage: Stage, reference: str) -> dict[str, Any]:
    return {"to": "+15555550100"} | common(stage, reference)


def bulk(stage: Stage, reference: str) -> dict[str, Any]:
    return {"recipients": [f"+1555555{number:04}" for number in range(100, 140)]} | common(stage, reference)


def common(stage: Stage, reference: str) -> dict[str, Any]:
    callback_url = f"{stage.listener.url}/hook"
    return {"from": "MyApp", "message": "Hello", "reference": reference, "callback_url": callback_url}


@pytest.mark.parametrize(("path", "make"), [("/v1/send", single), ("/v1/send/bulk", bulk)])
async def test_two_hundred_callers_with_one_key_get_one_answer_though_a_replica_is_killed(
    stage: Stage, path: str, make: Any
) -> None:
    reference = uuid4().hex
    callers = Callers(stage, path)
    asking = asyncio.create_task(callers.ask([make(stage, reference)] * CALLERS))
    await callers.first_answer.wait()
    await stage.serves[0].kill()
    answers = await asking
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert any(answer.breaks for answer in answers), "the replica was killed too late to cut anybody off"
    # The one who was first may be among those whose connection broke.
    assert sum(not answer.replayed for answer in answers) <= 1
    await assert_delivered_once(stage, reference, answers[0].message_ids)


async def test_what_a_replica_stored_but_died_before_it_could_answer_is_what_the_other_answers(stage: Stage) -> None:
    reference = uuid4().hex
    body, callers = single(stage, reference), Callers(stage, "/v1/send")

    async def stored() -> bool:
        return bool(await stage.fetch("SELECT FROM messages WHERE reference = $1", reference))

    async with stage.connection() as holder:
        in_the_way = holder.transaction()
        await in_the_way.start()
        await holder.execute(
            "INSERT INTO idempotency_keys (client_id, endpoint, key, body_hmac, subject_id, expires_at)"
            " SELECT id, 'send', $1, '', id, now() + interval '1 hour' FROM clients WHERE name = 'shop'",
            callers.key,
        )
        doomed = asyncio.create_task(stage.post("/v1/send", body, callers.key, url=stage.url_of(stage.serves[0])))
        await eventually(lambda: waits_for_another(stage), bool)
        await stage.serves[0].kill()
        with pytest.raises(aiohttp.ClientError):
            await doomed
        await in_the_way.rollback()
    # PostgreSQL has the whole statement, and ends it though nobody is there to read the answer.
    await eventually(stored, bool)
    answers = await callers.ask([body] * CALLERS)
    assert {(answer.status, answer.replayed) for answer in answers} == {(200, True)}
    assert len({answer.body for answer in answers}) == 1
    await assert_delivered_once(stage, reference, answers[0].message_ids)


@pytest.mark.parametrize(("path", "make"), [("/v1/send", single), ("/v1/send/bulk", bulk)])
async def test_of_two_bodies_with_one_key_one_wins_and_the_other_is_refused_by_both_replicas(
    stage: Stage, path: str, make: Any
) -> None:
    references = [uuid4().hex, uuid4().hex]
    one, other = (make(stage, reference) for reference in references)
    # Two of each in turn, so that each replica hears of both.
    answers = await Callers(stage, path).ask([one, one, other, other] * (CALLERS // 4))
    won = [answer for answer in answers if answer.status == 200]
    lost = [answer for answer in answers if answer.status != 200]
    assert len(won) == len(lost) == CALLERS // 2
    assert len({answer.body for answer in won}) == 1
    assert sum(not answer.replayed for answer in won) == 1
    assert {(answer.status, orjson.loads(answer.body)["code"]) for answer in lost} == {(422, "idempotency_key_reused")}
    winner = references[0] if answers[0] in won else references[1]
    await assert_delivered_once(stage, winner, won[0].message_ids)
    stored = await stage.fetch("SELECT DISTINCT reference FROM messages WHERE reference = ANY ($1)", references)
    assert [row["reference"] for row in stored] == [winner]


async def waits_for_another(stage: Stage) -> int:
    """How many statements wait for a transaction to end."""
    rows = await stage.fetch("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted")
    return int(rows[0]["count"])
