"""Look-ups at Twilio: what it says of a line, and that `invalid` is never concluded from less than a clear word."""

from __future__ import annotations

import base64
from dataclasses import asdict
from datetime import UTC, datetime

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.hlr import HlrResult, HlrStatus
from service.errors import ConfigurationError
from service.hlr.source import HlrAccount
from service.hlr.twilio import NO_NUMBER, STATUSES, TwilioLookup

NUMBER = "+447700900123"
NOW = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
SID = "AC" + "0123456789abcdef" * 2
KEY_SID = "SK" + "0123456789abcdef" * 2
ACCOUNT = HlrAccount("lookups", "https://lookups.twilio.example/", f"{SID}:token_do_not_show")
UNKNOWN = HlrResult(NUMBER, HlrStatus.UNKNOWN, NOW, "lookups")
LINE: dict[str, object] = {
    "mobile_country_code": "234",
    "mobile_network_code": "15",
    "carrier_name": "Vodafone",
    "type": "mobile",
    "error_code": None,
}
FULL: dict[str, object] = {
    "calling_country_code": "44",
    "country_code": "GB",
    "phone_number": NUMBER,
    "national_format": "07700 900123",
    "valid": True,
    "validation_errors": None,
    "line_type_intelligence": LINE,
    "line_status": {"status": "reachable", "error_code": None},
}


def lookup(status_code: int = 200, /, **fields: object) -> HlrResult:
    reply = {name: value for name, value in (FULL | fields).items() if value is not ...}
    return TwilioLookup(ACCOUNT).lookup_result(NUMBER, httpx.Response(status_code, content=orjson.dumps(reply)), NOW)


def test_it_asks_for_the_line_type_and_the_status_of_one_number() -> None:
    request = TwilioLookup(ACCOUNT).lookup_request(NUMBER)
    assert request.method == "GET"
    assert request.url.raw_path == (b"/v2/PhoneNumbers/%2B447700900123?Fields=line_type_intelligence%2Cline_status")
    assert base64.b64decode(request.headers["authorization"].split()[1]).decode() == ACCOUNT.api_key


def test_an_api_key_signs_in() -> None:
    source = TwilioLookup(HlrAccount("lookups", "https://lookups.twilio.example", f"{SID}:{KEY_SID}:secret"))
    request = source.lookup_request(NUMBER)
    assert base64.b64decode(request.headers["authorization"].split()[1]).decode() == f"{KEY_SID}:secret"


def test_a_number_cannot_leave_its_place_in_the_path() -> None:
    request = TwilioLookup(ACCOUNT).lookup_request("+44/../../keys?a#b")
    assert request.url.raw_path.startswith(b"/v2/PhoneNumbers/%2B44%2F..%2F..%2Fkeys%3Fa%23b?Fields=")


def test_everything_that_the_reply_says_is_kept() -> None:
    assert lookup() == HlrResult(
        number=NUMBER,
        status=HlrStatus.ACTIVE,
        checked_at=NOW,
        source="lookups",
        mcc="234",
        mnc="15",
        network="Vodafone",
        line_type="mobile",
        ported=None,
        roaming=None,
        error_code=None,
    )


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("active", HlrStatus.ACTIVE),
        ("reachable", HlrStatus.ACTIVE),
        ("Unreachable", HlrStatus.ABSENT),
        ("inactive", HlrStatus.INVALID),
        ("unknown", HlrStatus.UNKNOWN),
        ("teleported", HlrStatus.UNKNOWN),
        (None, HlrStatus.UNKNOWN),
        (["inactive"], HlrStatus.UNKNOWN),
    ],
)
def test_the_status_of_the_line_is_what_the_network_says(word: object, status: HlrStatus) -> None:
    assert lookup(line_status={"status": word, "error_code": None}).status is status


@pytest.mark.parametrize("line_status", [..., None, [], "inactive", {"status": None, "error_code": 60606}])
def test_without_the_status_of_the_line_the_rest_is_kept(line_status: object) -> None:
    assert asdict(lookup(line_status=line_status)) == asdict(lookup()) | {"status": HlrStatus.UNKNOWN}


@pytest.mark.parametrize(
    ("valid", "errors", "status"),
    [
        (False, ["TOO_SHORT"], HlrStatus.INVALID),
        (False, ["TOO_LONG"], HlrStatus.INVALID),
        (False, ["INVALID_LENGTH"], HlrStatus.INVALID),
        (False, ["INVALID_COUNTRY_CODE"], HlrStatus.INVALID),
        (False, ["NOT_A_NUMBER"], HlrStatus.INVALID),
        (False, ["INVALID_BUT_POSSIBLE"], HlrStatus.UNKNOWN),
        (False, [], HlrStatus.UNKNOWN),
        (False, None, HlrStatus.UNKNOWN),
        (False, "TOO_SHORT", HlrStatus.UNKNOWN),
        (False, [["TOO_SHORT"], 7], HlrStatus.UNKNOWN),
        (True, ["TOO_SHORT"], HlrStatus.UNKNOWN),
        (None, ["TOO_SHORT"], HlrStatus.UNKNOWN),
        ("false", ["TOO_SHORT"], HlrStatus.UNKNOWN),
    ],
)
def test_a_number_is_invalid_only_when_it_cannot_be_one(valid: object, errors: object, status: HlrStatus) -> None:
    result = lookup(valid=valid, validation_errors=errors, line_status=None, line_type_intelligence=None)
    assert result.status is status


def test_the_network_knows_better_than_the_numbering_data() -> None:
    assert lookup(valid=False, validation_errors=["TOO_LONG"]).status is HlrStatus.ACTIVE


@pytest.mark.parametrize("code", [100, 201, 204, 301, 400, 401, 403, 404, 422, 429, 500, 503])
def test_an_error_never_concludes_that_a_number_is_invalid(code: int) -> None:
    assert lookup(code, line_status={"status": "inactive"}, code=20404) == UNKNOWN


@pytest.mark.parametrize("number", ["+447700900124", None, 447700900123, ...])
def test_a_reply_about_another_number_is_unknown(number: object) -> None:
    assert lookup(phone_number=number) == UNKNOWN


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"valid": fal', b"[" * 100_000])
def test_a_reply_that_is_no_json_object_is_unknown(body: bytes) -> None:
    assert TwilioLookup(ACCOUNT).lookup_result(NUMBER, httpx.Response(200, content=body), NOW) == UNKNOWN


@pytest.mark.parametrize(
    ("theirs", "ours", "value"),
    [
        ("mobile_country_code", "mcc", "US"),
        ("mobile_country_code", "mcc", 234),
        ("mobile_network_code", "mnc", "0150"),
        ("carrier_name", "network", ""),
        ("carrier_name", "network", "a\0b"),
        ("type", "line_type", None),
    ],
)
def test_a_field_that_is_not_understood_is_none_and_spoils_no_other(theirs: str, ours: str, value: object) -> None:
    assert asdict(lookup(line_type_intelligence=LINE | {theirs: value})) == asdict(lookup()) | {ours: None}


WORDS = st.sampled_from([*STATUSES, *NO_NUMBER, NUMBER, "status"])
VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | WORDS | st.text()


@given(
    fields=st.dictionaries(
        st.sampled_from(sorted(FULL)),
        st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner)),
    )
)
@settings(deadline=None)
def test_no_field_makes_it_raise(fields: dict[str, object]) -> None:
    body = orjson.dumps(FULL | fields)
    result = TwilioLookup(ACCOUNT).lookup_result(NUMBER, httpx.Response(200, content=body), NOW)
    assert result.number == NUMBER


@pytest.mark.parametrize("key", ["", "token", SID, f"{SID}:", f"{KEY_SID}:token", f"{SID}:SK1:token", f"{SID}:to ken"])
def test_credentials_of_another_form_are_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"lookups.*api_key") as error:
        TwilioLookup(HlrAccount("lookups", "https://lookups.twilio.example", key))
    assert key in {"", "token"} or key not in str(error.value)
