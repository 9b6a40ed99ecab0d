"""What the gateway does when it is asked for too much: `python -m bench.overload [--messages N] [--json]`.

One serve, one worker, one PostgreSQL. The queue is filled with 1,000,000 messages that the only provider, a slow one,
will not get rid of. Then 20 clients post bulks of 10,000 recipients, each its next one when the last is answered,
beside a client that sends single messages. Shown: the memory of both processes, how late their event loops were at
most (and how much of that they computed themselves: the rest is the machine's), who was shed, and what single sends
took before and meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import httpx

from bench.gateway import command, free_port, listens_on, process
from bench.report import parser, report
from service.storage.embedded import EmbeddedPostgres

BOUND_MB: Final = 256
"""What each process may take, whatever is asked of it here."""
_SINGLES_PER_S: Final = 50
_CONFIG: Final = """
providers:
  slow: {{adapter: smsroute, base_url: "http://127.0.0.1:{port}", api_key: none, mps: 1}}
senders: {{MyApp: {{traffic: transactional}}, MyAppOTP: {{traffic: otp}}, MyAppPromo: {{traffic: marketing}}}}
routes: [{{providers: [slow], hlr: "off"}}]
"""
_FILL: Final = """
INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments, send_at, due_at,
                      expires_at)
SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
       client.id, '+1555' || lpad(n::text, 7, '0'), 'MyAppPromo', 'We open at nine.', 'marketing', 'US', 'gsm-7', 1,
       now(), now(), now() + interval '12 hours'
FROM clients AS client, generate_series($1::int, $2::int) AS n
"""
_AT_ONCE: Final = 100_000
_SOON_S: Final = 0.01


@dataclass(slots=True)
class Answers:
    """What a kind of request was answered: statuses, and seconds by status."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, response: httpx.Response, seconds: float) -> None:
        """Count an answer that took so long."""
        status = str(response.status_code)
        code = "" if response.is_success else f" {response.json()['code']}"
        self.seconds.setdefault(f"{status}{code}", []).append(seconds)

    def ms(self, share: float) -> float:
        """The quantile of all, in milliseconds."""
        return _quantile([second for seconds in self.seconds.values() for second in seconds], share)

    def shown(self) -> dict[str, dict[str, float]]:
        """By status: how many, and how long they took."""
        return {
            status: {"count": len(seconds), "p50_ms": _quantile(seconds, 0.5), "max_ms": _quantile(seconds, 1)}
            for status, seconds in sorted(self.seconds.items())
        }


def _quantile(seconds: list[float], share: float) -> float:
    ordered = sorted(seconds) or [0.0]
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is watched, by its port and its log."""

    port: int
    log: Path

    async def loop(self) -> dict[str, float]:
        """How late the loop was: at most, so far as the buckets of the metric say; and each time by over 50 ms."""
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30)).text
        buckets = re.findall(r'loop_lag_seconds_bucket\{le="([\d.]+)"\} ([\d.]+)', metrics)
        total = float(re.findall(r"loop_lag_seconds_count ([\d.]+)", metrics)[0])
        lines = [line for line in self.log.read_text().splitlines() if "the event loop was held up" in line]
        late = [json.loads(line) for line in lines]
        return {
            "all_within_ms": min(
                (float(le) * 1000 for le, count in buckets if float(count) == total), default=math.inf
            ),
            "within_10_ms": round(next(float(count) for le, count in buckets if float(le) == _SOON_S) / total, 4),
            "over_50_ms": len(late),
            "latest_ms": max((each["ms"] for each in late), default=0),
            "computed_ms": max((each["computed_ms"] for each in late), default=0),
        }


async def _fill(dsn: str, messages: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for first in range(0, messages, _AT_ONCE):
            await connection.execute(_FILL, first, min(first + _AT_ONCE, messages) - 1, timeout=600)
        await connection.execute("ANALYZE messages", timeout=600)
    finally:
        await connection.close()


async def _singles(http: httpx.AsyncClient, answers: Answers, seconds: float) -> None:
    """OTPs at a steady rate, whatever the others take."""
    ends_s = time.perf_counter() + seconds
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() < ends_s:
            group.create_task(_send(http, answers))
            await asyncio.sleep(1 / _SINGLES_PER_S)


async def _send(http: httpx.AsyncClient, answers: Answers) -> None:
    body = {"to": "+15555550100", "from": "MyAppOTP", "message": "Your verification code is 481902."}
    began_s = time.perf_counter()
    answers.add(await http.post("/v1/send", json=body), time.perf_counter() - began_s)


async def _bulks(http: httpx.AsyncClient, answers: Answers, body: bytes, ends_s: float) -> None:
    while time.perf_counter() < ends_s:
        began_s = time.perf_counter()
        response = await http.post("/v1/send/bulk", content=body, headers={"Content-Type": "application/json"})
        answers.add(response, time.perf_counter() - began_s)
        if not response.is_success:
            await asyncio.sleep(float(response.headers["retry-after"]))


@asynccontextmanager
async def _gateway(folder: Path, dsn: str) -> AsyncIterator[tuple[str, str, dict[str, Process]]]:
    """The key, the URL and both processes."""
    (folder / "gateway.yaml").write_text(_CONFIG.format(port=free_port()))
    environment = {
        "SMS_GATEWAY_DATABASE_URL": dsn,
        "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
        "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
    }
    await command("migrate", environment)
    key = json.loads(await command("keys create --client bench --scopes send --json", environment))["key"]
    processes = {name: Process(free_port(), folder / f"{name}.log") for name in ("serve", "worker")}
    async with AsyncExitStack() as stack:
        for name, each in processes.items():
            port = {"SMS_GATEWAY_PORT": str(each.port)}
            ready = f"http://127.0.0.1:{each.port}/readyz"
            await stack.enter_async_context(process(["service.cli", name], ready, each.log, **environment, **port))
        yield key, f"http://127.0.0.1:{processes['serve'].port}", processes


async def _load(url: str, key: str, options: argparse.Namespace) -> tuple[Answers, Answers, Answers]:
    """Singles before, singles beside the bulks, and the bulks."""
    before, during, bulks = Answers(), Answers(), Answers()
    recipients = [f"+1555{number:07}" for number in range(options.recipients)]
    body = json.dumps({"from": "MyAppPromo", "message": "We open at nine.", "recipients": recipients}).encode()
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as alone,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as many,
        asyncio.TaskGroup() as group,
    ):
        await _singles(alone, before, options.seconds / 2)
        ends_s = time.perf_counter() + options.seconds
        for _ in range(options.clients):
            group.create_task(_bulks(many, bulks, body, ends_s))
        await _singles(alone, during, options.seconds)
    return before, during, bulks


async def _run(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedPostgres(folder / "data") as dsn, _gateway(folder, dsn) as (key, url, processes):
            memory: dict[str, dict[str, float]] = {which: {} for which in processes}

            def weigh(when: str) -> None:
                for which, each in processes.items():
                    memory[which][when] = round(listens_on(each.port).memory_info().rss / 1e6)

            weigh("idle")
            await _fill(dsn, options.messages)
            await asyncio.sleep(2)
            weigh("queue_full")
            before, during, bulks = await _load(url, key, options)
            weigh("after")
            for which, each in processes.items():
                memory[which]["peak"] = _peak_mb(listens_on(each.port).pid)
            loops = {name: await each.loop() for name, each in processes.items()}
        return {
            "memory_mb": memory,
            "loop": loops,
            "singles_p99_ms": {"before": before.ms(0.99), "during": during.ms(0.99)},
            "singles": during.shown(),
            "bulks": bulks.shown(),
        }


def _peak_mb(pid: int) -> float:
    """The most memory that a process ever had (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)


def _flat(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Each figure with the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}_{key}".strip("_").replace(" ", "_"), inner)
    elif isinstance(value, int | float):
        yield name, value


def _show(figures: dict[str, object]) -> None:
    for name, value in figures.items():
        print(name)
        assert isinstance(value, dict)  # noqa: S101 - see _run
        for row, cells in value.items():
            print(f"    {row:18} {cells}")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--messages", type=int, default=1_000_000, help="queued before the load")
    arguments.add_argument("--recipients", type=int, default=10_000, help="of each bulk")
    arguments.add_argument("--clients", type=int, default=20, help="that post bulks at once")
    arguments.add_argument("--seconds", type=float, default=20.0, help="of load")
    options = arguments.parse_args()
    figures = asyncio.run(_run(options))
    _show(figures)
    flat = dict(_flat("", figures))
    peaks = {name: flat[f"memory_mb_{name}_peak"] for name in ("serve", "worker")}
    ratios = {f"{name}_peak/bound": peak / BOUND_MB for name, peak in peaks.items()}
    ratios["singles_p99_during/before"] = flat["singles_p99_ms_during"] / flat["singles_p99_ms_before"]
    report(options, "overload", flat, ratios)
    if any(peak > BOUND_MB for peak in peaks.values()):
        raise SystemExit(f"a process took more than {BOUND_MB} MB")


if __name__ == "__main__":
    main()
