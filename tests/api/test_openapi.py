from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.message_models import MessageList, MessageReply, MessageSummary, PreviewReply
from service.api.models import BulkRequest, ProblemReply, Reply, SendRequest
from service.api.suppression_models import ImportReply, SuppressionList, SuppressionReply, SuppressionRequest
from service.api.webhook_models import EndpointChangeRequest, EndpointRequest, ReplayRequest, RotateRequest
from service.app import openapi_document
from tests.api.client import GatewayClient

_FILE = Path(__file__).parents[2] / "openapi" / "openapi.json"
_OPERATIONS = {
    "/v1/send": {"post"},
    "/v1/send/bulk": {"post"},
    "/v1/batches/{batch_id}": {"get"},
    "/v1/messages": {"get"},
    "/v1/messages/{message_id}": {"get"},
    "/v1/messages/{message_id}/cancel": {"post"},
    "/v1/messages/preview": {"post"},
    "/v1/hlr/{number}": {"get"},
    "/v1/suppressions": {"get", "post"},
    "/v1/suppressions/{number}": {"delete"},
    "/v1/suppressions/import": {"post"},
    "/v1/webhooks": {"get", "post"},
    "/v1/webhooks/{endpoint_id}": {"get", "patch", "delete"},
    "/v1/webhooks/{endpoint_id}/rotate": {"post"},
    "/v1/webhooks/{endpoint_id}/test": {"post"},
    "/v1/webhooks/{endpoint_id}/deliveries": {"get"},
    "/v1/webhooks/{endpoint_id}/replay": {"post"},
    "/v1/webhooks/deliveries/{webhook_id}/replay": {"post"},
    "/v1/receipts/{account}/{token}": {"get", "post"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document()


def test_the_file_holds_the_document(document: dict[str, Any]) -> None:
    kept = json.loads(_FILE.read_text(encoding="utf-8"))
    assert kept == document, "run `sms-gateway openapi > openapi/openapi.json`"


async def test_the_served_document_is_the_same(api: GatewayClient, document: dict[str, Any]) -> None:
    assert (await api.http.get("/openapi.json")).json() == document


def test_every_path_is_documented(document: dict[str, Any]) -> None:
    assert {path: set(operations) for path, operations in document["paths"].items()} == _OPERATIONS
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("method", "path", "model"),
    [
        ("post", "/v1/send", SendRequest),
        ("post", "/v1/send/bulk", BulkRequest),
        ("post", "/v1/messages/preview", SendRequest),
        ("post", "/v1/suppressions", SuppressionRequest),
        ("post", "/v1/webhooks", EndpointRequest),
        ("patch", "/v1/webhooks/{endpoint_id}", EndpointChangeRequest),
        ("post", "/v1/webhooks/{endpoint_id}/rotate", RotateRequest),
        ("post", "/v1/webhooks/{endpoint_id}/replay", ReplayRequest),
    ],
)
def test_a_raw_body_is_documented_by_the_model_that_reads_it(
    document: dict[str, Any], method: str, path: str, model: type[BaseModel]
) -> None:
    operation = document["paths"][path][method]
    assert operation["requestBody"]["required"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == f"#/components/schemas/{model.__name__}"
    made = model.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = made.pop("$defs", {})
    assert document["components"]["schemas"][model.__name__] == made
    for name, schema in definitions.items():
        assert document["components"]["schemas"][name] == schema
    assert made["additionalProperties"] is False


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert used <= document["components"]["schemas"].keys()
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_refusal_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    refusals = [
        (status, response)
        for path in document["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if status >= "400"
    ]
    assert {status for status, _ in refusals} >= {"400", "401", "403", "404", "413", "415", "422", "503"}
    for _, response in refusals:
        schema = {"$ref": f"#/components/schemas/{ProblemReply.__name__}"}
        assert response["content"] == {"application/problem+json": {"schema": schema}}


def test_all_but_providers_and_operations_need_a_key(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        ours = path.startswith("/v1/") and not path.startswith("/v1/receipts/")
        assert all(("security" in operation) is ours for operation in operations.values()), path


@pytest.mark.parametrize(
    "model",
    [MessageSummary, MessageList, MessageReply, PreviewReply, SuppressionReply, SuppressionList, ImportReply],
)
def test_an_example_is_what_its_model_says(model: type[Reply]) -> None:
    for example in model.model_json_schema()["examples"]:
        model.model_validate_json(json.dumps(example), strict=True)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_docs_need_no_internet(api: GatewayClient, path: str) -> None:
    page = await api.http.get(path)
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert assets
    for asset in assets:
        assert asset.startswith("/")
        assert (await api.http.get(asset)).status_code == 200
