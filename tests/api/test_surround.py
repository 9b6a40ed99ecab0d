"""Request ids, access log, metrics, and errors of the gateway's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from service.api.middleware import Surround
from service.app import create_worker_app
from service.logs import JsonFormatter
from service.metrics import Metrics
from service.runtime import Runtime
from service.tracing import Tracing
from tests.api.client import NUMBER, GatewayClient, body, problem
from tests.gateway import serve


class _Lines(logging.Handler):
    """The log as it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.written: list[str] = []
        self.any_written = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))
        self.any_written.set()

    def last(self) -> dict[str, Any]:
        line: dict[str, Any] = orjson.loads(self.written[-1])
        return line


@pytest.fixture
def lines() -> Iterator[_Lines]:
    handler, logger = _Lines(), logging.getLogger("service.access")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel("INFO")
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


async def test_a_sane_request_id_is_kept(api: GatewayClient, lines: _Lines) -> None:
    response = await api.http.get("/healthz", headers={"X-Request-Id": "abc-123.X_y"})
    assert response.headers.get_list("x-request-id") == ["abc-123.X_y"]
    assert lines.last()["request_id"] == "abc-123.X_y"


@pytest.mark.parametrize("given", ["", NUMBER, "a b", "x" * 65, "a\u00e9"])
async def test_another_request_id_is_replaced(api: GatewayClient, given: str) -> None:
    headers = {"X-Request-Id": given.encode("latin-1")}
    response = await api.http.get("/nowhere", headers=headers)  # type: ignore[arg-type]
    assert problem(response, 404).request_id != given
    assert response.headers["x-request-id"].startswith("req_")


async def test_each_request_writes_one_line_without_numbers_or_text(api: GatewayClient, lines: _Lines) -> None:
    await api.send(body())
    line = lines.last()
    assert line.pop("ms") >= 0
    assert line.pop("at").endswith("Z")
    assert line.pop("request_id").startswith("req_")
    assert line == {
        "level": "info",
        "logger": "service.access",
        "event": "request",
        "method": "POST",
        "route": "/v1/send",
        "status": 200,
        "client": "shop",
    }
    assert len(lines.written) == 1


async def test_paths_are_logged_and_counted_as_templates(api: GatewayClient, runtime: Runtime, lines: _Lines) -> None:
    token = runtime.keyring.account_token("primary")
    await api.http.get(f"/v1/hlr/{NUMBER}?max_age=60")
    await api.http.post(f"/v1/receipts/primary/{token}?secret=1", content=b"x")
    await api.http.put("/v1/send")
    await api.http.get(f"/nowhere/{NUMBER}")
    written = [orjson.loads(line) for line in lines.written]
    assert [(line["route"], line["status"], line.get("problem")) for line in written] == [
        ("/v1/hlr/{number}", 200, None),
        ("/v1/receipts/{account}/{token}", 422, "unreadable_callback"),
        ("/v1/send", 405, "method_not_allowed"),
        ("(none)", 404, "not_found"),
    ]
    scraped = (await api.http.get("/metrics")).text
    for text in (*lines.written, scraped):
        assert NUMBER[1:] not in text
        assert token not in text
        assert "secret=1" not in text
    assert 'http_requests_total{method="GET",route="/v1/hlr/{number}",status="200"} 1.0' in scraped
    assert 'http_request_seconds_count{route="/v1/hlr/{number}"} 1.0' in scraped
    assert 'messages_refused_total{code="unreadable_callback"} 1.0' in scraped


async def test_an_unusual_method_makes_no_label_of_its_own(api: GatewayClient) -> None:
    response = await api.http.request("TRACE", "/v1/send")
    assert problem(response, 405).code == "method_not_allowed"
    scraped = (await api.http.get("/metrics")).text
    assert 'method="other"' in scraped
    assert "TRACE" not in scraped


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/send", "POST"),
        ("/v1/suppressions", "GET, POST"),
        ("/v1/webhooks/whe_1", "DELETE, GET, PATCH"),
        ("/v1/suppressions/import", "POST"),
        ("/v1/suppressions/+15555550100", "DELETE"),
    ],
)
async def test_the_wrong_method_says_which_are_right(api: GatewayClient, path: str, methods: str) -> None:
    response = await api.http.put(path)
    assert problem(response, 405).code == "method_not_allowed"
    assert response.headers["allow"] == methods


async def test_a_path_with_a_slash_too_many_is_a_404(api: GatewayClient) -> None:
    assert problem(await api.http.post("/v1/send/", json=body()), 404).code == "not_found"


async def test_a_caller_who_leaves_within_the_body_is_no_error_of_ours(
    base_url: str, api: GatewayClient, lines: _Lines
) -> None:
    port, key = int(base_url.rsplit(":", 1)[1]), api.http.headers["authorization"]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    writer.close()
    async with asyncio.timeout(60):
        await lines.any_written.wait()
    assert (lines.last()["status"], lines.last()["problem"]) == (400, "incomplete_body")


@pytest.fixture(scope="module")
async def failing() -> AsyncIterator[httpx.AsyncClient]:
    """An application whose handlers fail before or within their answer."""
    app = FastAPI()

    @app.get("/before")
    async def before() -> None:
        raise RuntimeError("number +15555550100")

    @app.get("/within")
    async def within() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"part"
            raise RuntimeError("broken")

        return StreamingResponse(parts())

    app.add_middleware(Surround, metrics=Metrics(), tracing=Tracing(), express={})
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        yield http


async def test_an_error_of_our_own_is_a_problem_too(failing: httpx.AsyncClient, lines: _Lines) -> None:
    response = await failing.get("/before")
    assert problem(response, 500).code == "internal_error"
    assert "5555550100" not in response.text
    failure, access = lines.written
    assert "RuntimeError" in failure
    assert NUMBER not in failure
    assert orjson.loads(access)["status"] == 500


async def test_an_answer_that_breaks_is_cut_and_logged(failing: httpx.AsyncClient, lines: _Lines) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await failing.get("/within")
    assert "broken" in lines.written[0]
    assert lines.last()["status"] == 200


async def test_a_worker_serves_health_and_metrics_only(runtime: Runtime) -> None:
    async with serve(create_worker_app(runtime)) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.get("/readyz")).json() == {"status": "ok"}
        assert "sms_gateway_lane_due_messages" in (await http.get("/metrics")).text
        assert problem(await http.post("/v1/send", json=body()), 404).code == "not_found"
