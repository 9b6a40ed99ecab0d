"""Look-ups over the smsroute API: `GET /v1/hlr/{number}`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson

from service.domain.hlr import HlrResult, HlrStatus
from service.errors import ConfigurationError
from service.hlr.source import HlrAccount

STATUSES: Final = {status.value: status for status in HlrStatus}

_KEY: Final = re.compile(r"[\x21-\x7e]+")
_MCC: Final = re.compile(r"[0-9]{3}")
_MNC: Final = re.compile(r"[0-9]{2,3}")
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")


class SmsRouteHlr:
    """One account at smsroute. See `service.hlr.source.HlrSource` for the contract of each method.

    Raises:
        ConfigurationError: the API key cannot be a header.
    """

    def __init__(self, account: HlrAccount) -> None:
        if not _KEY.fullmatch(account.api_key):
            raise ConfigurationError(f"HLR source {account.name}: `api_key` must be visible ASCII, no spaces")
        self._name = account.name
        self._url = account.base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {account.api_key}"}

    def lookup_request(self, number: str) -> httpx.Request:
        """The `+` goes out as `%2B`."""
        return httpx.Request("GET", f"{self._url}/v1/hlr/{quote(number, safe='')}", headers=self._headers)

    def lookup_result(self, number: str, response: httpx.Response, now: datetime) -> HlrResult:
        """Only a 200 about this very number says anything."""
        reply = _object(response.content) if response.status_code == httpx.codes.OK else {}
        status = reply.get("status")
        if reply.get("number") != number or not isinstance(status, str) or status not in STATUSES:
            return HlrResult(number, HlrStatus.UNKNOWN, now, self._name)
        return HlrResult(
            number=number,
            status=STATUSES[status],
            checked_at=_checked_at(reply.get("checked_at"), now),
            source=self._name,
            mcc=_text(_MCC, reply.get("mcc")),
            mnc=_text(_MNC, reply.get("mnc")),
            network=_text(_TEXT, reply.get("network")),
            line_type=_text(_TEXT, reply.get("line_type")),
            ported=_flag(reply.get("ported")),
            roaming=_flag(reply.get("roaming")),
            error_code=_map_error(reply.get("error_code")),
        )


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; an empty one when it holds anything else."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _checked_at(value: object, now: datetime) -> datetime:
    """When the network was asked: smsroute may answer from a cache. `now` when it does not say, or says the future."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else now
        return min(at.astimezone(UTC), now) if at.tzinfo is not None else now
    except (ValueError, OverflowError):
        return now


def _text(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _map_error(value: object) -> int | None:
    """A GSM MAP error is one byte. Note that JSON's `true` is an int in Python."""
    return value if type(value) is int and 0 <= value <= 255 else None  # noqa: PLR2004 - one byte
