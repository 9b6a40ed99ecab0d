"""What the handlers work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from service.api.admission import Admission
from service.api.auth import Directory
from service.api.draft import Drafter
from service.api.readiness import Readiness
from service.pipeline.accept import Accept
from service.pipeline.limits import Limits
from service.pipeline.lookup import Lookup
from service.pipeline.receive import Receive
from service.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Api:
    """Made for each `gateway.yaml` that is read."""

    runtime: Runtime
    admission: Admission
    directory: Directory
    drafter: Drafter
    accept: Accept
    lookup: Lookup
    receive: Receive
    limits: Limits
    readiness: Readiness


def api_of(request: Request) -> Api:
    """The `Api` of the application that serves this request."""
    return cast("Api", request.app.state.api)
