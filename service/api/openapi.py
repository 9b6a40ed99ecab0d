"""The OpenAPI document. Handlers that read their body themselves say here what is in it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.api.models import BulkRequest, ProblemReply, SendRequest

_REF: Final = "#/components/schemas/{model}"
_UNSECURED: Final = ("/v1/receipts/", "/healthz", "/readyz", "/metrics")

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
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def document(app: FastAPI) -> dict[str, Any]:
    """The application's document."""
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, schemas = models_json_schema(
        [(SendRequest, "validation"), (BulkRequest, "validation"), (ProblemReply, "serialization")], ref_template=_REF
    )
    components = made["components"]
    components["schemas"] = dict(sorted((components["schemas"] | schemas["$defs"]).items()))
    components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        if not path.startswith(_UNSECURED):
            for operation in operations.values():
                operation["security"] = [{"apiKey": []}]
    return made
