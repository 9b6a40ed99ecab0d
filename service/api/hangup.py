"""What nobody waits for any more is ended, so that its place and its connection to PostgreSQL are free.

Only for what stores nothing: a send whose caller has hung up is committed all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Problem

_MOST_UNREAD_BYTES = 64 * 1024


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Run the body for as long as the caller stays on the line. Its body must have been read, or there is none.

    Raises:
        Problem: 499, which nobody hears, where the caller hung up.
    """
    working = asyncio.current_task()
    assert working is not None  # noqa: S101 - this is a coroutine
    before, gone = working.cancelling(), False

    async def watch() -> None:
        nonlocal gone
        if await _hung_up(request):
            gone = True
            working.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and working.uncancel() <= before:
            raise Problem(499, "caller_gone", "The caller hung up before the answer was there.") from None
        raise
    finally:
        watching.cancel()


async def _hung_up(request: Request) -> bool:
    """Wait until the caller is gone. False: it sends so much that is not wanted that nobody listens any more."""
    unread_bytes = 0
    while unread_bytes <= _MOST_UNREAD_BYTES:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return True
        unread_bytes += len(message.get("body", b""))
    return False


class WatchedRoute(APIRoute):
    """A route whose GETs end when their callers hang up. What has a body says so itself, once that is read."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override] # of a narrower type
        """The handler."""
        handle: Callable[[Request], Any] = super().get_route_handler()
        if self.methods != {"GET"}:
            return handle

        async def watched(request: Request) -> Response:
            async with while_connected(request):
                response: Response = await handle(request)
            return response

        return watched
