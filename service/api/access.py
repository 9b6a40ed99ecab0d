"""The key check of the handlers, and the place that comes after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from fastapi import Depends
from starlette.requests import Request

from service import logs
from service.api.admission import Admission
from service.api.context import Api, api_of
from service.api.headers import header
from service.api.patience import Begun
from service.errors import Problem
from service.storage.audit import Actor
from service.storage.clients import Principal


async def authorize(request: Request, api: Api, scope: str) -> Principal:
    """The caller, if the key has the scope. A key that is known takes no place and never waits for one.

    Raises:
        Problem | StoreOverloaded: see `Directory.authorize`; 503 where too many keys are being looked for.
    """
    checking = Begun(api.directory.authorize(header(request.scope, b"authorization"), scope))
    if checking.waits:
        principal = await _when_checked(checking, api.admission)
    else:
        principal = await checking.rest()
    request.scope["client_name"] = principal.client
    return principal


async def _when_checked(checking: Begun[Principal], admission: Admission) -> Principal:
    checks = admission.checks.of(checking)  # each is a stranger, so none has a share
    try:
        checks.__enter__()
    except Problem:
        checking.close()
        await admission.turn_away()
        raise
    try:
        return await checking.rest()
    finally:
        checks.__exit__()


def actor(caller: Principal) -> Actor:
    """The caller in this request, for the audit log."""
    return Actor(caller.actor, logs.request_id.get())


def allowed(scope: str, admit: Callable[[Admission, UUID], AbstractAsyncContextManager[None]]) -> Any:
    """The same as a dependency, so that it comes before the check of a query. `admit` gives it what it needs then."""

    async def dependency(request: Request) -> AsyncIterator[Principal]:
        api = api_of(request)
        principal = await authorize(request, api, scope)
        async with admit(api.admission, principal.client_id):
            yield principal

    return Depends(dependency, scope="function")
