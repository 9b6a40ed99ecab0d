from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from pydantic import BaseModel

from service.api.admin_models import (
    ClientChangeRequest,
    ClientRequest,
    KeyRequest,
    KeyRotationRequest,
    PauseRequest,
)
from service.api.models import BulkRequest, ProblemReply, SendRequest
from service.api.suppression_models import SuppressionRequest
from service.api.webhook_models import EndpointChangeRequest, EndpointRequest, ReplayRequest, RotateRequest
from service.app import openapi_document
from tests.api.client import GatewayClient

_PROJECT = Path(__file__).parents[2]
_FILE = _PROJECT / "openapi" / "openapi.json"
_OPERATIONS = {
    "/v1/send": {"post"},
    "/v1/send/bulk": {"post"},
    "/v1/batches/{batch_id}": {"get"},
    "/v1/messages": {"get"},
    "/v1/messages/{message_id}": {"get"},
    "/v1/messages/{message_id}/cancel": {"post"},
    "/v1/messages/preview": {"post"},
    "/v1/routes": {"get"},
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
    "/v1/admin/clients": {"get", "post"},
    "/v1/admin/clients/{client}": {"patch"},
    "/v1/admin/keys": {"get", "post"},
    "/v1/admin/keys/{key_id}": {"delete"},
    "/v1/admin/keys/{key_id}/rotate": {"post"},
    "/v1/admin/providers": {"get"},
    "/v1/admin/providers/{account}/pause": {"post"},
    "/v1/admin/providers/{account}/resume": {"post"},
    "/v1/admin/audit": {"get"},
    "/v1/receipts/{account}/{token}": {"get", "post"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}
_CONFLICTING = {"createClient", "cancelMessage", "replayWebhook", "replayWebhooks"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi_document()


def test_the_file_holds_the_document(document: dict[str, Any]) -> None:
    kept = json.loads(_FILE.read_text(encoding="utf-8"))
    assert kept == document, "run `sms-gateway openapi > openapi/openapi.json`"


async def test_the_served_document_is_the_same(api: GatewayClient, document: dict[str, Any]) -> None:
    assert (await api.http.get("/openapi.json")).json() == document


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, operations in document["paths"].items() for operation in operations.values()]


def test_every_path_is_documented(document: dict[str, Any]) -> None:
    assert {path: set(operations) for path, operations in document["paths"].items()} == _OPERATIONS
    names = [operation["operationId"] for _, operation in _operations(document)]
    assert len(set(names)) == len(names)


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    for path, operation in _operations(document):
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", operation["operationId"]), path
        assert operation["summary"], path
        assert operation["description"], path
        [tag] = operation["tags"]
        assert tags[tag], path
        assert all(parameter["description"] for parameter in operation.get("parameters", [])), path
    assert {operation["tags"][0] for _, operation in _operations(document)} == tags.keys()


def test_every_body_and_every_answer_has_an_example_that_fits(document: dict[str, Any]) -> None:
    for path, operation in _operations(document):
        answers = operation["responses"].items()
        for part, value in [("requestBody", operation.get("requestBody", {})), *answers]:
            assert ("content" in value) is (part != "204" and value != {}), (path, part)
            for media in value.get("content", {}).values():
                schema = media["schema"] | {"components": document["components"]}
                validator = Draft202012Validator(schema, validate_formats=True)
                validator.validate(_example(document, media))


def _example(document: dict[str, Any], media: dict[str, Any]) -> Any:
    """That of the media type, or the first of its schema."""
    if "example" in media:
        return media["example"]
    return document["components"]["schemas"][media["schema"]["$ref"].rpartition("/")[2]]["examples"][0]


def test_every_operation_documents_what_it_may_be_refused_for(document: dict[str, Any]) -> None:
    for path, operation in _operations(document):
        kinds = {parameter["in"] for parameter in operation.get("parameters", [])}
        expected = {"503"} if path != "/metrics" else set()
        if "security" in operation:
            expected |= {"401", "403", "429"}
        if "requestBody" in operation:
            expected |= {"400", "413", "415", "422"}
        if "query" in kinds or "{number}" in path:
            expected |= {"422"}
        if "path" in kinds and operation["operationId"] != "lookUp":
            expected |= {"404"}
        if "/receipts/" in path:
            expected |= {"403", "413", "422"}
        expected |= {"409"} if operation["operationId"] in _CONFLICTING else set()
        assert {status for status in operation["responses"] if status >= "400"} == expected, path


def test_the_problems_that_are_shown_are_those_of_the_code(document: dict[str, Any]) -> None:
    files = (path for path in (_PROJECT / "service").rglob("*.py") if path.name != "examples.py")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    shown = set(re.findall(r'"type": "/problems/(\w+)"', json.dumps(document)))
    assert {code for code in shown if f'"{code}"' not in source} == set()


def test_every_link_leads_to_a_parameter(document: dict[str, Any]) -> None:
    names = {operation["operationId"]: operation.get("parameters", []) for _, operation in _operations(document)}
    links = re.findall(r'"operationId": "(\w+)", "parameters": \{"(\w+)": "\$response', json.dumps(document))
    assert len(links) == 4
    for target, parameter in links:
        assert parameter in {known["name"] for known in names[target]}


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
        ("post", "/v1/admin/clients", ClientRequest),
        ("patch", "/v1/admin/clients/{client}", ClientChangeRequest),
        ("post", "/v1/admin/keys", KeyRequest),
        ("post", "/v1/admin/keys/{key_id}/rotate", KeyRotationRequest),
        ("post", "/v1/admin/providers/{account}/pause", PauseRequest),
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
    for path, operation in _operations(document):
        for status, response in operation["responses"].items():
            if status >= "400":
                [(media_type, content)] = response["content"].items()
                assert media_type == "application/problem+json", path
                assert content["schema"] == {"$ref": f"#/components/schemas/{ProblemReply.__name__}"}
                assert content["example"]["status"] == int(status)


def test_all_but_providers_and_operations_need_a_key(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        ours = path.startswith("/v1/") and not path.startswith("/v1/receipts/")
        assert all(("security" in operation) is ours for operation in operations.values()), path


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_docs_need_no_internet(api: GatewayClient, path: str) -> None:
    page = await api.http.get(path)
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert assets
    for asset in assets:
        assert asset.startswith("/")
        assert (await api.http.get(asset)).status_code == 200
