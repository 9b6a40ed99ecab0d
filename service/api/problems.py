"""Every refusal as `application/problem+json` (RFC 9457). Nothing of the input is echoed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service import logs
from service.errors import CommitUnknown, FieldError, Problem, StoreError, Unstorable

log = logging.getLogger(__name__)

# pydantic's messages may quote the input, so each type of its errors has a code and a text of ours.
_BY_FIELD: Final = {
    ("to", "string_type"): ("invalid_number", "Give the number as a string in E.164: `+15555550100`."),
    ("traffic", "enum"): ("invalid_traffic", "Use `otp`, `transactional` or `marketing`, or leave it out."),
    ("status", "enum"): ("invalid_status", "Use a status of a message as documented, e.g. `delivered`."),
    ("events", "too_short"): ("no_events", "Name at least one event, or leave the field out."),
    ("recipients", "too_short"): ("no_recipients", "Give at least one recipient."),
}  # fmt: skip
_BY_TYPE: Final = {
    "missing": ("field_missing", "Add this field."),
    "extra_forbidden": ("unknown_field", "There is no such field. Correct its name or leave it out."),
    "string_type": ("wrong_type", "Give a string."),
    "int_type": ("wrong_type", "Give a whole number."),
    "int_parsing": ("wrong_type", "Give a whole number."),
    "bool_type": ("wrong_type", "Give true or false."),
    "list_type": ("wrong_type", "Give a list."),
    "enum": ("wrong_type", "Give one of the documented values."),
    "string_too_long": ("too_long", "Shorten it to the documented length."),
    "string_pattern_mismatch": ("invalid_characters", "Remove the character U+0000."),
    "greater_than_equal": ("out_of_range", "Give a number within the documented range."),
    "less_than_equal": ("out_of_range", "Give a number within the documented range."),
    "int_parsing_size": ("out_of_range", "Give a number within the documented range."),
    "invalid_time": ("invalid_time", "Give an RFC 3339 time with its offset, e.g. 2026-01-31T09:30:00Z."),
    "model_type": ("not_an_object", "Send a JSON object."),
}
_UNKNOWN_PARAMETER: Final = ("unknown_parameter", "There is no such parameter. Correct its name or leave it out.")
_OTHER: Final = ("invalid_value", "Give a value as documented.")

_STATUSES: Final = {
    404: ("not_found", "There is nothing at this path. The paths are listed at /docs."),
    405: ("method_not_allowed", "Use one of the methods in `Allow`."),
}
# Python's own phrases differ between its versions.
TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RETRY_AFTER: Final = {"Retry-After": "1"}


def invalid(errors: Iterable[FieldError]) -> Problem:
    """A 422 for bad fields. One bad field gives its code to the whole."""
    errors = tuple(errors)
    if len(errors) == 1:
        return Problem(422, errors[0].code, errors[0].detail, errors=errors)
    return Problem(422, "invalid_request", "Correct the fields listed in `errors`.", errors=errors)


def field_errors(details: Iterable[Mapping[str, Any]], *, skip: int = 0) -> list[FieldError]:
    """Errors of pydantic in our words. `skip` drops the leading parts of a location ("query")."""
    return [_field_error(".".join(_shown(part) for part in item["loc"][skip:]), item["type"]) for item in details]


def _field_error(name: str, kind: str) -> FieldError:
    code, detail = _BY_FIELD.get((name, kind)) or _BY_TYPE.get(kind, _OTHER)
    return FieldError(name, code, detail)


def _in_query(error: FieldError) -> FieldError:
    return FieldError(error.field, *_UNKNOWN_PARAMETER) if error.code == "unknown_field" else error


def _shown(part: str | int) -> str:
    """A field's name as given, if it looks like one: an unknown field may be named anything."""
    return str(part) if isinstance(part, int) or _NAME.fullmatch(part) else "?"


def answer(request: Request, problem: Problem) -> Response:
    """The answer that refuses."""
    request.scope["problem"] = problem.code
    body = {
        "type": f"/problems/{problem.code}",
        "title": TITLES.get(problem.status, "Error"),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "errors": problem.errors,
        "request_id": logs.request_id.get(),
    }
    return Response(orjson.dumps(body), problem.status, problem.headers, "application/problem+json")


def answer_store_error(request: Request, error: StoreError) -> Response:
    """The answer when the store failed."""
    log.warning("the store failed", extra={"error": str(error)})
    return answer(request, of_store(error))


def of_store(error: StoreError) -> Problem:
    """What a caller should know of the store's trouble."""
    if isinstance(error, Unstorable):
        return Problem(422, "unstorable", "The database refused this data, and nothing was stored. Change the request.")
    if isinstance(error, CommitUnknown):
        return Problem(
            503,
            "commit_unknown",
            "It may have been stored or not. Repeat it with the same Idempotency-Key: without one it may go out twice.",
            headers=_RETRY_AFTER,
        )
    return Problem(503, "overloaded", "Nothing was stored. Repeat the request later.", headers=_RETRY_AFTER)


def _of_http(request: Request, error: HTTPException) -> Problem:
    status = HTTPStatus(error.status_code)
    code, detail = _STATUSES.get(status, (status.name.lower(), f"{status.phrase}."))
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _methods(request)
    return Problem(status, code, detail, headers=headers)


def _methods(request: Request) -> str:
    """The methods of a path. Starlette knows only those of the first route that fits it."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    fixed = [route for route in routes if route.path == request.scope["path"]]
    return ", ".join(sorted({method for route in fixed or routes for method in route.methods}))


def install(app: FastAPI) -> None:
    """Have the application answer every error as a problem."""

    async def on_problem(request: Request, error: Problem) -> Response:
        return answer(request, error)

    async def on_store_error(request: Request, error: StoreError) -> Response:
        return answer_store_error(request, error)

    async def on_http_error(request: Request, error: HTTPException) -> Response:
        return answer(request, _of_http(request, error))

    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        errors = field_errors(error.errors(), skip=1)
        return answer(request, invalid(_in_query(bad) for bad in errors))

    app.exception_handler(Problem)(on_problem)
    app.exception_handler(StoreError)(on_store_error)
    app.exception_handler(HTTPException)(on_http_error)
    app.exception_handler(RequestValidationError)(on_invalid)
