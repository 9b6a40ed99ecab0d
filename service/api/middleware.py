"""What surrounds every request: its id, its span, its metrics, its log line, and the last resort for errors."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.headers import header
from service.api.problems import answer
from service.errors import Problem
from service.metrics import Metrics
from service.tracing import NO_SPAN, Span, Tracing

log = logging.getLogger("service.access")

# No `+`, so that no number gets into the logs by this way.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_NO_ROUTE: Final = "(none)"
_API: Final = "/v1/"
_RECEIPTS: Final = "/v1/receipts/"
_FROM_OUTSIDE: Final = "/v1/receipts"
"""What the ingress lets through, with a slash behind it or not."""


class Surround:
    """ASGI middleware. Routes are counted and logged as templates: a path may hold a number or a token.

    It stands before all else that the framework does. `express` are the routes which answer their own errors, by method
    and path: they are called at once, past the router and the middlewares within.

    How many get in is not decided here, but after the key check: see `service.api.admission`.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, tracing: Tracing, express: Mapping[tuple[str, str], Route]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._express = express
        self._of_receipts = {method: it for (method, path), it in express.items() if path.startswith(_RECEIPTS)}
        # `labels()` costs more than the counting itself.
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracing.on:
            with self._span(scope) as span:
                await self._serve(scope, receive, send, span)
        else:
            await self._serve(scope, receive, send, NO_SPAN)

    def _span(self, scope: Scope) -> Span:
        """Probes and scrapes have none. Providers are strangers, who do not decide what is traced."""
        path: str = scope["path"]
        if not path.startswith(_API):
            return NO_SPAN
        return self._tracing.request(None if path.startswith(_FROM_OUTSIDE) else header(scope, b"traceparent"))

    async def _serve(self, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
        began_s = time.perf_counter()
        given = header(scope, b"x-request-id") or ""
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{os.urandom(12).hex()}"
        logs.request_id.set(request_id)
        echo = (b"x-request-id", request_id.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), echo]
            await send(message)

        try:
            route = self._express_route(scope)
            if route is None:
                await self._app(scope, receive, send_with_id)
            else:
                scope["app"], scope["route"] = self._app, route
                await route.app(scope, receive, send_with_id)
        except Exception:
            log.exception("a request failed")
            if status == 0:
                await _apologize(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - began_s, span)

    def _express_route(self, scope: Scope) -> Route | None:
        path: str = scope["path"]
        if not path.startswith(_RECEIPTS):
            return self._express.get((scope["method"], path))
        if (route := self._of_receipts.get(scope["method"])) is None:
            return None
        match, parts = route.matches(scope)
        if match is not Match.FULL:
            return None
        scope.update(parts)
        return route

    def _record(self, scope: Scope, status: int, seconds: float, span: Span) -> None:
        route: str = getattr(scope.get("route"), "path", None) or _NO_ROUTE
        method = scope["method"] if scope["method"] in _METHODS else "other"
        key = route, method, status
        counted = self._requests.get(key)
        if counted is None:
            counted = self._requests[key] = self._metrics.requests.labels(route, method, str(status))
            self._seconds[route] = self._metrics.request_s.labels(route)
        counted.inc()
        self._seconds[route].observe(seconds)
        line = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
        if (client := scope.get("client_name")) is not None:
            line["client"] = logs.scrub(client)
        if (problem := scope.get("problem")) is not None:
            line["problem"] = problem
            self._metrics.refused.labels(problem).inc()
            span.note(problem=problem)
        span.served(method, route, status)
        logs.info(log, "request", line)


async def _apologize(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(500, "internal_error", "An error of the gateway's own. Repeat with the same Idempotency-Key.")
    await answer(Request(scope), problem)(scope, receive, send)
