"""HTTP/1.1 over one connection: a request goes out, its reply comes back. llhttp, by httptools, reads the replies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import httptools

MAX_REPLY_BYTES: Final = 2 * 1024 * 1024
_MAX_RAW_BYTES: Final = 2 * MAX_REPLY_BYTES
"""With its head, and what cuts the body into chunks."""
_MAX_HEAD_BYTES: Final = 64 * 1024
# What servers do that the specification forbids; aiohttp bears with the same.
_BORNE_WITH: Final = {
    "lenient_headers": True,
    "lenient_optional_cr_before_lf": True,
    "lenient_spaces_after_chunk_size": True,
}


class Broke(Exception):
    """The connection broke, or what came over it cannot be read. The text is a cause without anything of a request."""


@dataclass(slots=True)
class Reply:
    """What came back. `headers` as they came, in their order."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)


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
        self._raw_bytes = 0
        self._until_end = False
        self._usable = False

    @property
    def usable(self) -> bool:
        """Whether it is idle and, for all that is known here, open."""
        return self._usable and self._transport is not None and not self._transport.is_closing()

    def check_usable(self) -> None:
        """Raises `ConnectionError` where it is not: the other side has closed it already, or talks unasked."""
        if not self.usable:
            raise ConnectionError

    async def exchange(self, request: bytes) -> Reply:
        """Write a request and wait for its reply. Whatever is raised, the request may have gone out.

        Raises:
            Broke: no whole reply came.
        """
        assert self.usable  # noqa: S101 - `Connections` gives out no others
        transport = cast("asyncio.Transport", self._transport)
        self._usable, self._until_end, self._raw_bytes, self._reply = False, False, 0, Reply()
        self._answered = asyncio.get_running_loop().create_future()
        try:
            transport.write(request)
            return await self._answered
        finally:
            self._answered = None

    def abort(self) -> None:
        """Close it at once."""
        self._usable = self._until_end = False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open, with TLS where that was asked for."""
        self._transport = cast("asyncio.Transport", transport)
        self._usable = True
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        if not self._waits():
            self.abort()  # nobody asked for that
            return
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(type(error).__name__)
        if self._waits() and self._raw_bytes > (_MAX_RAW_BYTES if self._reply.status else _MAX_HEAD_BYTES):
            self._fail("ReplyTooLarge")

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
            self._usable = False  # a reply that nobody asked for would be taken for that to the next request

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line of the head."""
        self._reply.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._reply.status = self._parser.get_status_code()
        delimited = {b"content-length", b"transfer-encoding"}
        self._until_end = not any(name.strip().lower() in delimited for name, _ in self._reply.headers)

    def on_body(self, data: bytes) -> None:
        """A part of the body, without what marks chunks."""
        self._reply.body += data
        if len(self._reply.body) > MAX_REPLY_BYTES:
            self._fail("ReplyTooLarge")

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

    def _finish(self) -> None:
        if self._answered is not None and self._waits():
            self._answered.set_result(self._reply)
        self._reply = Reply()

    def _fail(self, cause: str) -> None:
        self.abort()
        if self._answered is not None and self._waits():
            self._answered.set_exception(Broke(cause))
