"""The applications that are served: the gateway, and the bare one of a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import Route

from service import __version__
from service.api import (
    admin,
    admin_providers,
    bulk,
    health,
    hlr,
    listing,
    messages,
    preview,
    problems,
    receipts,
    routes,
    send,
    suppressions,
    webhook_deliveries,
    webhooks,
)
from service.api.admission import Admission, read_turns
from service.api.auth import Directory
from service.api.context import Api
from service.api.draft import Drafter
from service.api.intake import RawRoute
from service.api.middleware import Surround
from service.api.openapi import document
from service.api.readiness import Readiness
from service.api.tokens import IssuerKeys, Tokens
from service.pipeline.accept import Accept
from service.pipeline.limits import Limits
from service.pipeline.lookup import Lookup
from service.pipeline.receive import Receive
from service.runtime import Runtime
from service.storage.callers import Callers
from service.storage.schema import newest_version

_GATEWAY: Final = (
    send.router,
    bulk.router,
    listing.router,
    messages.router,
    preview.router,
    routes.router,
    hlr.router,
    suppressions.router,
    webhooks.router,
    webhook_deliveries.router,
    admin.router,
    admin_providers.router,
    receipts.router,
    health.router,
)
_DESCRIPTION: Final = (
    "A self-hosted SMS gateway. 200 means that the message is committed to disk; what became of it comes by signed"
    " webhook. Errors are `application/problem+json` (RFC 9457) and say what to do."
)


def create_app(runtime: Runtime, admission: Admission | None = None) -> Served:
    """The whole interface. `admission` says how many get in."""
    return _serving(_assemble(_GATEWAY), runtime, admission)


def create_worker_app(runtime: Runtime) -> Served:
    """Health and metrics only: nobody sends through a worker."""
    return _serving(_assemble((health.router,)), runtime)


class Served(Surround):
    """An application that is served, over a runtime that can be changed."""

    def __init__(self, app: FastAPI, runtime: Runtime, express: Mapping[tuple[str, str], Route]) -> None:
        super().__init__(app, runtime.metrics, runtime.tracing, express)
        self._state = app.state

    async def turn_to(self, runtime: Runtime) -> None:
        """Answer requests that come from now on by another runtime; those that are inside keep theirs.

        Raises:
            StoreError: the API keys cannot be read. All stays as it was.
        """
        api = _api(runtime, self._state.api.admission)
        api.directory.take_over(self._state.api.directory)
        # Or the first requests would wait, or fail where the database or an issuer of tokens is away just then.
        await api.directory.fill()
        self._state.api = api


def openapi_document() -> dict[str, Any]:
    """What `openapi/openapi.json` holds. Needs no database."""
    return document(_assemble(_GATEWAY))


def _tokens(runtime: Runtime) -> Tokens | None:
    issuers = {one.issuer: IssuerKeys(one, runtime.issuer_http[one.issuer]) for one in runtime.config.auth.issuers}
    return Tokens(issuers) if issuers else None


def _assemble(routers: tuple[APIRouter, ...]) -> FastAPI:
    app = FastAPIOffline(
        title="SMS gateway",
        version=__version__,
        description=_DESCRIPTION,
        redirect_slashes=False,
        # Its spans would hold paths, and paths hold numbers and tokens. The service has metrics and logs of its own.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    # Not by `include_router`, which matches twice, nor behind the pages of the docs: a send is found at once.
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    problems.install(app)
    return app


def _api(runtime: Runtime, admission: Admission) -> Api:
    lookup = Lookup(runtime)
    return Api(
        runtime=runtime,
        admission=admission,
        directory=Directory(Callers(runtime.database), _tokens(runtime)),
        drafter=Drafter(runtime.config, runtime.webhook_policy, runtime.tracing),
        accept=Accept(runtime),
        lookup=lookup,
        receive=Receive(runtime, lookup),
        limits=Limits(runtime),
        readiness=Readiness(runtime.database, newest_version()),
    )


def _serving(app: FastAPI, runtime: Runtime, admission: Admission | None = None) -> Served:
    turns = read_turns(runtime.settings.environment.connections_for_reads)
    app.state.api = _api(runtime, admission or Admission(read_turns=turns))
    express = {
        (method, route.path): route
        for route in app.router.routes
        if isinstance(route, RawRoute)
        for method in route.methods or ()
    }
    described = document(app)
    app.openapi = lambda: described  # type: ignore[method-assign]
    return Served(app, runtime, express)
