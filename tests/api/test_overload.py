"""It sheds before it dies: who gets in when too much is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import orjson
import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.api.intake import parse_json, read_body
from service.api.middleware import MOST_OTHERS, MOST_RECEIPTS, MOST_SENDS, Surround
from service.api.models import BulkRequest, ProblemReply
from service.errors import Problem
from service.metrics import Metrics
from service.runtime import Runtime
from service.tracing import Tracing
from tests.api.client import NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import make_key


class Crowded:
    """An application that answers nobody before `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.inside = 0
        self._came = asyncio.Condition()
        self.app = Surround(self._answer, Metrics(), Tracing(), {})

    async def _answer(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        async with self._came:
            self.inside += 1
            self._came.notify_all()
        await self.go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def until(self, inside: int) -> None:
        """Wait for so many to be inside."""
        async with asyncio.timeout(60), self._came:
            await self._came.wait_for(lambda: self.inside >= inside)

    def ask(self, path: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self._ask(path))

    async def _ask(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            return await http.post(path)

    @asynccontextmanager
    async def full(self, path: str, most: int) -> AsyncIterator[None]:
        """While the body runs, `most` requests to the path are inside."""
        asked = [self.ask(path) for _ in range(most)]
        await self.until(most)
        yield
        self.go.set()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {204}


@pytest.mark.parametrize(
    ("path", "most"),
    [("/v1/send", MOST_SENDS), ("/v1/receipts/acme/token", MOST_RECEIPTS), ("/v1/hlr/+15555550100", MOST_OTHERS)],
)
async def test_when_as_many_are_inside_as_the_process_bears_the_next_is_shed_at_once(path: str, most: int) -> None:
    crowded = Crowded()
    async with crowded.full(path, most):
        for _ in range(3):
            refused = await asyncio.wait_for(crowded.ask(path), 10)
            assert refused.status_code == 503
            reply = ProblemReply.model_validate_json(refused.content)
            assert (reply.code, int(refused.headers["retry-after"])) == ("overloaded", 1)
            assert refused.headers["x-request-id"] == reply.request_id
        assert crowded.inside == most
    again = await crowded.ask(path)
    assert again.status_code == 204


async def test_slow_look_ups_shut_out_no_send_and_no_receipt_and_nothing_shuts_out_health() -> None:
    crowded = Crowded()
    async with crowded.full("/v1/hlr/+15555550100", MOST_OTHERS):
        others = [crowded.ask(path) for path in ("/v1/send", "/v1/receipts/acme/token", "/healthz", "/metrics")]
        await crowded.until(MOST_OTHERS + 4)
    assert [answer.status_code for answer in await asyncio.gather(*others)] == [204] * 4


async def test_bulks_that_find_no_place_are_shed_and_single_sends_go_on(api: GatewayClient, dsn: str) -> None:
    """Twenty bulks wait for a table that somebody has locked against them, but not against single sends."""
    held = await asyncpg.connect(dsn)
    transaction = held.transaction()
    await transaction.start()
    try:
        await held.execute("LOCK TABLE batches IN EXCLUSIVE MODE")
        bulks = [asyncio.create_task(api.bulk(bulk_body(NUMBER))) for _ in range(30)]
        done, waiting = await asyncio.wait(bulks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        shed = {task.result().status_code for task in done}
        assert shed == {503}
        assert (await api.send(body())).status_code == 200
        assert len(waiting) >= 20
    finally:
        await transaction.rollback()
        await held.close()
    answers = await asyncio.gather(*bulks)
    assert sum(answer.status_code == 200 for answer in answers) >= 4
    for answer in answers:
        if answer.status_code != 200:
            assert problem(answer, 503).code == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
    assert (await api.bulk(bulk_body(NUMBER))).status_code == 200


async def test_a_bulk_that_was_shed_has_stored_nothing(api: GatewayClient, runtime: Runtime, dsn: str) -> None:
    key = await make_key(runtime, "send", client="shed")
    mine = GatewayClient(
        httpx.AsyncClient(base_url=api.http.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    )
    held = await asyncpg.connect(dsn)
    try:
        async with held.transaction():
            await held.execute("LOCK TABLE batches IN EXCLUSIVE MODE")
            bulks = [asyncio.create_task(mine.bulk(bulk_body(NUMBER))) for _ in range(30)]
            await asyncio.wait(bulks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        accepted = sum(answer.status_code == 200 for answer in await asyncio.gather(*bulks))
    finally:
        await held.close()
        await mine.http.aclose()
    [row] = await runtime.database.fetch(
        "SELECT count(*) AS stored FROM messages JOIN clients ON clients.id = client_id WHERE name = 'shed'"
    )
    assert row["stored"] == accepted


@pytest.mark.parametrize("values", [[{}] * 150_100, [1] * 150_100])
async def test_a_body_of_too_many_values_is_not_even_parsed(values: list[object]) -> None:
    raw = orjson.dumps({"from": "MyApp", "message": "Hi", "recipients": values})
    with pytest.raises(Problem) as refused:
        await parse_json(raw, BulkRequest)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


async def test_a_body_of_100_000_recipients_and_a_text_of_commas_is_parsed() -> None:
    raw = orjson.dumps({"from": "MyApp", "message": "," * 40_000, "recipients": [NUMBER] * 100_000})
    assert len((await parse_json(raw, BulkRequest)).fields.recipients) == 100_000


async def test_a_body_that_stops_halfway_gives_its_place_back() -> None:
    async def nothing_more() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    request = Request({"type": "http", "headers": []}, nothing_more)
    with pytest.raises(Problem) as refused:
        await read_body(request, 1000, within_s=0.01)
    assert (refused.value.status, refused.value.code) == (400, "incomplete_body")
