"""What a home location register (HLR) look-up says of a number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class HlrStatus(StrEnum):
    """Only `invalid` stops a send: `absent` is a phone that is off, and `unknown` is no answer."""

    ACTIVE = "active"
    ABSENT = "absent"
    INVALID = "invalid"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HlrResult:
    """One look-up. `ported` and `roaming` are None when the source does not say: they are never guessed.

    `mcc` and `mnc` are the E.212 codes as digits ("310", "004"); `error_code` is the GSM MAP error.
    """

    number: str
    status: HlrStatus
    checked_at: datetime
    source: str
    mcc: str | None = None
    mnc: str | None = None
    network: str | None = None
    line_type: str | None = None
    ported: bool | None = None
    roaming: bool | None = None
    error_code: int | None = None
