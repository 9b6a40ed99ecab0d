"""A connection of a caller: uvicorn's, with fewer and larger writes, and with bounds on what a caller may hold."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, Final, cast

import httptools
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.problems import answer
from service.errors import Problem
from service.framing import MOST_BEYOND_BYTES, beyond

MOST_HEAD_BYTES: Final = 32 * 1024
_BYTES_OF_A_HEADER: Final = 200
"""A tuple and two byte strings, besides what is in them."""
MOST_HEADERS: Final = 100
"""The same of trailers, which are thrown away."""
MOST_PIPELINED: Final = 32  # one read may bring 14,000 small requests
MOST_DISCARDED_BYTES: Final = 16 * 1024 * 1024
"""Read after an answer that ends its connection, so that a caller who is still writing a body gets to see it."""

_NOT_HTTP: Final = Problem(400, "not_http", "This is no valid request of HTTP/1.1. Use a common client library.")
_TOO_LARGE: Final = Problem(
    431, "head_too_large", f"Send at most {MOST_HEADERS} headers, and {MOST_HEAD_BYTES} bytes of URL and headers."
)
_FRAMING: Final = Problem(
    400, "framing_too_large", "Send larger chunks, with few and short extensions and trailers, or a `Content-Length`."
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
    lingers_s: ClassVar[float] = 5.0
    """How long the rest of a request is thrown away that was answered before it was whole."""
    most: ClassVar[int] = 5_000
    """Connections of a process. For one more, that is closed which has been without a whole request for longest."""

    most_heads_bytes: ClassVar[int] = 2 * 1024 * 1024
    """Of all heads together that are not whole yet. Above it the oldest of them goes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url, self.headers = b"", []
        self._received = 0
        """Bytes since the last request was whole: at least what the next one's head has."""
        self._body_bytes = self._beyond_bytes = self._trailers = 0
        self._head_is_whole = self._keeps = self._refused = False
        self._ends: asyncio.TimerHandle | None = None
        # uvicorn's state of the server is what all its connections share.
        self._waiting: OrderedDict[Connection, None] = vars(self.server_state).setdefault("waiting", OrderedDict())
        """Those that no whole request is answered on, the oldest first."""
        self._heads: OrderedDict[Connection, int] = vars(self.server_state).setdefault("heads", OrderedDict())
        """How much has come of those heads that are not whole, the oldest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Take a connection. Where there are too many, it is this one that goes only if all others are busy."""
        self._gathering = _Gathering(transport, self._close)
        super().connection_made(cast("asyncio.Transport", self._gathering))
        self._waiting[self] = None
        if len(self.connections) > self.most:
            self._waiting.popitem(last=False)[0].transport.abort()
        self._end_in_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._waiting.pop(self, None)
        self.hold(0)
        if self._ends is not None:
            self._ends.cancel()

    @property
    def _head_bytes(self) -> int:
        """What an unfinished head takes in memory: parsed headers take more than their text."""
        return self._received + _BYTES_OF_A_HEADER * len(self.headers)

    def hold(self, head_bytes: int) -> None:
        """Count an unfinished head (0: it is whole). Where all together are too large the oldest goes."""
        if not head_bytes and self not in self._heads:
            return
        state = vars(self.server_state)
        state["heads_bytes"] = state.get("heads_bytes", 0) + head_bytes - self._heads.get(self, 0)
        if head_bytes:
            self._heads[self] = head_bytes
        else:
            self._heads.pop(self, None)
        if state["heads_bytes"] > self.most_heads_bytes:
            oldest = next(iter(self._heads))
            oldest.hold(0)
            oldest.transport.abort()

    def _end_in_time(self) -> None:
        if self._ends is None:
            self._ends = self.loop.call_later(self.within_s, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as it is a request of sane size that comes in time."""
        if self._gathering.left:
            self._discard(data)
            return
        before = self._newest
        in_body = before is not None and before.more_body
        body_bytes = self._body_bytes
        self._received += len(data)
        super().data_received(data)
        newest = self._newest
        if newest is not None and not newest.more_body and (in_body or newest is not before):
            self._received = 0
            self._waiting.pop(self, None)
            self.hold(0)
            self._go_on()
            return
        if self.transport.is_closing():
            pass
        elif in_body and newest is before:
            self._beyond_bytes = beyond(self._beyond_bytes, len(data), self._body_bytes - body_bytes)
            if self._beyond_bytes > MOST_BEYOND_BYTES:
                self._refuse(_FRAMING)
        elif self._received > MOST_HEAD_BYTES and self._in_head():
            self._refuse(_TOO_LARGE)
        self.hold(self._head_bytes if self._in_head() and not self.transport.is_closing() else 0)
        self._end_in_time()

    def _discard(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MOST_DISCARDED_BYTES:
            self.transport.abort()

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

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Trailers are thrown away: nobody has looked for them when he looks at the headers.

        Raises:
            HttpParserError: there are too many.
        """
        if not self._head_is_whole:
            super().on_header(name, value)
            if len(self.headers) <= MOST_HEADERS:
                return
        elif self._trailers < MOST_HEADERS:
            self._trailers += 1
            return
        raise httptools.HttpParserError

    def on_headers_complete(self) -> None:
        """Begin with the request.

        Raises:
            HttpParserError: it is not taken. uvicorn then calls `send_400_response`.
        """
        named = self.scope["named_headers"] = dict(self.headers)  # type: ignore[typeddict-unknown-key] # see `headers`
        if self._received > MOST_HEAD_BYTES and self._is_large():
            raise httptools.HttpParserError
        if self.parser.should_upgrade() or len(self.pipeline) >= MOST_PIPELINED:
            raise httptools.HttpParserError
        if b"transfer-encoding" in named and self._codings() != [b"chunked"]:
            raise httptools.HttpParserError
        self._head_is_whole, self._trailers, self._beyond_bytes = True, 0, 0
        super().on_headers_complete()
        # Only what comes after a whole request can be told from it: an answer before that says that it is the last.
        self._keeps, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what was sent behind it; where that is nothing whole, the connection waits again."""
        super().on_response_complete()
        if not self.pipeline and (self.cycle.response_complete or self.cycle.more_body):
            self._waiting[self] = None
        if not self.pipeline and self.cycle.response_complete and not self.cycle.more_body:
            self._forget_head(self.cycle)

    def _forget_head(self, answered: RequestResponseCycle) -> None:
        """Thousands of connections that idle would else keep the heads of their last requests, 30 KB each."""
        scope = answered.scope
        scope["headers"], scope["raw_path"], scope["query_string"] = [], b"", b""
        scope.pop("named_headers", None)  # type: ignore[typeddict-item] # see `on_headers_complete`
        if self.scope is scope:  # else a part of the next head has come already
            self.headers, self.url = [], b""

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
        elif self._trailers >= MOST_HEADERS:
            self._refuse(_FRAMING)
        else:
            self._refuse(_UPGRADE if self.parser.should_upgrade() else _NOT_HTTP)

    def _refuse(self, problem: Problem) -> None:
        """Answer and close. Where earlier requests await their answers, only they are answered, and then it closes."""
        newest, self._refused = self._newest, True
        if newest is not None and not newest.response_complete and (self._in_head() or self.pipeline):
            newest.keep_alive = False
            return
        response = answer(Request({"type": "http"}), problem)
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()

    def _close(self) -> None:
        """Close. Where a request is not whole yet, stop writing only, and throw the rest of it away for a while.

        What comes on a closed connection is answered with a reset, which a caller who still writes may see in place of
        his answer.
        """
        newest, lingers = self._newest, self._gathering.left
        unread = self._refused or (newest is not None and newest.more_body and newest.response_started)
        if not unread or lingers or self.transport.is_closing():
            self._gathering.end()
            self._end_in_time()
            return
        self._gathering.leave()
        self._received = 0
        if newest is not None and not newest.response_complete:
            newest.disconnected = True
            newest.message_event.set()
        self.flow.resume_reading()
        if self._ends is not None:
            self._ends.cancel()
        self._ends = self.loop.call_later(self.lingers_s, self.transport.abort)

    def shutdown(self) -> None:
        """Answer what is under way, and close."""
        self._keeps = False
        if self._gathering.left:
            self._gathering.end()
        else:
            super().shutdown()

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
    """A transport that writes at once what it is given within one turn of the event loop.

    `closing` is called when it is to be closed, and then calls `end`, or `leave` to go on reading: `left`.
    """

    def __init__(self, transport: asyncio.Transport, closing: Callable[[], None]) -> None:
        self._transport = transport
        self._closing = closing
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held: list[bytes] = []
        self.left = False

    def write(self, data: bytes) -> None:
        if self.left:
            return
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        self._flush()
        self._closing()

    def end(self) -> None:
        self._transport.close()

    def leave(self) -> None:
        self.left = True
        self._transport.write_eof()

    def is_closing(self) -> bool:
        return self.left or self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
