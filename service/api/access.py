"""The key check of the handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request

from service import logs
from service.api.context import Api, api_of
from service.api.headers import header
from service.storage.audit import Actor
from service.storage.clients import Principal


async def authorize(request: Request, api: Api, scope: str) -> Principal:
    """The caller, if the key has the scope.

    Raises:
        Problem | StoreOverloaded: see `Directory.authorize`.
    """
    principal = await api.directory.authorize(header(request.scope, b"authorization"), scope)
    request.scope["client_name"] = principal.client
    return principal


def actor(caller: Principal) -> Actor:
    """The caller in this request, for the audit log."""
    return Actor(caller.actor, logs.request_id.get())


def allowed(scope: str) -> Callable[[Request], Awaitable[Principal]]:
    """The same as a dependency, so that it comes before the check of a query."""

    async def dependency(request: Request) -> Principal:
        return await authorize(request, api_of(request), scope)

    return dependency
