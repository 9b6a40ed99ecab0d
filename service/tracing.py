"""Traces (OpenTelemetry): every span of the gateway, what it is called and what it may say.

The trace of a message begins with its caller, waits in the queue as a `traceparent` (W3C Trace Context), and goes on to
the provider, the receipt and the webhook. Nothing that a caller or a provider wrote is in a span: `_SAID` is the whole
list of what is, beside methods, statuses, route templates and the hosts of `gateway.yaml`.

Nothing is global: a `Tracing` belongs to its runtime. Only where it is on is the SDK imported (the extra `otel`).
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID

import httpx
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__, logs
from service.domain.ids import show
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_LAST_S: Final = 2.0
_TRACEPARENT: Final = "traceparent"
_W3C: Final = TraceContextTextMapPropagator()
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400

_SAID: Final = {
    "attempt_id": "sms_gateway.attempt_id",
    "batch_id": "sms_gateway.batch_id",
    "country": "sms_gateway.country",
    "lane": "messaging.destination.name",
    "message_id": "messaging.message.id",
    "outcome": "sms_gateway.outcome",
    "problem": "sms_gateway.problem",
    "provider": "sms_gateway.provider",
    "reason": "sms_gateway.reason",
    "receipt": "sms_gateway.receipt",
    "replayed": "sms_gateway.replayed",
    "result": "sms_gateway.result",
    "status": "sms_gateway.status",
    "tries": "http.request.resend_count",
    "webhook_id": "sms_gateway.webhook_id",
}
"""The attributes, as the semantic conventions have them where they know such a thing."""
_PREFIXES: Final = {"attempt_id": "att", "batch_id": "bat", "message_id": "msg", "webhook_id": "whd"}

_Value = str | int | bool | UUID | None


class Span:
    """Some work of a trace, to be entered: what is begun and logged within belongs to it. It ends with the block.

    This one is of no trace, and costs next to nothing.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None

    def note(self, **said: _Value) -> None:
        """Say something of the work; None says nothing."""

    def fail(self, error: BaseException) -> None:
        """Say that it failed. Of an error only its type is told: texts may quote anything."""

    def answered(self, status: int) -> None:
        """Say what a provider or a webhook's receiver answered."""

    def served(self, method: str, route: str, status: int) -> None:
        """Say which request it was, and what was answered."""


NO_SPAN: Final = Span()


class _Live(Span):
    __slots__ = ("_attached", "_logged", "_span")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._attached: Token[Context] | None = None
        self._logged: Token[str | None] | None = None

    def __enter__(self) -> Self:
        self._attached = contexts.attach(trace.set_span_in_context(self._span))
        self._logged = logs.trace_id.set(trace.format_trace_id(self._span.get_span_context().trace_id))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.fail(error)
        if self._logged is not None and self._attached is not None:
            logs.trace_id.reset(self._logged)
            contexts.detach(self._attached)
        self._span.end()

    def note(self, **said: _Value) -> None:
        self._span.set_attributes(_attributes(said))

    def fail(self, error: BaseException) -> None:
        self._failed(type(error).__name__)

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= _CLIENT_ERROR:
            self._failed(str(status))

    def served(self, method: str, route: str, status: int) -> None:
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= _SERVER_ERROR:
            self._failed(str(status))

    def _failed(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR)


class Tracing:
    """Begins spans. Without a provider it is off: its spans are `NO_SPAN`, and no `traceparent` is read or sent."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        tracer = None if provider is None else provider.get_tracer("sms-gateway", __version__)
        self._tracer = None if isinstance(tracer, trace.NoOpTracer) else tracer  # OTEL_SDK_DISABLED

    @classmethod
    def to(cls, endpoint: str | None) -> Tracing:
        """Traces for the OTLP/HTTP collector at `endpoint`; None: off.

        Raises:
            ConfigurationError: the extra `otel` is not installed, or an `OTEL_` variable cannot be.
        """
        return cls(None if endpoint is None else _provider(endpoint))

    async def aclose(self) -> None:
        """Export what waits, for 2 s at most: a collector that does not answer must not hold up a stop."""
        if self._provider is None:
            return
        provider, loop, closed = self._provider, asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            provider.shutdown()
            with suppress(RuntimeError):  # the loop may be gone by now
                loop.call_soon_threadsafe(closed.set)

        # Not in an executor: the process would wait for it at its end.
        threading.Thread(target=close, daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await closed.wait()

    @property
    def on(self) -> bool:
        """Whether spans are made at all."""
        return self._tracer is not None

    @property
    def traceparent(self) -> str | None:
        """Of the work at hand, for whoever goes on with it later."""
        return None if self._tracer is None else _carried(trace.get_current_span())

    def note(self, **said: _Value) -> None:
        """Say something of the work at hand."""
        if self._tracer is not None:
            trace.get_current_span().set_attributes(_attributes(said))

    def resume(self, traceparent: str | None) -> Span:
        """The trace of a message, without a span of its own."""
        if self._tracer is None or traceparent is None:
            return NO_SPAN
        return _Live(trace.get_current_span(_remote(traceparent)))

    def request(self, traceparent: str | None) -> Span:
        """A request that is served. A `traceparent` that is none begins a new trace, like none at all."""
        # Never the present context: a pipelined request is begun within the one before it.
        parent = _remote(traceparent) if traceparent is not None else Context()
        return self._begin("HTTP", SpanKind.SERVER, parent)

    def deliver(self, message_id: UUID, lane: str, country: str, traceparent: str | None) -> Span:
        """A message from its claim to its settlement."""
        if self._tracer is None:
            return NO_SPAN
        parent = None if traceparent is None else _remote(traceparent)
        return self._begin("deliver", SpanKind.CONSUMER, parent, message_id=message_id, lane=lane, country=country)

    def submit(self, request: httpx.Request, provider: str, attempt_id: UUID) -> Span:
        """A message's call to its provider; the request carries the trace on."""
        return self._call("submit", request, provider=provider, attempt_id=attempt_id)

    def lookup(self, request: httpx.Request, provider: str | None) -> Span:
        """A look-up of a number; the request carries the trace on."""
        return self._call("lookup", request, provider=provider)

    def notify(self, request: httpx.Request, webhook_id: UUID, attempt: int) -> Span:
        """A webhook's call, its `attempt` counted from 1; the request carries the trace on."""
        return self._call("notify", request, webhook_id=webhook_id, tries=attempt - 1 or None)

    def receive(self, traceparent: str | None, began_ns: int, provider: str, receipt: str, result: str) -> Span:
        """What a receipt did, begun at `began_ns` since 1970: in its message's trace, with a link to its request."""
        if self._tracer is None:
            return NO_SPAN
        request = trace.get_current_span().get_span_context()
        span = self._tracer.start_span(
            "receive",
            None if traceparent is None else _remote(traceparent),
            attributes=_attributes({"provider": provider, "receipt": receipt, "result": result}),
            links=[trace.Link(request)] if request.is_valid and traceparent is not None else None,
            start_time=began_ns,
        )
        return _Live(span)

    def _call(self, name: str, request: httpx.Request, **said: _Value) -> Span:
        if self._tracer is None:
            return NO_SPAN
        attributes = {"http.request.method": request.method, **_attributes(said)}
        if "provider" in said:  # a webhook's host is its caller's word
            attributes["server.address"] = request.url.host
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        if (traceparent := _carried(span)) is not None:
            request.headers[_TRACEPARENT] = traceparent
        return _Live(span)

    def _begin(self, name: str, kind: SpanKind, parent: Context | None, **said: _Value) -> Span:
        if self._tracer is None:
            return NO_SPAN
        return _Live(self._tracer.start_span(name, parent, kind, _attributes(said)))


def _provider(endpoint: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "SMS_GATEWAY_OTLP_ENDPOINT needs the extra `otel`: pip install 'sms-gateway[otel]'. The image has it."
        ) from error
    ours = Resource({"service.name": "sms-gateway", "service.version": __version__})
    try:
        resource = Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise ConfigurationError(f"Traces: an OTEL_ variable has a value that cannot be: {error}") from error
    return provider


def _remote(traceparent: str) -> Context:
    """The context of a `traceparent`: an empty one where it is malformed."""
    return _W3C.extract({_TRACEPARENT: traceparent}, Context())


def _carried(span: trace.Span) -> str | None:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get(_TRACEPARENT)


def _attributes(said: dict[str, _Value]) -> dict[str, str | int]:
    return {_SAID[name]: _shown(name, value) for name, value in said.items() if value is not None}


def _shown(name: str, value: str | int | UUID) -> str | int:
    return show(_PREFIXES[name], value) if isinstance(value, UUID) else value
