"""A load generator: so many keep-alive connections, each sending its next request when the last is answered.

It runs in a process of its own and reports its own CPU time, to show whether it was the bottleneck.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import count, repeat
from typing import cast
from urllib.parse import urlsplit

import psutil


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where: a GET where its body is empty.

    `body` and `headers` may hold `{n}`, which becomes a number that no other request has, and `body` also `{to}`,
    one of 1,000 subscribers in turn. `rate`: how many a second at most; None: as many as are answered.
    """

    url: str
    headers: dict[str, str]
    body: str
    connections: int
    seconds: float
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. `statuses` counts answers by status; `cpu` is the share of a core that the generator used."""

    rate: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    cpu: float


def subscriber(number: int) -> str:
    """One of 1,000 numbers that the simulator delivers."""
    return f"+1{201 + number % 1000 // 100}55501{number % 100:02d}"


class _Connection(asyncio.Protocol):
    """One connection with one request on its way."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""
        self._began_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._next()

    def _next(self) -> None:
        assert self._transport is not None  # noqa: S101 - connected
        if time.perf_counter() >= self._load.ends_s:
            self._transport.close()
            return
        if (wait_s := self._load.turn_s() - time.perf_counter()) > 0:
            asyncio.get_running_loop().call_later(wait_s, self._send)
        else:
            self._send()

    def _send(self) -> None:
        assert self._transport is not None  # noqa: S101 - connected
        self._began_s = time.perf_counter()
        self._transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or not _is_whole(head.lower(), rest):
            return
        self._buffer = b""
        self._load.answered(head[9:12].decode(), time.perf_counter() - self._began_s)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._load.closed()


def _is_whole(head: bytes, body: bytes) -> bool:
    if b"content-length:" in head:
        return len(body) >= int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return body.endswith(b"0\r\n\r\n")  # the last chunk


class _Load:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        target = urlsplit(plan.url)
        self.host, self.port = target.hostname or "", target.port or 80
        path = target.path + (f"?{target.query}" if target.query else "")
        lines = [f"{'POST' if plan.body else 'GET'} {path} HTTP/1.1", f"Host: {target.netloc}"]
        if plan.body:
            lines.append("Content-Type: application/json")
        self._head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in plan.headers.items())])
        self._numbers = count(time.time_ns())
        self._open = plan.connections
        self._turns_s = count(time.perf_counter(), 1 / plan.rate) if plan.rate else repeat(0.0)
        self.ends_s = time.perf_counter() + plan.seconds
        self.latencies_s: list[float] = []
        self.statuses: dict[str, int] = {}
        self.done = asyncio.Event()

    def turn_s(self) -> float:
        """When the next request is due."""
        return next(self._turns_s)

    def request(self) -> bytes:
        number = str(next(self._numbers))
        body = self._plan.body.replace("{n}", number).replace("{to}", subscriber(int(number)))
        return f"{self._head.replace('{n}', number)}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def answered(self, status: str, latency_s: float) -> None:
        self.latencies_s.append(latency_s)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def closed(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.done.set()


async def _run(plan: Plan) -> Result:
    load = _Load(plan)
    loop = asyncio.get_running_loop()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(plan.connections):
        await loop.create_connection(lambda: _Connection(load), load.host, load.port)
    await asyncio.wait_for(load.done.wait(), timeout=plan.seconds + 30)
    took_s = time.perf_counter() - began_s
    latencies = sorted(load.latencies_s) or [0.0]
    return Result(
        rate=len(load.latencies_s) / took_s,
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1000,
        statuses=load.statuses,
        cpu=(time.process_time() - cpu_s) / took_s,
    )


async def measure(plan: Plan, *, nice: int = 0) -> Result:
    """Run a plan in a process of its own, of that niceness."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    psutil.Process(process.pid).nice(nice)
    output, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    return Result(**json.loads(output))


def main() -> None:
    plan = Plan(**json.loads(sys.stdin.read()))
    try:
        import uvloop  # noqa: PLC0415 - where there is one
    except ImportError:
        runner = asyncio.run
    else:
        runner = uvloop.run
    print(json.dumps(asdict(runner(_run(plan)))))


if __name__ == "__main__":
    main()
