"""What stays as fast as it was when the tables grow? `python -m bench.growth [--rows 10000 1000000 10000000] [--json]`.

One database grows from size to size: messages over a hundred days, with attempts, receipts, webhooks and idempotency
keys. At each size it is measured beside a new one of the first size, in turns, on the same PostgreSQL; what counts is
the ratio of their medians. So the first column of ratios is noise. Measured:

- accept, claim, begin (attempts), settle, receipt, webhook claim and settle: 32 messages through the real storage, with
  a commit each; claim none: one that looks at the whole queue and finds nothing;
- replay: an `add` with the idempotency key of one of the old messages, any of all;
- receipt by id: one that names only the provider's id, of an old message, again;
- look-up, list, and list by status, recipient and reference: one page, out of the hundred days, by the real storage;
- round, lane depths, forget keys: what each worker asks every second, five seconds and minute;
- GET and POST: look-up, lists and accept over HTTP, from a `serve` for each database. POST: the median at 200 a second;
- old: the same while a transaction is open that is older than thousands of claims and settlements; `to_without` says
  how much longer a step takes then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import httpx

from bench.gateway import command, free_port, process
from bench.load import Plan, measure
from bench.report import parser, report
from bench.steps import BATCH, Steps
from service.storage.database import Database
from service.storage.embedded import EmbeddedPostgres

AT_MOST: Final = 1.5
"""What a step may take at the largest size, in times of what it takes at the smallest."""
_SERVER: Final = {"shared_buffers": "4GB"}
"""What a server gets that is to hold 10 million messages: 14 GB."""
_CONFIG: Final = """
providers:
  primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: none}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
limits: {rates: {send: {per_s: 100000, burst: 100000}}}
"""
_BODY: Final = '{"to": "{to}", "from": "MyApp", "message": "Your parcel {n} arrives today.", "send_at": "SEND_AT"}'
_POSTS_PER_S: Final = 200
_POST_TURNS: Final = 4
_POST_S: Final = 3.0
_WARM_UP: Final = 10
_UNCOUNTED: Final = "uncounted "

Medians: TypeAlias = dict[str, float]


async def _create(server: str, name: str) -> str:
    """A new database; its DSN."""
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return urlsplit(server)._replace(path=f"/{name}").geturl()


@dataclass(frozen=True, slots=True)
class Side:
    """A database with a `serve` over it."""

    dsn: str
    url: str
    headers: dict[str, str]
    steps: Steps

    async def post(self) -> None:
        """Send single messages that are due in a week, so that they do not stand in the queue."""
        body = _BODY.replace("SEND_AT", f"{datetime.now(UTC) + timedelta(days=7):%Y-%m-%dT%H:%M:%SZ}")
        headers = {**self.headers, "Idempotency-Key": "{n}"}
        plan = Plan(f"{self.url}/v1/send", headers, body, connections=16, seconds=_POST_S, rate=_POSTS_PER_S)
        result = await measure(plan)
        if set(result.statuses) != {"200"}:
            raise SystemExit(f"not every answer was 200: {result.statuses}")
        self.steps.took.setdefault("POST", []).append(result.p50_ms / 1000)


@asynccontextmanager
async def _side(server: str, name: str, folder: Path) -> AsyncIterator[Side]:
    dsn, port = await _create(server, name), free_port()
    environment = {
        "SMS_GATEWAY_DATABASE_URL": dsn,
        "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
        "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        "SMS_GATEWAY_PORT": str(port),
    }
    await command("migrate", environment)
    made = json.loads(await command("keys create --client bench --scopes send,read --json", environment))
    url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {made['key']}"}
    async with AsyncExitStack() as stack:
        serve = process(["service.cli", "serve"], f"{url}/readyz", folder / f"{name}.log", **environment)
        await stack.enter_async_context(serve)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=60))
        database = await Database.open(dsn, statement_cache=100)
        stack.push_async_callback(database.close)
        [client] = await database.fetch("SELECT id FROM clients WHERE name = 'bench'")
        steps = Steps(database, http, client["id"])
        await steps.begin()
        yield Side(dsn, url, headers, steps)


async def _measure(sides: Sequence[Side], turns: int, dead: int) -> None:
    """Every step on every side, in turns, each side first as often as the other."""
    for turn in range(_WARM_UP + turns):
        for side in _turned(sides, turn):
            if turn == _WARM_UP:
                side.steps.took.clear()
            await side.steps.travel()
            await side.steps.ask()
            await side.steps.look_after()
            await side.steps.get()
    for turn in range(_POST_TURNS):
        for side in _turned(sides, turn):
            await side.post()
    async with AsyncExitStack() as stack:
        for side in sides:
            await stack.enter_async_context(side.steps.old_snapshot())
            for _ in range(dead // BATCH):
                await side.steps.travel(_UNCOUNTED)
        for turn in range(turns // 2):
            for side in _turned(sides, turn):
                await side.steps.travel("old ")
                await side.steps.look_after("old ")


def _turned(sides: Sequence[Side], turn: int) -> Sequence[Side]:
    return sides[:: -1 if turn % 2 else 1]


def _medians(side: Side) -> dict[str, float]:
    """Milliseconds by step."""
    took = side.steps.took
    return {step: statistics.median(took[step]) * 1000 for step in took if not step.startswith(_UNCOUNTED)}


async def _run(options: argparse.Namespace) -> dict[int, tuple[Medians, Medians]]:
    results: dict[int, tuple[Medians, Medians]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(_CONFIG)
        async with (
            EmbeddedPostgres(folder / "data", settings=_SERVER) as server,
            _side(server, "grown", folder) as grown,
        ):
            for rows in options.rows:
                began_s = time.perf_counter()
                await grown.steps.grow(grown.dsn, rows)
                async with _side(server, "small", folder) as small:
                    await small.steps.grow(small.dsn, options.rows[0])
                    taken_s, size_mb = time.perf_counter() - began_s, await grown.steps.size_mb()
                    print(
                        f"{rows:,} messages after {taken_s:.0f} s: {size_mb:,.0f} MB with all that is theirs",
                        flush=True,
                    )
                    await _measure((small, grown), options.turns, options.dead)
                    results[rows] = _medians(small), _medians(grown)
                _show(rows, *results[rows])
    return results


def _show(rows: int, small: Medians, grown: Medians) -> None:
    print(f"{'step':>22}  {'small ms':>9}  {f'{rows:,} ms':>13}  {'ratio':>6}")
    for step in small:
        ratio = grown[step] / small[step]
        print(f"{step:>22}  {small[step]:>9.2f}  {grown[step]:>13.2f}  {ratio:>6.2f}{'  !' if ratio > AT_MOST else ''}")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000], metavar="N")
    arguments.add_argument("--turns", type=int, default=60, help="at each size")
    arguments.add_argument("--dead", type=int, default=8_000, help="messages delivered behind the old snapshot first")
    options = arguments.parse_args()
    results = asyncio.run(_run(options))
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for rows, (small, grown) in results.items():
        for step in small:
            name = f"{step}_at_{rows}".replace(" ", "_")
            figures |= {f"{name}_ms": grown[step], f"{name}_baseline_ms": small[step]}
            ratios[name] = grown[step] / small[step]
            if step.startswith("old "):
                ratios[f"{name}_to_without"] = grown[step] / grown[step.removeprefix("old ")]
    report(options, "growth", figures, ratios)


if __name__ == "__main__":
    main()
