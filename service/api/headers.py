"""Request headers."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header, its `name` in lower case. They are indexed once a request, not decoded anew for each look."""
    named: dict[bytes, bytes] | None = scope.get("named_headers")
    if named is None:
        named = scope["named_headers"] = dict(scope["headers"])
    value = named.get(name)
    return None if value is None else value.decode("latin-1")
