"""HTTP/1.1 over one connection: a request goes out, its reply comes back. llhttp, by httptools, reads the replies."""

from __future__ import annotations

import asyncio
import select
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NoReturn, cast

import httptools

from service.framing import MOST_BEYOND_BYTES, beyond

_MAX_LINES: Final = 256
"""Of heads and trailers, those of interim replies (100, 103) too."""
# What servers do that the specification forbids; aiohttp bears with the same.
_BORNE_WITH: Final = {
    "lenient_headers": True,
    "lenient_optional_cr_before_lf": True,
    "lenient_spaces_after_chunk_size": True,
}


class Broke(Exception):
    """The connection broke, or what came over it cannot be read. The text is a cause without anything of a request."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a reply is read.

    `rest_within_s`: the status is all that is wanted. The body is not kept, and where it is not over that long after
    the head, or is above `body_bytes`, or breaks, the connection is dropped and the reply is good all the same.
    """

    head_bytes: int = 64 * 1024
    body_bytes: int = 2 * 1024 * 1024
    rest_within_s: float | None = None


ANY_REPLY: Final = Bounds()
"""Large enough for any set of an issuer's keys."""


@dataclass(slots=True)
class Reply:
    """What came back. `headers` as they came, in their order, without trailers (RFC 9110, section 6.5.1)."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    def head_bytes(self) -> int:
        """What the headers take."""
        return sum(len(name) + len(value) for name, value in self.headers)


class Wire(asyncio.Protocol):
    """One connection. It is idle, or it has one request on its way; once anything is amiss it is never used again.

    It is in the set that it is given for as long as it is open. Replies to HEAD, which have the length of a body and
    no body, cannot be read.
    """

    def __init__(self, open_: set[Wire]) -> None:
        self._open = open_
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**_BORNE_WITH)
        self._reply = Reply()
        self._answered: asyncio.Future[Reply] | None = None
        self._bounds = ANY_REPLY
        self._rest: asyncio.TimerHandle | None = None
        self._raw_bytes = self._body_bytes = self._beyond_bytes = self._lines = 0
        self._until_end = False
        self._usable = False
        self._unread = select.poll()

    @property
    def usable(self) -> bool:
        """Whether it is idle and, for all that is known here, open."""
        return self._usable and self._transport is not None and not self._transport.is_closing()

    @property
    def still_usable(self) -> bool:
        """The same of one that was idle, with a look at what the event loop has not read yet.

        Where the loop was held up that may be the end, and a request written now would be lost with an unknown outcome.
        Anything else is no better, also under TLS: its session tickets come before the first reply.
        """
        return self.usable and not self._unread.poll(0)

    def check_usable(self) -> None:
        """Raises `ConnectionError` where it is not: the other side has closed it already, or talks unasked."""
        if not self.usable:
            raise ConnectionError

    async def exchange(self, request: bytes, bounds: Bounds = ANY_REPLY) -> Reply:
        """Write a request and wait for its reply. Whatever is raised, the request may have gone out.

        Raises:
            Broke: no whole reply came, or one beyond `bounds`.
        """
        assert self.usable  # noqa: S101 - `Connections` gives out no others
        transport = cast("asyncio.Transport", self._transport)
        self._usable, self._until_end, self._bounds, self._reply = False, False, bounds, Reply()
        self._raw_bytes = self._body_bytes = self._beyond_bytes = self._lines = 0
        self._answered = asyncio.get_running_loop().create_future()
        try:
            transport.write(request)
            return await self._answered
        finally:
            self._answered = None
            if self._rest is not None:
                self._rest.cancel()
                self._rest = None

    def abort(self) -> None:
        """Close it at once."""
        self._usable = self._until_end = False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open, with TLS where that was asked for."""
        self._transport = cast("asyncio.Transport", transport)
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._usable = True
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if not self._waits():
            self.abort()  # nobody asked for that
            return
        in_body, body_bytes = self._reply.status != 0, self._body_bytes
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(type(error).__name__)
        if not self._waits():
            return
        if in_body:
            self._beyond_bytes = beyond(self._beyond_bytes, len(data), self._body_bytes - body_bytes)
        head_is_large = not self._reply.status and self._raw_bytes > self._bounds.head_bytes
        if head_is_large or self._beyond_bytes > MOST_BEYOND_BYTES:
            self._fail("ReplyTooLarge")
        elif self._rest is None and self._status_is_enough():
            wait_s = cast("float", self._bounds.rest_within_s)
            self._rest = asyncio.get_running_loop().call_later(wait_s, self._fail, "RestTooSlow")

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed, by whomever."""
        self._usable = False
        if self._until_end and error is None:
            self._finish()
        self._fail("ServerDisconnected" if error is None else type(error).__name__)
        self._open.discard(self)
        self._transport = None
        del self._parser  # which holds methods of this object, so that neither would go without the garbage collector

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A reply begins."""
        if not self._waits():
            self._stop("Unasked")  # a reply that nobody asked for would be taken for that to the next request
        self._count_line()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of the head, or a trailer, which is never a header."""
        self._count_line()
        if not self._reply.status:
            self._reply.headers.append((name, value))

    def _count_line(self) -> None:
        self._lines += 1
        if self._lines > _MAX_LINES:
            self._stop("ReplyTooLarge")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        # A part of the body may have come in the same read.
        if self._raw_bytes > self._bounds.head_bytes and self._reply.head_bytes() > self._bounds.head_bytes:
            self._stop("ReplyTooLarge")
        self._reply.status = self._parser.get_status_code()
        delimited = {b"content-length", b"transfer-encoding"}
        self._until_end = not any(name.strip().lower() in delimited for name, _ in self._reply.headers)

    def on_body(self, data: bytes) -> None:
        """A part of the body, without what marks chunks."""
        self._body_bytes += len(data)
        if self._body_bytes > self._bounds.body_bytes:
            self._stop("ReplyTooLarge")
        if self._bounds.rest_within_s is None:
            self._reply.body += data

    def on_message_complete(self) -> None:
        """The reply is whole."""
        if self._reply.status < HTTPStatus.OK:  # 100 or 103: the reply is yet to come (RFC 9110, section 15.2)
            self._until_end, self._reply = False, Reply()
            return
        # After a reply to half a request servers close, and the next request would meet that.
        written = not cast("asyncio.Transport", self._transport).get_write_buffer_size()
        self._usable = self._waits() and written and self._parser.should_keep_alive()
        self._finish()

    def _waits(self) -> bool:
        return self._answered is not None and not self._answered.done()

    def _status_is_enough(self) -> bool:
        return self._bounds.rest_within_s is not None and self._reply.status >= HTTPStatus.OK

    def _finish(self) -> None:
        if self._answered is not None and self._waits():
            self._answered.set_result(self._reply)
        self._reply = Reply()

    def _fail(self, cause: str) -> None:
        self.abort()
        if self._answered is None or not self._waits():
            return
        if self._status_is_enough():
            self._finish()
        else:
            self._answered.set_exception(Broke(cause))

    def _stop(self, cause: str) -> NoReturn:
        """Fail, and let the parser read nothing more of what has come."""
        self._fail(cause)
        raise httptools.HttpParserError(cause)
