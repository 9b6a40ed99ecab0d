"""The OpenAPI document. Handlers that read their body themselves say here what is in it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from service.api.admin_models import REQUESTS as ADMIN_REQUESTS
from service.api.examples import LIMITED, LINKS, PATH_PARTS, TAGS, Shown, problem
from service.api.models import BulkRequest, ProblemReply, SendRequest
from service.api.problems import TITLES
from service.api.suppression_models import SuppressionRequest
from service.api.webhook_models import REQUESTS as WEBHOOK_REQUESTS

_REF: Final = "#/components/schemas/{model}"
_UNSECURED: Final = ("/v1/receipts/", "/healthz", "/readyz", "/metrics")

_FASTAPI_ERRORS: Final = frozenset({"HTTPValidationError", "ValidationError"})

IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body returns the first answer again and sends nothing.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_REPLAYED: Final = {"Idempotency-Replayed": ("`true`: this is the first answer again.", "true")}
_HEADERS: Final = {
    401: {"WWW-Authenticate": ("How to send the key.", "Bearer")},
    429: {"Retry-After": ("Seconds to wait.", "2")},
    503: {"Retry-After": ("Seconds to wait.", "1")},
}
_RATE_LIMIT: Final = {
    "RateLimit": ("Which limit, what of it remains, and in how many seconds there is more.", '"send";r=0;t=2'),
    "RateLimit-Policy": ("The limit: how many within how many seconds.", '"send";q=100;w=2'),
}
_PROBLEM_JSON: Final = "application/problem+json"


def body_of(model: str) -> dict[str, Any]:
    """The `requestBody` of a handler that reads `model` from the raw body."""
    return {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a handler that may answer with these problems."""
    content = {_PROBLEM_JSON: {"schema": {"$ref": _REF.format(model="ProblemReply")}}}
    # Whoever is known by a key may ask for too much at once.
    heard = sorted({*statuses, HTTPStatus.TOO_MANY_REQUESTS.value}) if HTTPStatus.UNAUTHORIZED in statuses else statuses
    return {status: {"description": TITLES[status], "content": content} for status in heard}


def document(app: FastAPI) -> dict[str, Any]:
    """The application's document."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
        license_info={"name": "MIT", "identifier": "MIT"},
    )
    components = made["components"]
    own = {name: schema for name, schema in components["schemas"].items() if name not in _FASTAPI_ERRORS}
    components["schemas"] = dict(sorted((own | _schemas(app)).items()))
    components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _complete(operation, components["schemas"], secured=not path.startswith(_UNSECURED))
    return made


def _schemas(app: FastAPI) -> dict[str, Any]:
    """Of the bodies, which FastAPI does not see, and of the answers, whose examples lose their nulls to it."""
    answers = (answer for route in app.routes if isinstance(route, APIRoute) for answer in route.responses.values())
    replies = {answer["model"]: None for answer in answers if "model" in answer}
    _, schemas = models_json_schema(
        [
            *(
                (model, "validation")
                for model in (SendRequest, BulkRequest, *WEBHOOK_REQUESTS, SuppressionRequest, *ADMIN_REQUESTS)
            ),
            *((model, "serialization") for model in (ProblemReply, *replies)),
        ],
        ref_template=_REF,
    )
    return dict(schemas["$defs"])


def _complete(operation: dict[str, Any], schemas: dict[str, Any], *, secured: bool) -> None:
    """What FastAPI does not know of an operation, or knows wrongly."""
    responses, parameters = operation["responses"], operation.get("parameters", [])
    if secured:
        operation["security"] = [{"apiKey": []}]
    # FastAPI adds a 422 of its own wherever a path has a parameter.
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
    for parameter in parameters:
        if parameter["in"] == "path":
            _describe(parameter)
    for status, response in responses.items():
        content = response.get("content", {})
        if _PROBLEM_JSON in content:
            shown = _example(int(status), problem(operation, int(status)))
            response["content"] = {_PROBLEM_JSON: content[_PROBLEM_JSON] | {"example": shown}}
            headers = dict(_HEADERS.get(int(status), {}))
            if status == "429" and operation["operationId"] in LIMITED:
                headers |= _RATE_LIMIT
        else:
            reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
            response["description"] = schemas.get(reference.rpartition("/")[2], {}).get("description", "Done.")
            headers = _REPLAYED if IDEMPOTENCY_KEY in parameters else {}
            if links := LINKS.get(operation["operationId"]):
                response["links"] = {
                    target: {"operationId": target, "parameters": {name: f"$response.body#{place}"}}
                    for target, name, place in links
                }
        if headers:
            response["headers"] = {
                name: {"description": description, "schema": {"type": "string"}, "example": example}
                for name, (description, example) in headers.items()
            }


def _describe(parameter: dict[str, Any]) -> None:
    part = PATH_PARTS[parameter["name"]]
    parameter |= {"description": part.description, "example": part.example}
    if part.pattern:
        parameter["schema"] |= {"pattern": part.pattern}


def _example(status: int, shown: Shown) -> dict[str, Any]:
    errors = [{"field": shown.field, "code": shown.code, "detail": shown.detail}] if shown.field else []
    return {
        "type": f"/problems/{shown.code}",
        "title": TITLES[status],
        "status": status,
        "detail": shown.detail,
        "code": shown.code,
        "errors": errors,
        "request_id": "req_5f0a7c3e9b1d2f4a6c8e0b13",
    }
