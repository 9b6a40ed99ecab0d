"""The OpenAPI document. Handlers that read their body themselves say here what is in it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

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


def body_of(model: str) -> dict[str, Any]:
    """The `requestBody` of a handler that reads `model` from the raw body."""
    return {"required": True, "content": {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a handler that may answer with these problems."""
    content = {"application/problem+json": {"schema": {"$ref": _REF.format(model="ProblemReply")}}}
    return {status: {"description": TITLES[status], "content": content} for status in statuses}


def document(app: FastAPI) -> dict[str, Any]:
    """The application's document."""
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, schemas = models_json_schema(
        [
            *((model, "validation") for model in (SendRequest, BulkRequest, *WEBHOOK_REQUESTS, SuppressionRequest)),
            (ProblemReply, "serialization"),
        ],
        ref_template=_REF,
    )
    components = made["components"]
    own = {name: schema for name, schema in components["schemas"].items() if name not in _FASTAPI_ERRORS}
    components["schemas"] = dict(sorted((own | schemas["$defs"]).items()))
    components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _correct(operation, secured=not path.startswith(_UNSECURED))
    return made


def _correct(operation: dict[str, Any], *, secured: bool) -> None:
    if secured:
        operation["security"] = [{"apiKey": []}]
    # FastAPI adds a 422 of its own wherever a path has a parameter.
    if "application/json" in operation["responses"].get("422", {}).get("content", {}):
        del operation["responses"]["422"]
