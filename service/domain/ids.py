"""Ids: UUIDv7 (RFC 9562, section 5.7), so that they sort by time; shown with a prefix that says what they name."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime
from typing import Final
from uuid import UUID

ABOVE_ALL: Final = UUID(int=2**128 - 1)
"""Greater than every id, for a walk that begins at the newest."""

_SHOWN = re.compile(r"(msg|bat|whd|whe)_([0-9a-f]{32})")


def new_id() -> UUID:
    """A UUIDv7: 48 bits of milliseconds since 1970, then random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76  # version 7
    value = value & ~(0x3 << 62) | 0x2 << 62  # RFC 9562 variant
    return UUID(int=value)


def new_attempt_id(message_id: UUID) -> UUID:
    """The id of an attempt: it begins like its message's, and so lies beside those of the same message."""
    return UUID(bytes=message_id.bytes[:12] + os.urandom(4))


def smallest_at(at: datetime) -> UUID:
    """A UUID below every id of that millisecond and above every id of the one before. `at` is aware, from 1970 on."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def show(prefix: str, value: UUID) -> str:
    """The id as callers see it: `msg_0190...`."""
    return f"{prefix}_{value.hex}"


def read(prefix: str, shown: str) -> UUID | None:
    """The id behind what a caller gave, or None where it is not one of this kind."""
    match = _SHOWN.fullmatch(shown)
    return UUID(hex=match[2]) if match and match[1] == prefix else None
