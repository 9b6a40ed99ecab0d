from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

from service import logs
from service.logs import JsonFormatter, request_id, scrub


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
def test_configured_logs_go_to_standard_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning")
    logging.getLogger("service.any").info("quiet")
    logging.getLogger("service.any").warning("loud")
    [written] = capsys.readouterr().err.splitlines()
    assert json.loads(written)["event"] == "loud"
    assert logging.getLogger("uvicorn.access").disabled
