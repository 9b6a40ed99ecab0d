from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from service.api.suppression_models import ImportReply, SuppressionList, SuppressionReply
from service.app import create_app
from service.runtime import Runtime
from tests import rows
from tests.api.client import BRITISH, CONFIG, NUMBER, GatewayClient, problem
from tests.gateway import make_key, open_gateway, serve

_PATH = "/v1/suppressions"


@pytest.fixture
async def admin(runtime: Runtime, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An admin of a client without suppressions."""
    await runtime.database.execute("DELETE FROM suppressions")
    key = await make_key(runtime, "admin")
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {key}"}) as http:
        yield http


async def _listed(http: httpx.AsyncClient, **query: str | int) -> SuppressionList:
    response = await http.get(_PATH, params=query)
    assert response.status_code == 200, response.text
    return SuppressionList.model_validate_json(response.content)


async def _numbers(http: httpx.AsyncClient) -> list[str]:
    return [one.number for one in (await _listed(http)).suppressions]


async def _import(http: httpx.AsyncClient, content: str | bytes, content_type: str = "text/csv") -> httpx.Response:
    return await http.post(f"{_PATH}/import", content=content, headers={"Content-Type": content_type})


async def test_a_number_is_added_once_and_keeps_its_first_reason(admin: httpx.AsyncClient, runtime: Runtime) -> None:
    first = await admin.post(_PATH, json={"number": NUMBER, "reason": "asked by phone"})
    again = await admin.post(_PATH, json={"number": NUMBER})
    assert (first.status_code, again.status_code) == (200, 200)
    added = SuppressionReply.model_validate_json(first.content)
    assert (added.number, added.reason, added.source) == (NUMBER, "asked by phone", "api")
    assert abs((added.created_at - datetime.now(UTC)).total_seconds()) < 60
    assert again.json() == first.json()
    assert (await _listed(admin)).suppressions == [added]
    client_id = await rows.a_client(runtime.database)
    assert (await runtime.numbers.screen(NUMBER, client_id)).suppressed


async def test_a_removed_number_is_sent_to_again(admin: httpx.AsyncClient, runtime: Runtime) -> None:
    await admin.post(_PATH, json={"number": NUMBER})
    assert (await admin.delete(f"{_PATH}/{NUMBER}")).status_code == 204
    assert not (await runtime.numbers.screen(NUMBER, await rows.a_client(runtime.database))).suppressed
    assert problem(await admin.delete(f"{_PATH}/{NUMBER}"), 404).code == "suppression_not_found"


async def test_each_client_has_a_list_of_its_own(admin: httpx.AsyncClient, runtime: Runtime) -> None:
    await admin.post(_PATH, json={"number": NUMBER})
    stranger = {"Authorization": f"Bearer {await make_key(runtime, 'admin', client='stranger')}"}
    assert (await admin.get(_PATH, headers=stranger)).json()["suppressions"] == []
    assert problem(await admin.delete(f"{_PATH}/{NUMBER}", headers=stranger), 404).code == "suppression_not_found"
    assert await _numbers(admin) == [NUMBER]


async def test_the_list_comes_in_pages_and_can_be_asked_for_one_number(admin: httpx.AsyncClient) -> None:
    numbers = sorted([*(f"+155555501{last}" for last in range(10, 15)), BRITISH])
    await _import(admin, "\n".join(numbers))
    seen: list[str] = []
    page = await _listed(admin, limit=4)
    seen += [one.number for one in page.suppressions]
    assert page.next_cursor is not None
    last = await _listed(admin, limit=4, cursor=page.next_cursor)
    assert last.next_cursor is None
    assert [*seen, *(one.number for one in last.suppressions)] == numbers
    assert [one.number for one in (await _listed(admin, number=BRITISH)).suppressions] == [BRITISH]
    assert (await _listed(admin, number="+4915112345678")).suppressions == []
    foreign = await admin.get(_PATH, params={"cursor": page.next_cursor, "number": BRITISH})
    assert problem(foreign, 422).code == "cursor_invalid"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("number=15555550100", "number_missing_plus"),
        ("limit=0", "out_of_range"),
        ("nummer=1", "unknown_parameter"),
        ("cursor=x", "cursor_invalid"),
    ],
)
async def test_a_bad_parameter_is_refused(admin: httpx.AsyncClient, query: str, code: str) -> None:
    assert problem(await admin.get(f"{_PATH}?{query}"), 422).code == code


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"number": "0015555550100"}, "number", "number_missing_plus"),
        ({"number": NUMBER, "reason": ""}, "reason", "invalid_value"),
        ({"number": NUMBER, "reason": "r" * 129}, "reason", "too_long"),
        ({"number": NUMBER, "reason": "\x00"}, "reason", "invalid_characters"),
        ({"number": NUMBER, "source": "x"}, "source", "unknown_field"),
        ({}, "number", "field_missing"),
    ],
)
async def test_a_bad_field_is_refused(admin: httpx.AsyncClient, fields: dict[str, str], field: str, code: str) -> None:
    refused = problem(await admin.post(_PATH, json=fields), 422)
    assert (refused.code, refused.errors[0].field) == (code, field)


async def test_a_bad_number_cannot_be_removed(admin: httpx.AsyncClient) -> None:
    assert problem(await admin.delete(f"{_PATH}/1555"), 422).code == "number_missing_plus"


async def test_a_file_is_stored_but_for_its_bad_rows(admin: httpx.AsyncClient) -> None:
    file = f'\ufeffname,Number \r\nAda,{NUMBER}\r\n"Bob\r\nB.", {BRITISH} \r\n\r\nCy,5555\r\nDi\r\nAda,{NUMBER}\r\n'
    first = ImportReply.model_validate_json((await _import(admin, file)).content)
    assert (first.added, first.known, first.rejected) == (2, 1, 2)
    assert [(row.line, row.code) for row in first.errors] == [(6, "number_missing_plus"), (7, "number_missing_plus")]
    assert await _numbers(admin) == sorted([NUMBER, BRITISH])
    again = ImportReply.model_validate_json((await _import(admin, file)).content)
    assert (again.added, again.known, again.rejected) == (0, 3, 2)
    assert {(one.reason, one.source) for one in (await _listed(admin)).suppressions} == {("imported", "import")}


async def test_a_file_of_one_column_needs_no_header(admin: httpx.AsyncClient) -> None:
    response = await _import(admin, f"{NUMBER}\n{BRITISH}", "text/csv; charset=utf-8; header=absent")
    assert response.json() == {"added": 2, "known": 0, "rejected": 0, "errors": []}


async def test_ten_thousand_rows_are_the_most(runtime: Runtime, dsn: str) -> None:
    key = await make_key(runtime, "admin", client="importer")
    roomy = CONFIG.replace("max_body_bytes: 30000", "max_body_bytes: 300000")
    async with (
        open_gateway(roomy, dsn) as other,
        serve(create_app(other)) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http,
    ):
        numbers = [f"+1555{number:07}" for number in range(10_001)]
        assert (await _import(http, "\n".join(["number", *numbers[1:]]))).json()["added"] == 10_000
        for too_many in ("\n".join(["number", *numbers]), "\n" * 100_000):
            assert problem(await _import(http, too_many), 422).code == "too_many_rows"
        endless = await _import(http, '"' + "x" * 200_000)
        assert problem(endless, 400).code == "not_csv"


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"\xff\xfe", "text/csv", 400, "not_csv"),
        (b'"' + b"x" * 20_000, "application/json", 415, "not_csv_type"),
        (b"", "", 415, "not_csv_type"),
        (b"", "text/csv", 422, "no_rows"),
        (b"\n \n", "text/csv", 422, "no_rows"),
        (b"name,phone\nAda,+15555550100\n", "text/csv", 422, "no_number_column"),
        (b"x" * 30_001, "text/csv", 413, "body_too_large"),
    ],
)
async def test_what_is_no_such_file_is_refused(
    admin: httpx.AsyncClient, content: bytes, content_type: str, status: int, code: str
) -> None:
    assert problem(await _import(admin, content, content_type), status).code == code


async def test_only_an_admin_may(api: GatewayClient) -> None:
    for request in (
        api.http.get(_PATH),
        api.http.post(_PATH, json={"number": NUMBER}),
        api.http.delete(f"{_PATH}/{NUMBER}"),
        _import(api.http, NUMBER),
    ):
        assert problem(await request, 403).code == "scope_missing"
