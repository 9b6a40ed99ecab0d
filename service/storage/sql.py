"""Loads the named queries of `queries/*.sql`.

A query starts at a line `-- name: <name>`; the comment lines below it describe it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries(stage: str) -> dict[str, str]:
    """The queries of `queries/<stage>.sql`, by name."""
    text = (Path(__file__).parent / "queries" / f"{stage}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {name: body.strip().rstrip(";") for name, body in zip(parts[::2], parts[1::2], strict=True)}
