"""One trace from the caller through the queue to the provider, and back with receipt and webhook."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from service.app import create_app
from service.environment import Environment
from service.errors import ConfigurationError
from service.logs import JsonFormatter
from service.pipeline.worker import working
from service.runtime import Runtime
from tests import rows
from tests.collector import Collector
from tests.gateway import make_key, migrated_database, open_gateway, serve
from tests.journeys.world import free_port
from tests.listener import Listener
from tests.providers.recorder import Recorder

CONFIG = """
providers:
  acme: {{adapter: smsroute, base_url: "{provider}", api_key: key, timeout_s: 5}}
senders:
  MyApp: {{traffic: transactional}}
routes:
  - {{providers: [acme], hlr: "{hlr}"}}
hlr: {{provider: acme}}
webhooks: {{allow_loopback: true}}
deliver: {{poll_s: 0.02}}
"""
ACCEPT, BULK, RECEIPT = "POST /v1/send", "POST /v1/send/bulk", "POST /v1/receipts/{account}/{token}"


@dataclass(frozen=True, slots=True)
class Traced:
    """A gateway and its worker between a caller, a provider and a listener that look at what they are sent."""

    runtime: Runtime
    http: httpx.AsyncClient
    provider: Recorder
    listener: Listener

    async def send(self, headers: dict[str, str] | None = None, **more: Any) -> str:
        """The id of a message that is sent."""
        hook = f"{self.listener.url}/hook"
        body = {"to": "+15555550100", "from": "MyApp", "message": "Hello", "callback_url": hook} | more
        answer = await self.http.post("/v1/send", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["message_id"])

    async def receipt(self, status: str = "delivered") -> None:
        """What the provider says of its message, once it has it."""
        await self.provider.wait_for(1)
        async with asyncio.timeout(10):
            while not await self.runtime.database.fetch("SELECT FROM messages WHERE status = 'sent'"):  # noqa: ASYNC110 - a table tells nobody
                await asyncio.sleep(0.01)
        url = orjson.loads(self.submissions[0].body)["callback_url"]
        answer = await self.http.post(url, json={"message_id": "msg_7", "status": status})
        assert answer.status_code == 204, answer.text

    @property
    def submissions(self) -> list[Any]:
        return [request for request in self.provider.requests if request.path == "/v1/send"]


@asynccontextmanager
async def traced(dsn: str, endpoint: str | None, *, hlr: str = "off") -> AsyncIterator[Traced]:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(Recorder())
        provider.status, provider.json = 200, {"message_id": "msg_7", "status": "queued"}
        listener = await stack.enter_async_context(Listener())
        environment = Environment(otlp_endpoint=endpoint, port=free_port())
        config = CONFIG.format(provider=provider.url, hlr=hlr)
        runtime = await stack.enter_async_context(open_gateway(config, dsn, environment))
        url = await stack.enter_async_context(serve(create_app(runtime), environment.port))
        headers = {"Authorization": f"Bearer {await make_key(runtime, 'send', 'read')}"}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=60))
        await stack.enter_async_context(working(runtime))
        yield Traced(runtime, http, provider, listener)


@pytest.fixture
async def dsn(postgres: str, template: str) -> AsyncIterator[str]:
    async with migrated_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # ms; else a test waits 5 s for its spans
    async with Collector() as collector:
        yield collector


@pytest.fixture
async def gateway(dsn: str, collector: Collector) -> AsyncIterator[Traced]:
    async with traced(dsn, collector.url) as gateway:
        yield gateway


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Log lines as they are written."""
    caplog.handler.setFormatter(JsonFormatter())
    caplog.set_level(logging.INFO)
    return caplog


def logged(lines: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    found = [orjson.loads(line) for line in lines.text.splitlines()]
    return [line for line in found if line["event"] == event]


def a_caller(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """The ids of its trace and its span, and its headers."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, {"traceparent": f"00-{trace_id}-{span_id}-0{int(sampled)}"}


def carried(headers: Any) -> tuple[str, str]:
    """Trace and span of a request's `traceparent`."""
    version, trace_id, span_id, _ = headers["traceparent"].split("-")
    assert version == "00"
    return trace_id, span_id


async def stored(gateway: Traced) -> list[str | None]:
    return [row["traceparent"] for row in await gateway.runtime.database.fetch("SELECT traceparent FROM messages")]


async def test_one_trace_leads_from_the_caller_through_the_queue_to_provider_receipt_and_webhook(
    gateway: Traced, collector: Collector, lines: pytest.LogCaptureFixture
) -> None:
    trace_id, caller, headers = a_caller()
    gateway.listener.reply_status = 500  # so that the worker has something to log
    message_id = await gateway.send(headers)
    await gateway.receipt()
    [webhook] = await gateway.listener.wait_for(1)
    spans = await collector.of_trace(trace_id, ACCEPT, "deliver", "submit", "receive", "notify")

    accept, deliver, submit = spans[ACCEPT], spans["deliver"], spans["submit"]
    assert (accept.parent_id, deliver.parent_id, submit.parent_id) == (caller, accept.span_id, deliver.span_id)
    assert (spans["receive"].parent_id, spans["notify"].parent_id) == (accept.span_id, accept.span_id)
    kinds = {name: span.kind for name, span in spans.items()}
    assert kinds == {
        ACCEPT: "server", "deliver": "consumer", "submit": "client", "receive": "internal", "notify": "client",
    }  # fmt: skip
    assert carried(gateway.submissions[0].headers) == (trace_id, submit.span_id)
    assert carried(webhook.headers) == (trace_id, spans["notify"].span_id)
    [request] = [span for span in await collector.when(has(RECEIPT)) if span.name == RECEIPT]
    assert spans["receive"].links == (request.span_id,)
    assert request.trace_id != trace_id

    [access] = [line for line in logged(lines, "request") if line["route"] == "/v1/send"]
    assert access["trace_id"] == trace_id
    [failed] = logged(lines, "webhook not delivered")
    assert failed["trace_id"] == trace_id
    assert {span.attributes.get("messaging.message.id") for span in (accept, deliver)} == {message_id}


def has(name: str) -> Any:
    return lambda spans: any(span.name == name for span in spans)


async def test_spans_say_what_happened_in_names_and_numbers_of_the_conventions(
    gateway: Traced, collector: Collector
) -> None:
    trace_id, _, headers = a_caller()
    gateway.listener.reply_status = 500
    message_id = await gateway.send(headers)
    await gateway.receipt("undelivered")
    spans = await collector.of_trace(trace_id, ACCEPT, "deliver", "submit", "receive", "notify")
    [attempt] = await gateway.runtime.database.fetch("SELECT id FROM attempts")
    assert spans[ACCEPT].attributes == {
        "http.request.method": "POST", "http.route": "/v1/send", "http.response.status_code": 200,
        "messaging.message.id": message_id,
    }  # fmt: skip
    assert spans["deliver"].attributes == {
        "messaging.message.id": message_id, "messaging.destination.name": "transactional", "sms_gateway.country": "US",
        "sms_gateway.status": "sent",
    }  # fmt: skip
    assert spans["submit"].attributes == {
        "http.request.method": "POST", "server.address": "127.0.0.1", "http.response.status_code": 200,
        "sms_gateway.provider": "acme", "sms_gateway.outcome": "accepted",
        "sms_gateway.attempt_id": f"att_{attempt['id'].hex}",
    }  # fmt: skip
    assert spans["receive"].attributes == {
        "sms_gateway.provider": "acme", "sms_gateway.receipt": "undelivered", "sms_gateway.result": "applied",
    }  # fmt: skip
    assert spans["notify"].failed
    assert spans["notify"].attributes["error.type"] == "500"
    assert spans["notify"].attributes["sms_gateway.webhook_id"].startswith("whd_")
    assert not spans["submit"].failed
    assert {resource["service.name"] for resource in collector.resources} == {"sms-gateway"}


async def test_a_provider_that_cannot_be_reached_fails_its_span_by_the_type_of_the_error(
    gateway: Traced, collector: Collector
) -> None:
    trace_id, _, headers = a_caller()
    gateway.provider.breaks = True
    await gateway.send(headers)
    spans = await collector.of_trace(trace_id, "submit", "deliver")
    assert spans["submit"].failed
    assert spans["submit"].attributes["error.type"] == "MaybeSent"
    assert spans["submit"].attributes["sms_gateway.outcome"] == "unknown"


async def test_every_message_of_a_bulk_goes_on_with_the_trace_of_the_bulk(
    gateway: Traced, collector: Collector
) -> None:
    trace_id, caller, headers = a_caller()
    body = {"from": "MyApp", "message": "Hello", "recipients": ["+15555550100", "+15555550101"]}
    answer = await gateway.http.post("/v1/send/bulk", json=body, headers=headers)
    spans = await collector.when(lambda spans: sum(span.name == "deliver" for span in spans) == 2)
    [bulk] = [span for span in await collector.when(has(BULK)) if span.name == BULK]
    assert (bulk.trace_id, bulk.parent_id) == (trace_id, caller)
    assert bulk.attributes["sms_gateway.batch_id"] == answer.json()["batch_id"]
    delivers = [span for span in spans if span.name == "deliver"]
    assert {(span.trace_id, span.parent_id) for span in delivers} == {(trace_id, bulk.span_id)}
    assert {message["message_id"] for message in answer.json()["results"]} == {
        span.attributes["messaging.message.id"] for span in delivers
    }


async def test_a_replay_says_so_and_leaves_the_message_in_its_first_trace(
    gateway: Traced, collector: Collector
) -> None:
    first, again = a_caller(), a_caller()
    for _, _, headers in (first, again):
        await gateway.send(headers | {"Idempotency-Key": "once"})
    replay = (await collector.of_trace(again[0], ACCEPT))[ACCEPT]
    accept = (await collector.of_trace(first[0], ACCEPT, "deliver"))[ACCEPT]
    assert replay.attributes["sms_gateway.replayed"] is True
    assert "sms_gateway.replayed" not in accept.attributes
    [traceparent] = await stored(gateway)
    assert carried({"traceparent": traceparent}) == (first[0], accept.span_id)


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"ff-{'a' * 32}-00f067aa0ba902b7-01",
        f"00-{'A' * 32}-00f067aa0ba902b7-01",
        "x" * 5_000,
    ],
)
async def test_a_traceparent_that_is_none_begins_a_new_trace(
    gateway: Traced, collector: Collector, header: str
) -> None:
    await gateway.send({"traceparent": header})
    [accept] = [span for span in await collector.when(has(ACCEPT)) if span.name == ACCEPT]
    assert accept.parent_id == ""
    assert accept.trace_id not in header.lower()
    [traceparent] = await stored(gateway)
    assert carried({"traceparent": traceparent}) == (accept.trace_id, accept.span_id)


async def test_a_provider_does_not_decide_what_is_traced(gateway: Traced, collector: Collector) -> None:
    trace_id, _, headers = a_caller()
    answer = await gateway.http.post("/v1/receipts/acme/nonsense", headers=headers)
    assert answer.status_code == 403
    [request] = [span for span in await collector.when(has(RECEIPT)) if span.name == RECEIPT]
    assert request.trace_id != trace_id
    assert request.parent_id == ""
    assert request.attributes["sms_gateway.problem"] == "forged_callback"


async def test_a_trace_that_is_not_sampled_is_carried_on_and_not_exported(
    gateway: Traced, collector: Collector, lines: pytest.LogCaptureFixture
) -> None:
    trace_id, _, headers = a_caller(sampled=False)
    await gateway.send(headers)
    await gateway.receipt()
    [webhook] = await gateway.listener.wait_for(1)
    await gateway.runtime.tracing.aclose()  # exports whatever there is
    for carrier in (gateway.submissions[0].headers, webhook.headers, {"traceparent": (await stored(gateway))[0]}):
        assert carried(carrier)[0] == trace_id
        assert str(carrier["traceparent"]).endswith("-00")
    assert [span for span in collector.spans if span.trace_id == trace_id] == []
    [access] = [line for line in logged(lines, "request") if line["route"] == "/v1/send"]
    assert access["trace_id"] == trace_id


async def test_a_look_up_of_a_number_is_a_part_of_the_delivery(dsn: str, collector: Collector) -> None:
    async with traced(dsn, collector.url, hlr="required") as gateway:
        trace_id, _, headers = a_caller()
        await gateway.send(headers)
        spans = await collector.of_trace(trace_id, "deliver", "lookup", "submit")
        assert spans["lookup"].parent_id == spans["deliver"].span_id
        [asked] = [request for request in gateway.provider.requests if request.method == "GET"]
        assert carried(asked.headers) == (trace_id, spans["lookup"].span_id)
        assert "5550100" not in str(spans)


async def test_probes_and_scrapes_are_not_traced(gateway: Traced, collector: Collector) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await gateway.http.get(path)).status_code == 200
    await gateway.http.get("/v1/messages/msg_0")
    await gateway.runtime.tracing.aclose()
    assert {span.name for span in collector.spans} == {"GET /v1/messages/{message_id}"}


async def test_requests_in_one_packet_have_a_trace_each(gateway: Traced, collector: Collector) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.base_url.port)
    writer.write(b"GET /v1/messages/msg_0 HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    await collector.when(lambda spans: len(spans) == 3)
    writer.close()
    await writer.wait_closed()
    assert len({span.trace_id for span in collector.spans}) == 3
    assert {span.parent_id for span in collector.spans} == {""}
    assert not reader.at_eof()


async def test_without_a_collector_everything_works(dsn: str) -> None:
    async with traced(dsn, f"http://127.0.0.1:{free_port()}") as gateway:
        trace_id, _, headers = a_caller()
        await gateway.send(headers)
        await gateway.receipt()
        [webhook] = await gateway.listener.wait_for(1)
        assert carried(webhook.headers)[0] == trace_id


async def test_a_collector_that_says_nothing_does_not_hold_up_the_end(dsn: str) -> None:
    async with Recorder() as silent:
        silent.silent = True
        async with traced(dsn, silent.url) as gateway:
            await gateway.send(a_caller()[2])
            await asyncio.wait_for(gateway.runtime.tracing.aclose(), 6)  # the exporter itself gives up after 10 s


async def test_switched_off_nothing_is_read_stored_sent_or_logged(
    dsn: str, collector: Collector, lines: pytest.LogCaptureFixture
) -> None:
    async with traced(dsn, None) as gateway:
        await gateway.send(a_caller()[2])
        await gateway.receipt()
        [webhook] = await gateway.listener.wait_for(1)
        assert await stored(gateway) == [None]
        assert "traceparent" not in webhook.headers
        assert "traceparent" not in gateway.submissions[0].headers
    assert collector.spans == []
    assert "trace_id" not in lines.text


async def test_a_message_from_before_tracing_begins_its_trace_at_its_delivery(dsn: str, collector: Collector) -> None:
    async with traced(dsn, collector.url) as gateway:
        message = rows.a_message(await rows.a_client(gateway.runtime.database))
        await gateway.runtime.messages.add(message, None)
        [deliver] = [span for span in await collector.when(has("deliver")) if span.name == "deliver"]
        assert deliver.parent_id == ""


async def test_the_variables_of_opentelemetry_are_honoured(
    dsn: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "texts")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with traced(dsn, collector.url) as gateway:
        await gateway.send()  # a root, which is not sampled
        trace_id, _, headers = a_caller()
        await gateway.send(headers)
        await collector.of_trace(trace_id, ACCEPT)
    assert {span.trace_id for span in collector.spans} == {trace_id}
    [resource] = {tuple(sorted(resource.items())) for resource in collector.resources}
    assert {"service.name": "texts", "deployment.environment.name": "staging"}.items() <= dict(resource).items()
    assert "'x-tenant': 'shop'" in collector.said[0]
    assert "'Content-Encoding': 'gzip'" in collector.said[0]


async def test_the_switch_of_the_sdk_turns_it_off(
    dsn: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with traced(dsn, collector.url) as gateway:
        await gateway.send(a_caller()[2])
        assert await stored(gateway) == [None]
    assert collector.spans == []


async def test_without_the_extra_it_says_what_to_install(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not installed
    with pytest.raises(ConfigurationError, match=r"pip install 'sms-gateway\[otel\]'"):
        async with traced(dsn, "http://127.0.0.1:4318"):
            pass


async def test_a_variable_that_cannot_be_is_named_at_the_start(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(ConfigurationError, match="an OTEL_ variable has a value that cannot be"):
        async with traced(dsn, "http://127.0.0.1:4318"):
            pass
