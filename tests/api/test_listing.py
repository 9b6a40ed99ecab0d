from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import httpx
import pytest

from service.api.message_models import MessageList
from service.domain.ids import smallest_at
from service.runtime import Runtime
from service.storage.database import Database
from service.storage.listing import MessageListing, Wanted
from service.storage.sql import queries
from tests.api.client import BRITISH, NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import make_key


@pytest.fixture
async def mine(runtime: Runtime, base_url: str) -> AsyncIterator[GatewayClient]:
    """A client of its own for each test, so that lists hold only what the test sent."""
    name = f"client-{datetime.now(UTC).timestamp()}"
    headers = {"Authorization": f"Bearer {await make_key(runtime, 'send', 'read', client=name)}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers) as http:
        yield GatewayClient(http)


async def _list(api: GatewayClient, **query: Any) -> MessageList:
    response = await api.http.get("/v1/messages", params=query)
    assert response.status_code == 200, response.text
    return MessageList.model_validate_json(response.content)


async def _sent(api: GatewayClient, **fields: Any) -> str:
    response = await api.send(body(**fields))
    assert response.status_code == 200, response.text
    return str(response.json()["message_id"])


def _ids(page: MessageList) -> list[str]:
    return [message.message_id for message in page.messages]


async def test_the_newest_message_comes_first_and_no_text_is_shown(mine: GatewayClient) -> None:
    sent = [await _sent(mine, reference=f"r{number}") for number in range(3)]
    response = await mine.http.get("/v1/messages")
    assert [message["message_id"] for message in response.json()["messages"]] == sent[::-1]
    assert response.json()["next_cursor"] is None
    assert "481902" not in response.text


async def test_only_the_clients_own_messages_are_listed(mine: GatewayClient, api: GatewayClient) -> None:
    await _sent(api)
    assert _ids(await _list(mine)) == []


async def test_pages_follow_each_other_without_gap_or_repeat(mine: GatewayClient) -> None:
    sent = [await _sent(mine) for _ in range(5)]
    seen, page = [], await _list(mine, limit=2)
    first = page
    while True:
        seen += _ids(page)
        assert page.created_after == first.created_after, "the window stands still"
        if page.next_cursor is None:
            break
        await _sent(mine)  # what comes meanwhile shifts nothing
        page = await _list(mine, limit=2, cursor=page.next_cursor)
    assert seen == sent[::-1]


async def test_each_filter_leaves_out_what_does_not_match(mine: GatewayClient) -> None:
    plain = await _sent(mine, reference="one")
    otp = await _sent(mine, **{"from": "MyAppOTP"})
    british = await _sent(mine, to=BRITISH)
    bulk = (await mine.bulk(bulk_body(NUMBER, **{"from": "MyAppPromo"}))).json()
    cancelled = await _sent(mine)
    await mine.http.post(f"/v1/messages/{cancelled}/cancel")
    assert _ids(await _list(mine, reference="one")) == [plain]
    assert _ids(await _list(mine, traffic="otp")) == [otp]
    assert _ids(await _list(mine, **{"from": "MyAppOTP"})) == [otp]
    assert _ids(await _list(mine, to=BRITISH)) == [british]
    assert _ids(await _list(mine, batch_id=bulk["batch_id"])) == [bulk["results"][0]["message_id"]]
    assert _ids(await _list(mine, status="cancelled")) == [cancelled]
    assert _ids(await _list(mine, to=BRITISH, traffic="otp")) == []


async def test_the_window_is_the_last_day_by_default_and_what_was_asked_for_otherwise(
    mine: GatewayClient, runtime: Runtime
) -> None:
    old, new = await _sent(mine), await _sent(mine)
    two_days_ago = datetime.now(UTC) - timedelta(days=2)
    aged = UUID(int=smallest_at(two_days_ago).int | UUID(hex=old[4:]).int & (1 << 80) - 1)
    await runtime.database.execute(
        "UPDATE messages SET id = $2, created_at = $3 WHERE id = $1", UUID(hex=old[4:]), aged, two_days_ago
    )
    shown = f"msg_{aged.hex}"
    assert _ids(await _list(mine)) == [new]
    assert _ids(await _list(mine, created_after=(two_days_ago - timedelta(hours=1)).isoformat())) == [new, shown]
    assert _ids(await _list(mine, created_before=(two_days_ago + timedelta(hours=1)).isoformat())) == [shown]
    assert _ids(await _list(mine, created_after=two_days_ago.isoformat())) == [new, shown], "its edge is within"
    assert _ids(await _list(mine, created_before=two_days_ago.isoformat())) == [], "its end is not"


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("staus=queued", "staus", "unknown_parameter"),
        ("status=lost", "status", "invalid_status"),
        ("traffic=spam", "traffic", "invalid_traffic"),
        ("to=+15555550100", "to", "number_missing_plus"),
        ("to=%2B1555", "to", "number_too_short"),
        ("from=a%00", "from", "invalid_characters"),
        ("reference=%00", "reference", "invalid_characters"),
        ("batch_id=bat_1", "batch_id", "invalid_batch_id"),
        ("limit=0", "limit", "out_of_range"),
        ("limit=501", "limit", "out_of_range"),
        ("limit=x", "limit", "wrong_type"),
        ("created_after=yesterday", "created_after", "invalid_time"),
        ("created_after=2026-01-31T09:30:00+00:00", "created_after", "invalid_time"),
        ("created_after=2026-02-01T00:00:00Z&created_before=2026-01-01T00:00:00Z", "created_after", "empty_window"),
        ("cursor=", "cursor", "cursor_invalid"),
        ("cursor=bm9uc2Vuc2U", "cursor", "cursor_invalid"),
        ("cursor=%C3%BC", "cursor", "cursor_invalid"),
    ],
)
async def test_a_bad_parameter_is_refused(api: GatewayClient, query: str, field: str, code: str) -> None:
    refused = problem(await api.http.get(f"/v1/messages?{query}"), 422)
    assert (refused.code, refused.errors[0].field) == (code, field)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-01-01T00:00:00Z"])
@pytest.mark.parametrize("field", ["created_after", "created_before"])
async def test_times_beyond_all_messages_are_times_too(api: GatewayClient, field: str, at: str) -> None:
    assert (await api.http.get(f"/v1/messages?{urlencode({field: at})}")).status_code == 200


async def test_a_cursor_is_good_for_its_own_list_only(mine: GatewayClient, api: GatewayClient) -> None:
    for _ in range(2):
        await _sent(mine)
    cursor = (await _list(mine, limit=1)).next_cursor
    assert cursor is not None
    assert len(_ids(await _list(mine, limit=5, cursor=cursor))) == 1
    for changed in range(len(cursor)):
        other = "A" if cursor[changed] != "A" else "B"
        tampered = cursor[:changed] + other + cursor[changed + 1 :]
        refused = await mine.http.get("/v1/messages", params={"limit": 1, "cursor": tampered})
        assert problem(refused, 422).code == "cursor_invalid"
    for query in ({"cursor": cursor, "status": "queued"}, {"cursor": cursor, "reference": "x"}):
        assert problem(await mine.http.get("/v1/messages", params=query), 422).code == "cursor_invalid"
    stranger = await api.http.get("/v1/messages", params={"cursor": cursor})
    assert problem(stranger, 422).code == "cursor_invalid"


async def test_a_key_without_the_scope_lists_nothing(api: GatewayClient, runtime: Runtime) -> None:
    key = {"Authorization": f"Bearer {await make_key(runtime, 'send')}"}
    assert problem(await api.http.get("/v1/messages?limit=x", headers=key), 403).code == "scope_missing"


_FILL = """
INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments, send_at, expires_at,
                      created_at, status)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
       CASE WHEN n % 50 = 0 THEN $1::uuid ELSE md5((n % 7)::text)::uuid END,
       '+1555' || lpad(n::text, 7, '0'), 'MyApp', 'x', 'transactional', 'US', 'gsm-7', 1, at, at, at, 'delivered'
FROM (SELECT n, now() - n * interval '10 seconds' AS at FROM generate_series(1, 200000) AS n) AS made
"""


async def test_a_list_walks_the_index_and_never_the_table(runtime: Runtime) -> None:
    small, large = UUID(int=7), UUID("cfcd2084-95d5-65ef-66e7-dff9f98764da")  # md5 of "0"
    next_month = f"messages_{datetime.now(UTC).replace(day=1) + timedelta(days=31):%Y_%m}"
    async with runtime.database.writing() as connection:
        await connection.execute(_FILL, small)
        await connection.execute("ANALYZE messages")
        for client_id, days, narrow in product((small, large), (1, 7, 30), (None, "nobody")):
            after = datetime.now(UTC) - timedelta(days=days)
            plan = await connection.fetch(
                "EXPLAIN " + queries("listing")["messages"].format(source="messages"),
                client_id, smallest_at(after), UUID(int=2**128 - 1), after,
                None, None, None, narrow, None, None, None, 51,
            )  # fmt: skip
            text = "\n".join(row[0] for row in plan)
            # Next month's partition is empty: there it is all the same.
            walked = [line for line in text.splitlines() if "Seq Scan" in line and next_month not in line]
            assert not walked, text
            assert ("client_id_id_idx" if client_id == small else "Index Scan") in text, text
        await connection.execute("DELETE FROM messages WHERE body = 'x'")


_FILL_BATCHES = _FILL.replace("created_at, status)", "created_at, status, batch_id)").replace(
    "'delivered'\nFROM", "'delivered', CASE WHEN n % 100 = 0 THEN $2::uuid ELSE md5((n % 300)::text)::uuid END\nFROM"
)


async def test_the_list_of_one_batch_is_found_by_the_batch(runtime: Runtime) -> None:
    """Under the plan that is kept for any batch, which is made without looking at the values."""
    batch_id = UUID(int=9)
    plans: list[str] = []

    class Explaining(Database):
        async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
            async with self.writing() as connection:
                found = await connection.fetch("EXPLAIN " + query, *arguments)
            plans.append("\n".join(row[0] for row in found))
            return found

    dsn = runtime.settings.environment.database_url
    assert dsn is not None
    database = await Explaining.open(dsn, connections=1, statement_cache=100)
    try:
        async with database.writing() as connection:
            await connection.execute(_FILL_BATCHES, UUID(int=7), batch_id)
            await connection.execute("ANALYZE messages")
        after = datetime.now(UTC) - timedelta(days=30)
        await MessageListing(database).page(Wanted(UUID(int=7), after, None, batch_id=batch_id), None, 51)
        [plan] = plans
        assert "batch_id_idx" in plan, plan
        assert "Index Cond: (batch_id" in plan, plan
        assert "client_id_id_idx" not in plan, plan
    finally:
        await database.execute("DELETE FROM messages WHERE body = 'x'")
        await database.close()
