"""The connection of a caller, with a transport that notes what is written."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.api.connection import Connection

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Wire:
    """A transport: everything that is written, and that it was closed, in order."""

    def __init__(self) -> None:
        self.seen: list[bytes | str] = []
        self.news = asyncio.Event()

    def write(self, data: bytes) -> None:
        self.seen.append(data)
        self.news.set()

    def close(self) -> None:
        self.seen.append("closed")

    def abort(self) -> None:
        self.seen.append("aborted")

    def is_closing(self) -> bool:
        return "closed" in self.seen

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"body"})


async def answered(request: bytes) -> list[bytes | str]:
    config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
    config.load()
    connection = Connection(config, ServerState(), {})
    wire = Wire()
    connection.connection_made(cast("asyncio.Transport", wire))
    connection.data_received(request)
    await asyncio.wait_for(wire.news.wait(), 5)
    await asyncio.gather(*connection.tasks)
    connection.connection_lost(None)
    return wire.seen


async def test_an_answer_goes_out_with_one_write() -> None:
    written, *rest = await answered(REQUEST)
    assert isinstance(written, bytes)
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.endswith(b"\r\n\r\nbody")
    assert rest == ["closed"], "by the caller's leaving"


async def test_an_answer_goes_out_before_its_connection_is_closed() -> None:
    written, then, *_ = await answered(CLOSING)
    assert isinstance(written, bytes)
    assert written.endswith(b"\r\n\r\nbody")
    assert then == "closed"


async def test_a_connection_that_idles_is_ended_even_where_its_last_answer_was_not_read() -> None:
    config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
    config.load()
    connection, wire = Connection(config, ServerState(), {}), Wire()
    connection.connection_made(cast("asyncio.Transport", wire))
    connection.timeout_keep_alive_handler()
    assert wire.seen == ["aborted"]
    connection.connection_lost(None)
