"""`/v1/suppressions`: numbers that a client must not send to, whichever the provider."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import actor, allowed
from service.api.admission import Admission
from service.api.context import api_of
from service.api.cursor import read_cursor, write_cursor
from service.api.draft import check_filter, check_number
from service.api.hangup import WatchedRoute
from service.api.intake import read_csv, read_json, small_body_bytes
from service.api.openapi import body_of, refusals
from service.api.problems import invalid
from service.api.replies import json_reply, utc_text
from service.api.suppression_models import (
    ImportReply,
    SuppressionList,
    SuppressionQuery,
    SuppressionReply,
    SuppressionRequest,
)
from service.errors import FieldError, Problem
from service.storage.clients import Principal

router = APIRouter(tags=["Suppressions"], route_class=WatchedRoute)

Reader = Annotated[Principal, allowed("admin", Admission.reading)]
Writer = Annotated[Principal, allowed("admin", Admission.changing)]
Importer = Annotated[Principal, allowed("admin", Admission.importing)]

MAX_ROWS: Final = 10_000
_CSV_BODY: Final = {
    "required": True,
    "content": {
        "text/csv": {
            "schema": {"type": "string", "format": "binary"},
            "example": "number\n+15555550300\n+447700900123\n",
        }
    },
}


@router.get(
    "/v1/suppressions",
    operation_id="listSuppressions",
    summary="List suppressed numbers",
    response_model=None,
    responses={200: {"model": SuppressionList}, **refusals(401, 403, 422, 503)},
)
async def list_suppressions(request: Request, caller: Reader, query: Annotated[SuppressionQuery, Query()]) -> Response:
    """This client's own list, in the order of the numbers."""
    runtime = api_of(request).runtime
    if query.number is not None and (errors := check_filter("number", query.number)):
        raise invalid(errors)
    of = ["suppressions", caller.client_id.hex, query.number]
    after = read_cursor(runtime.keyring, of, query.cursor) if query.cursor is not None else ""
    found = await runtime.reads.suppressions.page(
        caller.client_id, after=after, number=query.number, limit=query.limit + 1
    )
    shown, more = found[: query.limit], len(found) > query.limit
    return json_reply(
        {
            "suppressions": [_shown(dict(row)) for row in shown],
            "next_cursor": write_cursor(runtime.keyring, of, shown[-1]["number"]) if more else None,
        }
    )


@router.post(
    "/v1/suppressions",
    operation_id="addSuppression",
    summary="Suppress a number",
    response_model=None,
    responses={200: {"model": SuppressionReply}, **refusals(400, 401, 403, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("SuppressionRequest")},
)
async def add_suppression(request: Request, caller: Writer) -> Response:
    """From now on this client's messages to it fail as `suppressed`. A number on the list stays as it is there."""
    api = api_of(request)
    runtime = api.runtime
    body = (await read_json(request, SuppressionRequest, small_body_bytes(runtime.config.limits))).fields
    _check(body.number)
    async with api.admission.change_turns.turn(caller.client_id):
        row = await runtime.suppressions.put(
            caller.client_id, body.number, reason=body.reason, source="api", by=actor(caller)
        )
    return json_reply(_shown(dict(row)))


@router.delete(
    "/v1/suppressions/{number}",
    operation_id="removeSuppression",
    summary="Send to a number again",
    status_code=204,
    response_model=None,
    responses=refusals(401, 403, 404, 422, 503),
)
async def remove_suppression(
    request: Request, number: str, caller: Annotated[Principal, allowed("admin", Admission.changing_now)]
) -> Response:
    """A number that opted out at the provider will be refused there again."""
    _check(number)
    if not await api_of(request).runtime.suppressions.remove(caller.client_id, number, by=actor(caller)):
        raise Problem(404, "suppression_not_found", "This number is not on this client's list.")
    return Response(status_code=204)


@router.post(
    "/v1/suppressions/import",
    operation_id="importSuppressions",
    summary="Suppress the numbers of a CSV file",
    response_model=None,
    responses={200: {"model": ImportReply}, **refusals(400, 401, 403, 413, 415, 422, 503)},
    openapi_extra={"requestBody": _CSV_BODY},
)
async def import_suppressions(request: Request, caller: Importer) -> Response:
    """A file with a column `number`, or with one column; at most 10,000 rows. Good rows are stored, bad ones listed.

    The same file again adds nothing.
    """
    api = api_of(request)
    raw = await read_csv(request, api.runtime.config.limits.max_body_bytes)
    async with api.admission.change_turns.turn(caller.client_id):
        file = _read_file(raw)
        added = await api.runtime.suppressions.add(
            caller.client_id, file.numbers, reason="imported", source="import", by=actor(caller)
        )
    return json_reply(
        {
            "added": added,
            "known": len(file.numbers) - added,
            "rejected": len(file.errors),
            "errors": file.errors,
        }
    )


@dataclass(slots=True)
class _File:
    numbers: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)


def _read_file(text: str) -> _File:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        # Empty lines count as rows here: however the file is made, this ends.
        rows = [(reader.line_num, row) for row in islice(reader, MAX_ROWS + 2)]
    except csv.Error:
        raise Problem(400, "not_csv", "Send CSV: fields separated by commas, quoted where they hold one.") from None
    if len(rows) > MAX_ROWS + 1:
        raise Problem(422, "too_many_rows", f"Send at most {MAX_ROWS} rows; split the file.")
    rows = [(line, row) for line, row in rows if any(map(str.strip, row))]
    if not rows:
        raise Problem(422, "no_rows", "Send at least one number.")
    column, rows = _column(rows)
    file = _File()
    for line, row in rows:
        number = row[column].strip() if column < len(row) else ""
        if error := check_number(number):
            file.errors.append({"line": line, "code": error.code, "detail": error.detail})
        else:
            file.numbers.append(number)
    return file


def _column(rows: list[tuple[int, list[str]]]) -> tuple[int, list[tuple[int, list[str]]]]:
    """Where the numbers stand, and the rows without the header."""
    header = [name.strip().lower() for name in rows[0][1]]
    if "number" in header:
        return header.index("number"), rows[1:]
    if any(len(row) > 1 for _, row in rows):
        raise Problem(422, "no_number_column", "Name the column with the numbers `number` in the first line.")
    return 0, rows


def _check(number: str) -> None:
    if error := check_number(number):
        raise invalid([FieldError("number", error.code, error.detail)])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": row["number"],
        "reason": row["reason"],
        "source": row["source"],
        "created_at": utc_text(row["created_at"]),
    }
