"""Look-ups over Twilio Lookup v2 (https://www.twilio.com/docs/lookup/v2-api).

Line type and network come from its numbering data; whether the phone is reachable comes from the network itself, for
the accounts that have been granted `line_status`. For all others the status is `unknown`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson

from service.domain.hlr import HlrResult, HlrStatus
from service.errors import ConfigurationError
from service.hlr.source import HlrAccount

# `inactive`: not assigned to anybody.
STATUSES: Final = {
    "active": HlrStatus.ACTIVE,
    "reachable": HlrStatus.ACTIVE,
    "unreachable": HlrStatus.ABSENT,
    "inactive": HlrStatus.INVALID,
}

# The ways in which a number can be no number at all. `INVALID_BUT_POSSIBLE` is not one of them: numbering data lags
# behind the networks.
NO_NUMBER: Final = frozenset({"TOO_SHORT", "TOO_LONG", "INVALID_LENGTH", "INVALID_COUNTRY_CODE", "NOT_A_NUMBER"})

_CREDENTIALS: Final = re.compile(r"(AC[0-9a-fA-F]{32}):(?:(SK[0-9a-fA-F]{32}):)?([\x21-\x39\x3b-\x7e]+)")
_MCC: Final = re.compile(r"[0-9]{3}")
_MNC: Final = re.compile(r"[0-9]{2,3}")
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class TwilioLookup:
    """One account at Twilio. See `service.hlr.source.HlrSource` for the contract of each method.

    `api_key` is `AC...:auth token` or `AC...:SK...:secret`.

    Raises:
        ConfigurationError: the API key has neither form.
    """

    def __init__(self, account: HlrAccount) -> None:
        credentials = _CREDENTIALS.fullmatch(account.api_key)
        if credentials is None:
            raise ConfigurationError(
                f"HLR source {account.name}: `api_key` must be `AC...:auth token` or `AC...:SK...:secret`"
            )
        sid, key_sid, secret = credentials.groups()
        self._name = account.name
        self._url = account.base_url.rstrip("/")
        basic = b64encode(f"{key_sid or sid}:{secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}", "Accept": "application/json"}

    def lookup_request(self, number: str) -> httpx.Request:
        """The `+` goes out as `%2B`."""
        url = f"{self._url}/v2/PhoneNumbers/{quote(number, safe='')}"
        return httpx.Request("GET", url, headers=self._headers, params={"Fields": "line_type_intelligence,line_status"})

    def lookup_result(self, number: str, response: httpx.Response, now: datetime) -> HlrResult:
        """Only a 200 about this very number says anything. Twilio does not tell `ported` and `roaming`."""
        reply = _object(response.content) if response.status_code == httpx.codes.OK else {}
        if reply.get("phone_number") != number:
            return HlrResult(number, HlrStatus.UNKNOWN, now, self._name)
        line = reply.get("line_type_intelligence")
        line = line if isinstance(line, dict) else {}
        return HlrResult(
            number=number,
            status=_status(reply),
            checked_at=now,
            source=self._name,
            mcc=_text(_MCC, line.get("mobile_country_code")),
            mnc=_text(_MNC, line.get("mobile_network_code")),
            network=_text(_TEXT, line.get("carrier_name")),
            line_type=_text(_TEXT, line.get("type")),
        )


def _status(reply: dict[str, Any]) -> HlrStatus:
    """What the network says, and where it says nothing, whether this can be a number."""
    line = reply.get("line_status")
    said = line.get("status") if isinstance(line, dict) else None
    if isinstance(said, str) and said.lower() in STATUSES:
        return STATUSES[said.lower()]
    errors = reply.get("validation_errors")
    impossible = isinstance(errors, list) and any(isinstance(error, str) and error in NO_NUMBER for error in errors)
    return HlrStatus.INVALID if reply.get("valid") is False and impossible else HlrStatus.UNKNOWN


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty one when it holds anything else."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _text(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None
