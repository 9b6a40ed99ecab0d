"""What the handlers work with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from service.api.auth import Directory
from service.api.draft import Drafter
from service.api.slots import Slots
from service.pipeline.accept import Accept
from service.pipeline.limits import Limits
from service.pipeline.lookup import Lookup
from service.pipeline.receive import Receive
from service.runtime import Runtime
from service.storage.messages import BULKS_AT_ONCE

_TRIALS_AT_ONCE = 8  # so that test events to slow endpoints never take every connection from the webhooks
_BULKS_WAITING = 16
_BULK_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Api:
    """Made once by `create_app`. `schema_version` is the one that this code is written for."""

    runtime: Runtime
    directory: Directory
    drafter: Drafter
    accept: Accept
    lookup: Lookup
    receive: Receive
    limits: Limits
    schema_version: str
    trial_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_TRIALS_AT_ONCE))
    bulk_slots: Slots = field(
        default_factory=lambda: Slots(BULKS_AT_ONCE, waiting=_BULKS_WAITING, patience_s=_BULK_PATIENCE_S)
    )


def api_of(request: Request) -> Api:
    """The `Api` of the application that serves this request."""
    return cast("Api", request.app.state.api)
