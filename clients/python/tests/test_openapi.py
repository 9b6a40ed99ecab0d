"""What the client models is what `openapi/openapi.json` says."""

from __future__ import annotations

import inspect
import json
import types
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from sms_gateway_client import SmsGateway, core, errors, models
from sms_gateway_client.core import MessageFilters, MessageOptions
from sms_gateway_client.reading import json_name

from service.domain.message import MessageStatus

DOCUMENT = json.loads((Path(__file__).parents[3] / "openapi" / "openapi.json").read_text(encoding="utf-8"))
SCHEMAS = DOCUMENT["components"]["schemas"]
MODELS = {
    models.Sent: "SendReply",
    models.BulkAnswer: "BulkReply",
    models.Batch: "BatchReply",
    models.Message: "MessageReply",
    models.MessageList: "MessageList",
    models.Hlr: "HlrReply",
    models.Preview: "PreviewReply",
    errors._Problem: "ProblemReply",  # noqa: SLF001 - the model of what every refusal is read as
}
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
NOT_READ = {"ProblemReply": {"type", "title"}}
"""What the client has no use for: `code` says the same."""


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return resolved(SCHEMAS[schema["$ref"].rpartition("/")[2]]) if "$ref" in schema else schema


def assert_same(hint: Any, schema: dict[str, Any], place: str) -> None:
    """The type hint and the schema allow the same."""
    schema = resolved(schema)
    if get_origin(hint) in {Union, types.UnionType}:
        (inner,) = (one for one in get_args(hint) if one is not type(None))
        (other,) = (one for one in schema["anyOf"] if one != {"type": "null"})
        assert_same(inner, other, place)
    elif hint is models.RecipientResult:
        assert_same_union(hint, [resolved(one) for one in schema["anyOf"]], place)
    elif is_dataclass(hint):
        assert_same_object(hint, schema, place)
    elif get_origin(hint) is tuple:
        assert schema["type"] == "array", place
        assert_same(get_args(hint)[0], schema["items"], f"{place}[]")
    elif get_origin(hint) is dict:
        assert schema["type"] == "object", place
        assert_same(get_args(hint)[1], schema["additionalProperties"], f"{place}.*")
    elif get_origin(hint) is Literal:
        assert set(get_args(hint)) == set(schema.get("enum", [schema.get("const")])), place
    elif hint is datetime:
        assert (schema["type"], schema["format"]) == ("string", "date-time"), place
    else:
        assert _PLAIN[hint] == schema["type"], place
        assert "enum" not in schema, place
        assert "format" not in schema, place


def assert_same_object(model: Any, schema: dict[str, Any], place: str) -> None:
    hints = get_type_hints(model)
    named = {json_name(field): hints[field.name] for field in fields(model)}
    assert set(named) == set(schema["properties"]) - NOT_READ.get(schema["title"], set()), place
    assert set(named) <= set(schema["required"]), place
    for name, hint in named.items():
        assert_same(hint, schema["properties"][name], f"{place}.{name}")


def assert_same_union(model: Any, schemas: list[dict[str, Any]], place: str) -> None:
    """`model` has the fields of all; those that not every one of them has are optional."""
    hints = get_type_hints(model)
    assert set(hints) == {name for schema in schemas for name in schema["properties"]}, place
    for schema in schemas:
        for name, inner in schema["properties"].items():
            (hint,) = (one for one in get_args(hints[name]) if one is not type(None))
            plain = [one for one in inner.get("anyOf", [inner]) if one != {"type": "null"}]
            assert_same(hint, plain[0], f"{place}.{name}")


@pytest.mark.parametrize(("model", "schema"), MODELS.items(), ids=MODELS.values())
def test_a_model_has_every_field_of_its_schema_with_the_same_type(model: type, schema: str) -> None:
    assert_same(model, SCHEMAS[schema], schema)


def test_the_comparison_finds_what_differs() -> None:
    for hint, schema in (
        (int, {"type": "string"}),
        (str, {"type": "string", "format": "date-time"}),
        (models.Traffic, {"enum": ["otp"]}),
        (models.RecipientError, {"title": "T", "properties": {"code": {"type": "string"}}, "required": ["code"]}),
    ):
        with pytest.raises(AssertionError):
            assert_same(hint, schema, "here")


def test_the_summary_of_a_message_is_that_of_a_list() -> None:
    assert_same(models.MessageSummary, SCHEMAS["MessageSummary"], "MessageSummary")


def test_a_send_can_say_all_that_its_schema_allows() -> None:
    given = {*inspect.signature(SmsGateway.send).parameters} - {"self", "idempotency_key", "options"}
    renamed = {"from" if name == "sender" else name for name in given}
    assert renamed | {*get_type_hints(MessageOptions)} == set(SCHEMAS["SendRequest"]["properties"])
    for name, hint in get_type_hints(MessageOptions).items():
        assert_same(hint, SCHEMAS["SendRequest"]["properties"][name], name)


def test_a_list_can_be_asked_for_all_that_the_document_allows() -> None:
    parameters = {one["name"]: one["schema"] for one in DOCUMENT["paths"]["/v1/messages"]["get"]["parameters"]}
    hints = {"from" if name == "sender" else name: hint for name, hint in get_type_hints(MessageFilters).items()}
    assert {*hints, "cursor"} == set(parameters)
    for name, hint in hints.items():
        assert_same(hint, parameters[name], name)


def test_a_chunk_is_as_large_as_a_bulk_may_be() -> None:
    assert f"1 to {core.LARGEST_CHUNK:,} " in SCHEMAS["BulkRequest"]["properties"]["recipients"]["description"]


def test_the_statuses_that_end_a_message_are_the_gateways() -> None:
    assert {status.value for status in MessageStatus if status.terminal} == models.ENDS
