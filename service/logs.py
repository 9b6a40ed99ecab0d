"""JSON logs, one object a line. Message text, secrets and whole numbers never reach them.

Callers log numbers through `mask`. As a second line of defence the formatter masks whatever looks like a number or a
credential in any string, tracebacks included.
"""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_NUMBER = re.compile(r"(\+|%2[Bb])(\d{3})\d{2,10}(\d{2})\b")
_SECRET = re.compile(r"(Bearer\s+|sk_|whsec_|postgres(?:ql)?://[^:/@\s]*:)[^\s\"'@]+")
_TOKEN = re.compile(r"(/v1/receipts/[^/\s]+/)[\w-]+")


def scrub(text: str) -> str:
    """`text` with numbers, credentials and callback tokens made unreadable."""
    if "+" in text or "%2" in text:
        text = _NUMBER.sub(r"\1\2*****\3", text)
    if "/receipts/" in text:
        text = _TOKEN.sub(r"\1***", text)
    # Most strings hold nothing of the kind, and this runs for each string of each line.
    if "Bearer" in text or "sk_" in text or "whsec_" in text or "://" in text:
        text = _SECRET.sub(r"\1***", text)
    return text


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: at, level, logger, event, request_id and what was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": scrub(record.getMessage()),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                line[key] = scrub(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = scrub(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure(level: str) -> None:
    """Send every log line to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True  # the middleware writes its own, with the request id
    logging.getLogger("alembic").setLevel("WARNING")
