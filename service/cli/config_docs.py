"""`config-docs`: the tables of docs/configuration.md, from `environment.py` and `settings.py`.

What a setting means is its docstring there; what it may be is what pydantic checks. Between `<!-- settings: NAME -->`
and `<!-- end -->` stands a table of the class of that name; everything else on the page is written by hand.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from service import environment, settings
from service.environment import NUMBERS, PREFIX, Environment
from service.errors import ConfigurationError
from service.settings import GatewayConfig

_TABLE: Final = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUNDS: Final = (
    ("minimum", "from {}"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "to {}"),
    ("exclusiveMaximum", "below {}"),
)


def config_docs(
    page: Annotated[Path, typer.Argument(help="The page whose tables are written anew.", exists=True, dir_okay=False)],
) -> None:
    """Write the tables of the configuration page anew, from the settings' own descriptions."""
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(page: str) -> str:
    """The page with its tables as they must be.

    Raises:
        ConfigurationError: the page names a section that there is not, or leaves one out.
    """
    tables = all_tables()
    named = [match[2] for match in _TABLE.finditer(page)]
    if sorted(named) != sorted(tables):
        raise ConfigurationError(f"The page must have a table for each of {', '.join(sorted(tables))}, and no other.")
    return _TABLE.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n{match[3]}", page)


def all_tables() -> dict[str, str]:
    """For each class of settings its table."""
    meanings = _docstrings()
    schema = GatewayConfig.model_json_schema()
    sections = {"GatewayConfig": schema} | {
        name: section for name, section in schema["$defs"].items() if section["type"] == "object"
    }
    tables = {name: _section_table(section, schema["$defs"], meanings[name]) for name, section in sections.items()}
    return {"Environment": _environment_table(meanings["Environment"]), **tables}


def _docstrings() -> dict[str, dict[str, str]]:
    """What stands below each field of each class."""
    found: dict[str, dict[str, str]] = {}
    nodes = [node for module in (environment, settings) for node in ast.parse(inspect.getsource(module)).body]
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {}
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                    found[node.name][ast.unparse(before.target)] = " ".join(ast.literal_eval(after.value).split())
    return found


def _environment_table(meanings: dict[str, str]) -> str:
    rows = []
    for field in fields(Environment):
        default = "none" if field.default is None else f"`{_environment_default(field.default)}`"
        bounds = f"{NUMBERS[field.name][1]:,} to {NUMBERS[field.name][2]:,}" if field.name in NUMBERS else ""
        rows.append((f"`{PREFIX}{field.name.upper()}`", default, bounds, meanings[field.name]))
    return _table(("variable", "default", "allowed", "meaning"), rows)


def _environment_default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _section_table(section: dict[str, Any], definitions: dict[str, Any], meanings: dict[str, str]) -> str:
    rows = []
    for name, schema in section["properties"].items():
        default = "" if name in section.get("required", ()) else _default(schema)
        rows.append((f"`{name}`", default or "**required**", _allowed(schema, definitions), meanings[name]))
    return _table(("setting", "default", "allowed", "meaning"), rows)


def _default(schema: dict[str, Any]) -> str:
    value = schema["default"]
    if value in (None, [], {}):
        return "none"
    if not isinstance(value, dict):
        return f"`{_plain(value)}`"
    # A section of its own has its own table.
    return "see below" if "$ref" in schema else ", ".join(f"{name} `{_plain(one)}`" for name, one in value.items())


def _plain(value: Any) -> str:
    """As YAML has it, without needless zeros."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _allowed(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    (schema,) = (one for one in schema.get("anyOf", [schema]) if one != {"type": "null"})
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if schema["type"] == "array":
        return "list"
    if schema["type"] == "object":
        inner = schema.get("additionalProperties")
        return f"each {_allowed(inner, definitions)}" if isinstance(inner, dict) and "minimum" in inner else "section"
    if schema.get("format") == "uri":
        return "URL"
    bounds = " ".join(text.format(f"{schema[key]:,}") for key, text in _BOUNDS if key in schema)
    return {"string": "text", "boolean": "`true`, `false`"}.get(schema["type"], bounds)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
