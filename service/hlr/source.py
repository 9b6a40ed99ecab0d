"""The contract of an HLR source. Like a provider's adapter it does no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import httpx

from service.domain.hlr import HlrResult


@dataclass(frozen=True, slots=True)
class HlrAccount:
    """One account for look-ups, as `gateway.yaml` names it. The key stays out of `repr`."""

    name: str
    base_url: str
    api_key: str = field(repr=False)


class HlrSource(Protocol):
    """What each file in this folder implements."""

    def lookup_request(self, number: str) -> httpx.Request:
        """The request that looks up `number` (E.164)."""
        ...

    def lookup_result(self, number: str, response: httpx.Response, now: datetime) -> HlrResult:
        """What the answer says of `number`; `now` is aware UTC. Never raises.

        An answer that is an error or is not understood is `unknown`, never `invalid`: that would stop good messages.
        """
        ...
