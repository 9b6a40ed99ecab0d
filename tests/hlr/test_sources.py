"""Look-ups: what a source asks, and that only a clear answer about the number itself says anything."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.hlr import HlrResult, HlrStatus
from service.errors import ConfigurationError
from service.hlr import SOURCES, build
from service.hlr.source import HlrAccount

NUMBER = "+447700900123"
NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
ACCOUNT = HlrAccount(name="lookups", base_url="https://api.smsroute.example/", api_key="sk_live_do_not_show")
ACCOUNTS = {
    "smsroute": ACCOUNT,
    "twilio": replace(ACCOUNT, api_key=f"AC{'0123456789abcdef' * 2}:token_do_not_show"),
}
UNKNOWN = HlrResult(NUMBER, HlrStatus.UNKNOWN, NOW, "lookups")
FULL: dict[str, object] = {
    "number": NUMBER,
    "status": "active",
    "country": "GB",
    "mcc": "234",
    "mnc": "015",
    "network": "Vodafone",
    "line_type": "mobile",
    "ported": True,
    "roaming": False,
    "error_code": 0,
    "checked_at": "2027-01-15T07:30:00Z",
    "cached": True,
    "source": "network",
}


def lookup(status_code: int = 200, /, **fields: object) -> HlrResult:
    reply = {name: value for name, value in (FULL | fields).items() if value is not ...}
    response = httpx.Response(status_code, content=orjson.dumps(reply))
    return build("smsroute", ACCOUNT).lookup_result(NUMBER, response, NOW)


def test_the_number_is_percent_encoded_in_the_path() -> None:
    request = build("smsroute", ACCOUNT).lookup_request(NUMBER)
    assert (request.method, str(request.url)) == ("GET", "https://api.smsroute.example/v1/hlr/%2B447700900123")
    assert request.headers["authorization"] == "Bearer sk_live_do_not_show"


def test_a_number_cannot_leave_its_place_in_the_path() -> None:
    request = build("smsroute", ACCOUNT).lookup_request("+44/../../keys?a#b")
    assert request.url.raw_path == b"/v1/hlr/%2B44%2F..%2F..%2Fkeys%3Fa%23b"


def test_everything_that_the_reply_says_is_kept() -> None:
    assert lookup() == HlrResult(
        number=NUMBER,
        status=HlrStatus.ACTIVE,
        checked_at=datetime(2027, 1, 15, 7, 30, tzinfo=UTC),
        source="lookups",
        mcc="234",
        mnc="015",
        network="Vodafone",
        line_type="mobile",
        ported=True,
        roaming=False,
        error_code=0,
    )


@pytest.mark.parametrize("status", HlrStatus)
def test_every_status_is_understood(status: HlrStatus) -> None:
    assert lookup(status=status.value).status is status


@pytest.mark.parametrize("code", [100, 201, 204, 301, 400, 401, 403, 404, 422, 429, 500, 503])
def test_an_error_never_concludes_that_a_number_is_invalid(code: int) -> None:
    assert lookup(code, status="invalid", code="invalid_number") == UNKNOWN


@pytest.mark.parametrize(
    "fields",
    [{"status": "teleported"}, {"status": None}, {"status": ["active"]}, {"number": "+447700900124"}, {"number": ...}],
)
def test_a_reply_that_is_not_understood_or_about_another_number_is_unknown(fields: dict[str, object]) -> None:
    assert lookup(**fields) == UNKNOWN


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"status": "inv', b"[" * 100_000])
def test_a_reply_that_is_no_json_object_is_unknown(body: bytes) -> None:
    assert build("smsroute", ACCOUNT).lookup_result(NUMBER, httpx.Response(200, content=body), NOW) == UNKNOWN


@pytest.mark.parametrize("value", [None, "true", 1, 0, "no", ...])
def test_ported_and_roaming_are_never_guessed(value: object) -> None:
    result = lookup(ported=value, roaming=value)
    assert (result.ported, result.roaming) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mcc", 234),
        ("mcc", "23"),
        ("mcc", "٢٣٤"),
        ("mnc", "1"),
        ("mnc", "0150"),
        ("network", ""),
        ("network", "a\0b"),
        ("network", "x" * 129),
        ("line_type", {}),
        ("error_code", True),
        ("error_code", "27"),
        ("error_code", 256),
        ("error_code", -1),
        ("error_code", ...),
    ],
)
def test_a_field_that_is_not_understood_is_none_and_spoils_no_other(field: str, value: object) -> None:
    assert asdict(lookup(**{field: value})) == asdict(lookup()) | {field: None}


@pytest.mark.parametrize("checked_at", [None, 7, "soon", "2027-01-15T07:30:00", "0001-01-01T00:00:00+14:00", ...])
def test_without_a_clear_time_it_was_checked_now(checked_at: object) -> None:
    assert lookup(checked_at=checked_at).checked_at == NOW


def test_a_look_up_is_never_from_the_future() -> None:
    assert lookup(checked_at=(NOW + timedelta(seconds=1)).isoformat()).checked_at == NOW


@given(
    code=st.integers(100, 999),
    body=st.binary()
    | st.dictionaries(
        st.sampled_from(sorted(FULL)),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.sampled_from([NUMBER, "invalid"]),
    ).map(orjson.dumps),
)
@settings(deadline=None)
@pytest.mark.parametrize("source", SOURCES)
def test_no_answer_makes_a_source_raise(source: str, code: int, body: bytes) -> None:
    result = build(source, ACCOUNTS[source]).lookup_result(NUMBER, httpx.Response(code, content=body), NOW)
    assert (result.number, result.source) == (NUMBER, "lookups")
    assert result.status is not HlrStatus.INVALID or (code == 200 and b"invalid" in body)


@pytest.mark.parametrize("source", SOURCES)
def test_the_key_shows_in_no_repr(source: str) -> None:
    account = ACCOUNTS[source]
    made = build(source, account)
    request = made.lookup_request(NUMBER)
    shown = f"{account!r} {made!r} {request!r} {request.headers!r}"
    assert account.api_key.rpartition(":")[2] not in shown


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"lookups.*smsroute"):
        build("nobody", ACCOUNT)


@pytest.mark.parametrize("key", ["", "sk live", "sk\nlive", "clé"])
def test_an_api_key_that_cannot_be_a_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"lookups.*api_key") as error:
        build("smsroute", replace(ACCOUNT, api_key=key))
    assert not key or key not in str(error.value)
