"""Cursors: where the next page of a list begins. Opaque, and good only for the list that they came from."""

from __future__ import annotations

import base64
import hmac
from typing import Any, Final

import orjson

from service.api.problems import invalid
from service.domain.keyring import Keyring
from service.errors import FieldError

_INVALID: Final = FieldError(
    "cursor", "cursor_invalid", "Give `next_cursor` of the page before, with the same filters, or leave it out."
)


def write_cursor(keyring: Keyring, of: Any, position: Any) -> str:
    """The cursor at `position` in the list `of` (who lists what, filters included), both as orjson takes them."""
    raw = orjson.dumps(position)
    return base64.urlsafe_b64encode(keyring.cursor_proof(orjson.dumps([of, position])) + raw).decode().rstrip("=")


def read_cursor(keyring: Keyring, of: Any, cursor: str) -> Any:
    """The position behind a cursor of this list.

    Raises:
        Problem: 422, it is none.
    """
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = orjson.loads(raw[len(keyring.cursor_proof(b"")) :])
    except ValueError:
        raise invalid([_INVALID]) from None
    # Written anew rather than compared in parts: one position then has one spelling.
    if not hmac.compare_digest(write_cursor(keyring, of, position).encode(), cursor.encode()):
        raise invalid([_INVALID])
    return position
