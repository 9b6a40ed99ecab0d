"""A connection of a caller: uvicorn's, with fewer and larger writes, and with bounds on what a caller may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

import httptools
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.problems import answer
from service.errors import Problem

MOST_HEAD_BYTES: Final = 32 * 1024
MOST_HEADERS: Final = 100
MOST_PIPELINED: Final = 32  # one read may bring 14,000 small requests

_NOT_HTTP: Final = Problem(400, "not_http", "This is no valid request of HTTP/1.1. Use a common client library.")
_TOO_LARGE: Final = Problem(
    431, "head_too_large", f"Send at most {MOST_HEADERS} headers, and {MOST_HEAD_BYTES} bytes of URL and headers."
)

# The parser takes what follows for another protocol, so the body would be lost.
_UPGRADE: Final = Problem(400, "upgrade_refused", "Send HTTP/1.1 without `Upgrade`, e.g. without h2c.")


class Connection(HttpToolsProtocol):
    """Sends an answer with one write, and gives up a caller who takes his time.

    uvicorn writes head and body apart: two system calls and two packets, and the caller wakes up twice. And it bounds
    only the time between two requests. Here a request must be whole `within_s` after the connection was made, or after
    its first bytes; an answer must be read within that time too; a head has a size.
    """

    within_s: ClassVar[float] = 30.0
    """Longer than what handlers allow a body, so that a slow one hears of it."""
    most: ClassVar[int] = 5_000
    """Connections of a process; one more is closed at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url, self.headers = b"", []
        self._received = 0
        """Bytes since the last request was whole: at least what the next one's head has."""
        self._ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Take a connection, unless there are too many."""
        super().connection_made(cast("asyncio.Transport", _Gathering(transport, self._end_in_time)))
        if len(self.connections) > self.most:
            self.transport.abort()
        self._end_in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        if self._ends is not None:
            self._ends.cancel()

    def _end_in_time(self) -> None:
        if self._ends is None:
            self._ends = self.loop.call_later(self.within_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as it is a request of sane size that comes in time."""
        before = self._newest
        was_whole = before is not None and not before.more_body
        self._received += len(data)
        super().data_received(data)
        newest = self._newest
        if newest is not None and not newest.more_body and not (was_whole and newest is before):
            self._received = 0
            self._go_on()
            return
        if self._received > MOST_HEAD_BYTES and self._in_head() and not self.transport.is_closing():
            self._refuse(_TOO_LARGE)
        self._end_in_time()

    def _go_on(self) -> None:
        """There is nothing to wait for any more, unless it is for the caller to read."""
        if self._ends is not None and not self.flow.write_paused and not self.transport.is_closing():
            self._ends.cancel()
            self._ends = None

    def _in_head(self) -> bool:
        """Whether what comes is not the body of the newest request."""
        newest = self._newest
        return newest is None or self.scope is not newest.scope or not newest.more_body

    @property
    def _newest(self) -> RequestResponseCycle | None:
        """The newest request whose head is whole, with its answer. uvicorn's type says that there always is one."""
        return self.cycle

    def on_headers_complete(self) -> None:
        """Begin with the request.

        Raises:
            HttpParserError: it is not taken. uvicorn then calls `send_400_response`.
        """
        named = self.scope["named_headers"] = dict(self.headers)  # type: ignore[typeddict-unknown-key] # see `headers`
        if len(self.headers) > MOST_HEADERS or (self._received > MOST_HEAD_BYTES and self._is_large()):
            raise httptools.HttpParserError
        if self.parser.should_upgrade() or len(self.pipeline) >= MOST_PIPELINED:
            raise httptools.HttpParserError
        if b"transfer-encoding" in named and self._codings() != [b"chunked"]:
            raise httptools.HttpParserError
        super().on_headers_complete()

    def _codings(self) -> list[bytes]:
        """Where there are several, two servers may see two ends of one request."""
        return [value.lower() for name, value in self.headers if name == b"transfer-encoding"]

    def _is_large(self) -> bool:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        return size > MOST_HEAD_BYTES or len(self.headers) > MOST_HEADERS

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """Refuse what is no request."""
        if self._in_head() and self._is_large():
            self._refuse(_TOO_LARGE)
        else:
            self._refuse(_UPGRADE if self.parser.should_upgrade() else _NOT_HTTP)

    def _refuse(self, problem: Problem) -> None:
        """Answer and close. Where earlier requests await their answers, only they are answered, and then it closes."""
        newest = self._newest
        if newest is not None and not newest.response_complete and (self._in_head() or self.pipeline):
            newest.keep_alive = False
            return
        response = answer(Request({"type": "http"}), problem)
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that idles, even where it has not read its last answer."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Wait for a caller who does not read."""
        super().pause_writing()
        self._end_in_time()

    def resume_writing(self) -> None:
        """Go on: he reads."""
        super().resume_writing()
        if self._received == 0:
            self._go_on()


class _Gathering:
    """A transport that writes at once what it is given within one turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, closing: Callable[[], None]) -> None:
        self._transport = transport
        self._closing = closing
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()
        self._closing()

    def _flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
