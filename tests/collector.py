"""A real OTLP/HTTP collector on loopback that keeps the spans it is sent: the target of traces in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan


@dataclass(frozen=True, slots=True)
class Collected:
    """One span. Ids are in hex, as in a `traceparent`; `parent_id` is empty at the root of a trace."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    failed: bool
    links: tuple[str, ...]
    attributes: dict[str, Any]


class Collector:
    """Takes what is exported to `/v1/traces`."""

    def __init__(self) -> None:
        self.spans: list[Collected] = []
        self.resources: list[dict[str, Any]] = []
        self.said: list[str] = []
        """Each request, with all that is in it."""
        self._arrived = asyncio.Condition()
        self._port = 0
        self._runner = web.ServerRunner(web.Server(self._receive, access_log=None), shutdown_timeout=0.1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def when(self, condition: Callable[[list[Collected]], bool], timeout_s: float = 60) -> list[Collected]:
        """Every span so far, as soon as `condition` holds of them."""
        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: condition(self.spans))
        except TimeoutError:
            message = f"not in {timeout_s} s, but {self.spans}"
            raise TimeoutError(message) from None
        return list(self.spans)

    async def of_trace(self, trace_id: str, *names: str) -> dict[str, Collected]:
        """The spans of a trace by their names, once there is one of each."""
        spans = await self.when(lambda spans: set(names) <= {it.name for it in spans if it.trace_id == trace_id})
        return {it.name: it for it in spans if it.trace_id == trace_id}

    async def _receive(self, request: web.BaseRequest) -> web.Response:
        if (request.method, request.path) != ("POST", "/v1/traces"):
            return web.Response(status=404)
        export = ExportTraceServiceRequest.FromString(await request.read())
        async with self._arrived:
            self.said.append(f"{dict(request.headers)} {export}")
            for of_resource in export.resource_spans:
                self.resources.append(_attributes(of_resource.resource.attributes))
                self.spans += [_collected(span) for scope in of_resource.scope_spans for span in scope.spans]
            self._arrived.notify_all()
        return web.Response(content_type="application/x-protobuf")


def _collected(span: OtlpSpan) -> Collected:
    return Collected(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=OtlpSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        links=tuple(link.span_id.hex() for link in span.links),
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(pairs)
    return {it.key: getattr(it.value, it.value.WhichOneof("value") or "string_value") for it in found}
