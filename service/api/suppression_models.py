"""The JSON of `/v1/suppressions`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from service.api.models import Page, Reply, Strict, Text

_EXAMPLE: Final[dict[str, Any]] = {
    "number": "+15555550300",
    "reason": "opted_out",
    "source": "provider:primary",
    "created_at": "2026-01-31T09:30:00.123Z",
}


class SuppressionQuery(Page):
    """Which suppressions."""

    number: Annotated[str | None, Field(description="In E.164. Write `+` as `%2B`.")] = None


class SuppressionRequest(Strict):
    """A number that must not be sent to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"number": "+15555550300", "reason": "asked by phone"}]})

    number: str = Field(description="In E.164.")
    reason: Annotated[Text, Field(min_length=1, max_length=128)] = Field(
        default="manual", description="Your own words."
    )


class SuppressionReply(Reply):
    """A number that this client does not send to, whichever the provider."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    number: str
    reason: str
    source: str = Field(description="`api`, `import`, or `provider:<account>` where a provider said so.")
    created_at: datetime


class SuppressionList(Reply):
    """In the order of the numbers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"suppressions": [_EXAMPLE], "next_cursor": None}]})

    suppressions: list[SuppressionReply]
    next_cursor: str | None = Field(description="Where the next page begins. Null: this was the last.")


class BadRow(Reply):
    """A row of the file that was left out. The first line is 1."""

    line: int
    code: str
    detail: str


class ImportReply(Reply):
    """What came of a file. `known` were on the list already, or stood in the file before."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "added": 2,
                    "known": 0,
                    "rejected": 1,
                    "errors": [{"line": 4, "code": "number_too_short", "detail": "The number is too short."}],
                }
            ]
        }
    )

    added: int
    known: int
    rejected: int
    errors: list[BadRow]
