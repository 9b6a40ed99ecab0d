"""Every refusal of a body, each provoked once. What is refused is never echoed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.api.client import GatewayClient, body, bulk_body, problem

_FAR = (datetime.now(UTC) + timedelta(days=36)).isoformat()

_BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("to", "555-555-0100", "number_missing_plus"),
    ("to", "(555) 555-0100", "number_missing_plus"),
    ("to", "0015555550100", "number_missing_plus"),
    ("to", "", "number_missing_plus"),
    ("to", "+1 555 555 0100", "number_bad_characters"),
    ("to", "+1555555010\u0660", "number_bad_characters"),
    ("to", "+15555550100\n", "number_bad_characters"),
    ("to", "+15555550100\x00", "number_bad_characters"),
    ("to", "+9995555550100", "number_unknown_country_code"),
    ("to", "+1555555", "number_too_short"),
    ("to", "+155555501001234", "number_too_long"),
    ("to", 15555550100, "invalid_number"),
    ("to", ["+15555550100"], "invalid_number"),
    ("from", "Nobody", "unknown_sender"),
    ("from", "", "unknown_sender"),
    ("from", True, "wrong_type"),
    ("traffic", "otp", "traffic_mismatch"),
    ("traffic", "spam", "invalid_traffic"),
    ("traffic", 1, "invalid_traffic"),
    ("message", "", "empty_message"),
    ("message", "x" * 460, "message_too_long"),
    ("message", "ж" * 10_000, "message_too_long"),
    ("message", "a\x00b", "invalid_characters"),
    ("message", {"text": "x"}, "wrong_type"),
    ("reference", "r" * 129, "too_long"),
    ("reference", "a\x00b", "invalid_characters"),
    ("callback_url", "https://example.com/" + "a" * 2048, "too_long"),
    ("callback_url", "ftp://example.com/", "callback_url_refused"),
    ("callback_url", "http://127.0.0.1/", "callback_url_refused"),
    ("callback_url", "http://169.254.169.254/latest", "callback_url_refused"),
    ("callback_url", "https://user:secret@example.com/", "callback_url_refused"),
    ("callback_url", "https://example.com/\x00", "callback_url_refused"),
    ("callback_url", "nonsense", "callback_url_refused"),
    ("callback_url", "http://xn--/hook", "callback_url_refused"),
    ("callback_url", "http://xn--a/", "callback_url_refused"),
    ("send_at", _FAR, "send_at_too_far"),
    ("send_at", "9999-12-31T23:59:59-14:00", "send_at_too_far"),
    ("send_at", "2026-01-31T09:30:00", "invalid_time"),
    ("send_at", "2026-01-31", "invalid_time"),
    ("send_at", "2026-02-31T09:30:00Z", "invalid_time"),
    ("send_at", "1700000000", "invalid_time"),
    ("send_at", 1700000000, "invalid_time"),
    ("validity_period", 0, "out_of_range"),
    ("validity_period", 604_801, "out_of_range"),
    ("validity_period", 10**30, "out_of_range"),
    ("validity_period", True, "wrong_type"),
    ("validity_period", 60.0, "wrong_type"),
    ("validity_period", "60", "wrong_type"),
    ("recipient", "+15555550100", "unknown_field"),
]


@pytest.mark.parametrize(
    ("field", "value", "code"), _BAD_FIELDS, ids=[f"{field}-{code}" for field, _, code in _BAD_FIELDS]
)
async def test_a_bad_field_gives_its_code_to_the_refusal(
    api: GatewayClient, field: str, value: object, code: str
) -> None:
    refused = problem(await api.send(body(**{field: value})), 422)
    assert refused.code == code
    assert [(error.field, error.code) for error in refused.errors] == [(field, code)]
    assert refused.detail == refused.errors[0].detail


@pytest.mark.parametrize("field", ["to", "from", "message"])
async def test_a_required_field_must_be_there(api: GatewayClient, field: str) -> None:
    refused = problem(await api.send(body(**{field: None})), 422)
    assert (refused.code, refused.errors[0].field) == ("field_missing", field)


async def test_every_bad_field_is_listed(api: GatewayClient) -> None:
    refused = problem(await api.send(body(to="+1 555", message="", **{"from": "Nobody"})), 422)
    assert refused.code == "invalid_request"
    assert {(error.field, error.code) for error in refused.errors} == {
        ("to", "number_bad_characters"),
        ("from", "unknown_sender"),
        ("message", "empty_message"),
    }


async def test_nothing_of_the_input_is_echoed(api: GatewayClient) -> None:
    marker = "MARKER123"
    values = {"to": marker, "from": marker, "traffic": marker, "callback_url": marker, "send_at": marker}
    values |= {"validity_period": marker, f"{marker} as a name": marker}
    for fields in (values, {name: [value] for name, value in values.items()}, body(message=marker * 1000)):
        response = await api.send(fields)
        assert response.status_code == 422
        assert marker not in response.text
        assert marker not in str(response.headers)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b'{"to": ',
        b'\xef\xbb\xbf{"to": "+15555550100", "from": "MyApp", "message": "x"}',
        b'{"to": "+15555550100", "from": "MyApp", "message": "\xff"}',
        b'{"to": "+15555550100", "from": "MyApp", "message": "\\ud800"}',
        b'{"to": "+15555550100", "from": "MyApp", "message": "x", "validity_period": NaN}',
        b"[" * 5000 + b"]" * 5000,
    ],
    ids=["empty", "word", "cut", "byte order mark", "not UTF-8", "lone surrogate", "NaN", "deep"],
)
async def test_what_is_not_json_is_a_400(api: GatewayClient, raw: bytes) -> None:
    assert problem(await api.send_raw(raw), 400).code == "not_json"


async def test_json_nested_too_deeply_is_a_400(api: GatewayClient) -> None:
    raw = b'{"recipients": ' + b"[" * 300 + b"]" * 300 + b', "from": "MyApp", "message": "x"}'
    response = await api.http.post("/v1/send/bulk", content=raw, headers={"Content-Type": "application/json"})
    assert problem(response, 400).code == "not_json"


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"text"'])
async def test_json_that_is_no_object_is_a_422(api: GatewayClient, raw: bytes) -> None:
    assert problem(await api.send_raw(raw), 422).code == "not_an_object"


async def test_of_a_repeated_key_the_last_one_counts(api: GatewayClient) -> None:
    raw = b'{"to": "nonsense", "from": "MyApp", "message": "x", "to": "+15555550100"}'
    assert (await api.send_raw(raw)).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/jsonp", "application/json; charset=latin-1"])
async def test_another_content_type_is_a_415(api: GatewayClient, content_type: str) -> None:
    assert problem(await api.send_raw(orjson.dumps(body()), content_type), 415).code == "not_json_type"


async def test_a_body_over_the_limit_is_a_413(api: GatewayClient) -> None:
    assert problem(await api.send(body(message="x" * 30_000)), 413).code == "body_too_large"


async def test_a_chunked_body_over_the_limit_is_a_413(api: GatewayClient) -> None:
    async def chunks() -> Any:
        for _ in range(40):
            yield b" " * 1000

    response = await api.http.post("/v1/send", content=chunks(), headers={"Content-Type": "application/json"})
    assert problem(response, 413).code == "body_too_large"


async def test_a_content_length_over_the_limit_is_refused_unread(api: GatewayClient) -> None:
    request = api.http.build_request("POST", "/v1/send", content=b" " * 30_001)
    request.headers["Content-Type"] = "application/json"
    assert problem(await api.http.send(request), 413).code == "body_too_large"


async def test_too_many_recipients_are_a_422(api: GatewayClient) -> None:
    refused = problem(await api.bulk(bulk_body(*(f"+1555555{number:04}" for number in range(1201)))), 422)
    assert (refused.code, refused.errors[0].field) == ("too_many_recipients", "recipients")


async def test_a_bulk_needs_a_recipient(api: GatewayClient) -> None:
    assert problem(await api.bulk(bulk_body()), 422).code == "no_recipients"


async def test_recipients_must_be_a_list(api: GatewayClient) -> None:
    assert problem(await api.bulk(bulk_body() | {"recipients": "+15555550100"}), 422).code == "wrong_type"


async def test_a_bulk_of_bad_numbers_names_each_of_them(api: GatewayClient) -> None:
    refused = problem(await api.bulk(bulk_body("0015555550100", 7, "+1555")), 422)
    assert refused.code == "no_valid_recipients"
    assert [(error.field, error.code) for error in refused.errors] == [
        ("recipients.0", "number_missing_plus"),
        ("recipients.1", "invalid_number"),
        ("recipients.2", "number_too_short"),
    ]


async def test_a_bulk_is_checked_like_a_send(api: GatewayClient) -> None:
    assert problem(await api.bulk(bulk_body("+15555550100", message="")), 422).code == "empty_message"
