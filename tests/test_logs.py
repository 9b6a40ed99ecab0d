from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from service import logs
from service.logs import JsonFormatter, Output, request_id, scrub


def line(message: str, *arguments: object, **extra: object) -> dict[str, object]:
    record = logging.getLogger("service.test").makeRecord(
        "service.test", logging.WARNING, __file__, 1, message, arguments, None, extra=extra
    )
    parsed: dict[str, object] = json.loads(JsonFormatter().format(record))
    return parsed


def test_a_line_is_one_json_object() -> None:
    found = line("sent %d", 3, provider="primary", attempt=2)
    at = found.pop("at")
    assert found == {
        "level": "warning", "logger": "service.test", "event": "sent 3", "provider": "primary", "attempt": 2,
    }  # fmt: skip
    assert isinstance(at, str)
    assert at.endswith("Z")
    assert datetime.fromisoformat(at).tzinfo is not None


def test_a_line_of_a_request_carries_its_id() -> None:
    token = request_id.set("req-1")
    try:
        assert line("hello")["request_id"] == "req-1"
    finally:
        request_id.reset(token)
    assert "request_id" not in line("hello")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("to +15555550100 now", "5555550100"),
        ("GET /v1/hlr/%2B447700900123", "7700900123"),
        ("GET /v1/hlr/%2b447700900123", "7700900123"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("key sk_live_4711", "live_4711"),
        ("whsec_c2VjcmV0", "c2VjcmV0"),
        ("postgresql://user:hunter2@db/sms", "hunter2"),
        ("postgres://user:hunter2@db/sms", "hunter2"),
        ("POST /v1/receipts/primary/AaII0GMgesug_gxAG3N-Z", "AaII0GMgesug_gxAG3N-Z"),
    ],
)
def test_numbers_and_secrets_are_made_unreadable(text: str, secret: str) -> None:
    assert secret not in scrub(text)
    assert secret not in str(line(text))
    assert secret not in str(line("x", extra_text=text))


def test_a_masked_number_can_still_be_told_apart() -> None:
    assert scrub("to +15555550100.") == "to +155*****00."


@pytest.mark.parametrize("text", ["", "plain", "1+1=2", "100%2", "http://host/path", "a task was done"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert scrub(text) == text


def test_a_traceback_is_scrubbed_too() -> None:
    try:
        int("+15555550100 is no number")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", None, sys.exc_info())
    found = json.loads(JsonFormatter().format(record))
    assert "ValueError" in found["traceback"]
    assert "5555550100" not in found["traceback"]


def test_what_json_does_not_know_is_shown_as_text() -> None:
    assert line("x", thing=ValueError("odd"))["thing"] == "odd"


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Puts the root logger back as pytest wants it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False


@pytest.mark.usefixtures("untouched_logging")
def test_configured_logs_go_to_standard_error_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning")
    logging.getLogger("service.any").info("quiet")
    logging.getLogger("service.any").warning("loud")
    [written] = capfd.readouterr().err.splitlines()
    assert json.loads(written)["event"] == "loud"
    assert logging.getLogger("uvicorn.access").disabled


class Pipe:
    """A pipe to log into."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.reader = os.fdopen(reading, "rb")
        self.output = Output(self.writing)
        self.logger = logging.Logger("service.test")  # noqa: LOG001 - of this test alone
        self.logger.addHandler(self.output)

    def read(self, lines: int) -> list[dict[str, Any]]:
        """The next lines; waits for them."""
        return [json.loads(self.reader.readline()) for _ in range(lines)]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.writing)
    pipe.reader.close()


def test_a_line_without_a_record_is_what_a_record_would_have_written(pipe: Pipe) -> None:
    fields: dict[str, Any] = {"method": "POST", "status": 200, "ms": 1.5, "client": "caf\u00e9"}
    token = request_id.set("req-1")
    try:
        logs.info(pipe.logger, "request", fields)
        pipe.logger.info("request", extra=fields)
    finally:
        request_id.reset(token)
    ours, records = pipe.read(2)
    assert ours.keys() == records.keys()
    assert list(ours) == list(records), "in the same order"
    assert abs(datetime.fromisoformat(ours.pop("at")) - datetime.fromisoformat(records.pop("at"))) < timedelta(
        seconds=5
    )
    assert ours == records


def test_a_line_outside_of_a_request_has_no_request_id(pipe: Pipe) -> None:
    logs.info(pipe.logger, "request", {})
    assert "request_id" not in pipe.read(1)[0]


def test_a_level_above_info_keeps_lines_without_a_record_out(pipe: Pipe) -> None:
    pipe.logger.setLevel("WARNING")
    logs.info(pipe.logger, "request", {})
    pipe.logger.warning("loud")
    assert pipe.read(1)[0]["event"] == "loud"


async def test_lines_of_one_moment_keep_their_order(pipe: Pipe) -> None:
    for number in range(200):
        (logs.info if number % 2 else _by_record)(pipe.logger, "line", {"number": number})
    found = await asyncio.to_thread(pipe.read, 200)
    assert [line["number"] for line in found] == list(range(200))


def _by_record(logger: logging.Logger, event: str, fields: dict[str, Any]) -> None:
    logger.info(event, extra=fields)


async def test_a_reader_that_is_stuck_holds_up_nobody_and_what_is_lost_is_told(pipe: Pipe) -> None:
    filler = "x" * 100
    for number in range(50_010):  # far more than a pipe takes
        logs.info(pipe.logger, "line", {"number": number, "filler": filler})
    for _ in range(20):
        await asyncio.sleep(0.01)  # where the pipe is full, the loop goes on
    found = await asyncio.to_thread(pipe.read, 50_001)
    numbers = [line["number"] for line in found if line["event"] == "line"]
    assert numbers == list(range(50_000))
    [told] = [line for line in found if line["event"] == "log lines were lost"]
    assert told["lines"] == 10


def test_what_waits_when_the_loop_ends_is_written_at_the_end(pipe: Pipe) -> None:
    async def begin() -> None:
        logs.info(pipe.logger, "within", {})

    asyncio.run(begin())
    pipe.logger.info("after")
    assert [line["event"] for line in pipe.read(2)] == ["within", "after"]


@pytest.mark.usefixtures("untouched_logging")
def test_what_waits_is_written_before_anything_else_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    async def begin() -> None:
        logging.getLogger("service.any").warning("within")

    logs.configure("info")
    asyncio.run(begin())
    logs.flush()
    assert json.loads(capfd.readouterr().err)["event"] == "within"
