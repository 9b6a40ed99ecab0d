"""A proxy before the gateway that breaks connections and answers as it is told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Self

import httpx


class Fault(Enum):
    """What happens to a request instead of passing it on and back."""

    RESET_AFTER_IT_PASSED = auto()  # the gateway took it; its answer is lost
    STALL_AFTER_IT_PASSED = auto()  # the gateway took it; nothing is answered until the client gives up
    CUT_ANSWER = auto()  # the answer stops half-way


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered instead. With `passed` the gateway takes the request all the same."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    passed: bool = False


def problem(status: int, code: str, **headers: str) -> Answer:
    """A refusal as the gateway words it."""
    whole = {
        "type": f"/problems/{code}",
        "title": "Refused",
        "status": status,
        "detail": "Do something else.",
        "code": code,
        "errors": [],
        "request_id": "req_5f0a7c3e9b1d2f4a6c8e0b13",
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(whole).encode(), {"Content-Type": "application/problem+json", **named})


@dataclass(frozen=True, slots=True)
class Seen:
    """A request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Proxy:
    """Does with each request the next of `script`; with the others it passes them on."""

    def __init__(self, gateway_url: str) -> None:
        self.script: deque[Fault | Answer] = deque()
        self.seen: list[Seen] = []
        self._http = httpx.AsyncClient(base_url=gateway_url, timeout=30)
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def keys(self) -> list[str | None]:
        """The idempotency key of each request."""
        return [seen.headers.get("idempotency-key") for seen in self.seen]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._under_way)
        await self._http.aclose()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._read(reader)
            if request is None:
                return
            told = self.script.popleft() if self.script else None
            answer = b""
            if not isinstance(told, Answer) or told.passed:
                answer = await self._pass_on(*request)
            if isinstance(told, Answer):
                answer = _raw(told.status, told.headers, told.body)
            if told is Fault.RESET_AFTER_IT_PASSED:
                linger = struct.pack("ii", 1, 0)  # on, 0 s: close sends a reset
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif told is Fault.STALL_AFTER_IT_PASSED:
                await reader.read()  # until the client hangs up
            else:
                writer.write(answer[: len(answer) // 2] if told is Fault.CUT_ANSWER else answer)
                await writer.drain()
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen.append(Seen(method, path, headers, json.loads(content) if content else None))
        return method, path, headers, content

    async def _pass_on(self, method: str, path: str, headers: dict[str, str], content: bytes) -> bytes:
        kept = {name: value for name, value in headers.items() if name not in {"host", "connection", "accept-encoding"}}
        answer = await self._http.request(method, path, headers=kept, content=content)
        named = {name: value for name, value in answer.headers.items() if name not in {"content-length", "connection"}}
        return _raw(answer.status_code, named, answer.content)


def _raw(status: int, headers: dict[str, str], content: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(content)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + content
