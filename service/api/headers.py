"""Request headers."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header, its `name` in lower case. Faster than Starlette's, which decodes every name anew."""
    value: bytes | None = dict(scope["headers"]).get(name)
    return None if value is None else value.decode("latin-1")
