"""Strict reading of requests, and errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Final, TypeVar

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError

from service.errors import FieldError, Problem

Model = TypeVar("Model", bound=BaseModel)

_FRAMEWORK: Final = {
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "Use one of the methods in `Allow`."),
    413: ("body_too_large", "Send fewer recipients at a time: the body may have 1 MiB."),
}


async def read_json(request: web.Request) -> tuple[bytes, object]:
    """The body, raw and decoded.

    Raises:
        Problem: 415 it is not JSON by its type; 400 it is not JSON.
    """
    if request.content_type != "application/json":
        raise Problem(415, "unsupported_media_type", "Send JSON, with `Content-Type: application/json`.")
    raw = await request.read()
    try:
        return raw, orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Problem(400, "invalid_json", "Send one JSON value in UTF-8.") from None


def parse(model: type[Model], raw: bytes) -> Model:
    """Validate a JSON body.

    Raises:
        Problem: 422, with one entry for each bad field.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as invalid:
        errors = tuple(
            FieldError(".".join(map(str, error["loc"])), error["type"], error["msg"])
            for error in invalid.errors(include_url=False, include_input=False, include_context=False)
        )
        raise Problem(422, "invalid_request", "Correct the fields listed in `errors`.", errors=errors) from None


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every refusal, the framework's own too, into `application/problem+json`."""
    try:
        return await handler(request)
    except Problem as problem:
        return _response(problem)
    except web.HTTPException as error:
        code, detail = _FRAMEWORK[error.status]
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _response(Problem(error.status, code, detail, headers=headers))


def _response(problem: Problem) -> web.Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "errors": problem.errors,
        "request_id": f"req_{secrets.token_hex(8)}",
    }
    return web.Response(
        status=problem.status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers=problem.headers,
    )
