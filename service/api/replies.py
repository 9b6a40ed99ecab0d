"""How answers are written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response


def json_reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def utc_text(at: datetime) -> str:
    """An aware UTC time as RFC 3339 with milliseconds: "2026-01-31T09:30:00.123Z"."""
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def utc_text_or_none(at: datetime | None) -> str | None:
    """The same, for times that may not have come yet."""
    return None if at is None else utc_text(at)
