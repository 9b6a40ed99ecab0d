"""It sheds before it dies: who gets in when too much is asked for."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx
import orjson
import pytest

from service.api.intake import parse_json
from service.api.models import BulkRequest
from service.errors import Problem
from service.runtime import Runtime
from tests.api.client import NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import make_key


async def test_bulks_that_find_no_place_are_shed_and_single_sends_go_on(api: GatewayClient, dsn: str) -> None:
    """Bulks wait for a table that somebody has locked against them, but not against single sends."""
    held = await asyncpg.connect(dsn)
    transaction = held.transaction()
    await transaction.start()
    try:
        await held.execute("LOCK TABLE batches IN EXCLUSIVE MODE")
        bulks = [asyncio.create_task(api.bulk(bulk_body(NUMBER))) for _ in range(30)]
        done, waiting = await asyncio.wait(bulks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        shed = {task.result().status_code for task in done}
        assert shed == {429}  # all of them are of one client, which has half of the places
        assert (await api.send(body())).status_code == 200
        assert len(waiting) >= 16
    finally:
        await transaction.rollback()
        await held.close()
    answers = await asyncio.gather(*bulks)
    assert sum(answer.status_code == 200 for answer in answers) >= 4
    for answer in answers:
        if answer.status_code != 200:
            assert problem(answer, 429).code == "too_many_at_once"
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
