"""Durable single sends a second, against a bare typed FastAPI route: `python -m bench.accept --processes 1 2`.

Both run beside the same load generator (32 connections; wrk where it is installed), in turns, so that the noise of a
shared machine hits both; the ratio of each turn counts, and the median of them is the result. With two processes each
side has two, on a port each. The gateway's side has everything on: API key, E.164, sender, segments, a limit, a fresh
idempotency key for each request, metrics, the access log line (into a file), and a commit to a PostgreSQL with fsync on
before the answer. Peers take their turns where they are installed: Kannel (two processes, spool files, no sync to disk)
and Jasmin (one process, RabbitMQ, Redis, no sync to disk).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bench import jasmin, kannel
from bench.gateway import command, free_port, process
from bench.load import Plan, Result
from bench.report import parser, report
from bench.wrk import WRK, measure_all
from service.storage.embedded import EmbeddedPostgres

_BARE = "/bare/send"
_BODY = '{"to": "+15555550100", "from": "MyApp", "message": "Your parcel {n} arrives today between 9 and 11."}'
_CONFIG = """
providers:
  primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: none}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
limits: {rates: {send: {per_s: 100000, burst: 100000}}}
"""


Sides = dict[str, list[Plan]]
Turn = dict[str, Result]


@asynccontextmanager
async def _gateway(folder: Path, processes: int) -> AsyncIterator[Sides]:
    async with AsyncExitStack() as stack:
        environment = {
            "SMS_GATEWAY_DATABASE_URL": await stack.enter_async_context(EmbeddedPostgres(folder / "data")),
            "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
            "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        }
        await command("migrate", environment)
        key = json.loads(await command("keys create --client bench --scopes send --json", environment))["key"]
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "{n}"}
        sides: Sides = {"bare": [], "send": []}

        def plan(port: int, path: str) -> Plan:
            return Plan(f"http://127.0.0.1:{port}{path}", headers, _BODY, connections=32 // processes, seconds=1)

        for _ in range(processes):
            port, bare_port = free_port(), free_port()
            uvicorn = f"uvicorn bench.bare:app --port {bare_port} --no-access-log".split()
            for arguments, ready, own in (
                (["service.cli", "serve"], f"{port}/readyz", environment | {"SMS_GATEWAY_PORT": str(port)}),
                (uvicorn, f"{bare_port}/openapi.json", {}),
            ):
                log = folder / f"{ready.split('/')[0]}.log"
                await stack.enter_async_context(process(arguments, f"http://127.0.0.1:{ready}", log, **own))
            sides["bare"].append(plan(bare_port, _BARE))
            sides["send"].append(plan(port, "/v1/send"))
        yield sides


async def _run(processes: int, turns: int, seconds: float) -> list[Turn]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(_CONFIG)
        async with AsyncExitStack() as stack:
            sides = await stack.enter_async_context(_gateway(folder, processes))
            if kannel.INSTALLED:
                url = await stack.enter_async_context(kannel.kannel(folder))
                sides["kannel"] = [kannel.plan(url)]
            if jasmin.INSTALLED:
                url = await stack.enter_async_context(jasmin.jasmin(folder))
                sides["jasmin"] = [jasmin.plan(url)]
            for plans in sides.values():  # warm up
                await measure_all(plans)
            return [await _turn(_rotated(sides, number), seconds) for number in range(turns)]


def _rotated(sides: Sides, number: int) -> Sides:
    """Another side first in each turn: what one leaves behind to be written to disk falls on the next."""
    order = list(sides)[number % len(sides) :] + list(sides)[: number % len(sides)]
    return {side: sides[side] for side in order}


async def _turn(sides: Sides, seconds: float) -> Turn:
    turn = {
        side: await measure_all([replace(plan, seconds=seconds) for plan in plans]) for side, plans in sides.items()
    }
    for side, result in turn.items():
        if not set(result.statuses) <= {"200", "202", "2xx"}:  # Kannel's are 202
            raise SystemExit(f"{side}: not every answer was a success: {result.statuses}")
    return turn


def _show(processes: int, turns: list[Turn]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Print a table; returns figures and ratios, named by the number of processes."""
    print(f"\n{processes} process(es); load by {'wrk' if WRK else 'bench.load'}")
    print(f"{'turn':>4}  {'side':<7} {'per s':>7}  {'p50 ms':>7}  {'p99 ms':>7}  {'send/it':>7}  generator CPU")
    for number, turn in enumerate(turns, start=1):
        for side, one in turn.items():
            print(
                f"{number:>4}  {side:<7} {one.rate:>7.0f}  {one.p50_ms:>7.2f}  {one.p99_ms:>7.2f}"
                f"  {turn['send'].rate / one.rate:>7.2f}  {one.cpu:.2f}"
            )

    def median(of: Callable[[Turn], float]) -> float:
        return statistics.median(of(turn) for turn in turns)

    figures = {f"{side}_per_s_{processes}": median(lambda turn, side=side: turn[side].rate) for side in turns[0]}  # type: ignore[misc]
    figures |= {
        f"{side}_generator_cpu_{processes}": statistics.median(turn[side].cpu for turn in turns) for side in turns[0]
    }
    figures |= {
        f"send_p50_ms_{processes}": median(lambda turn: turn["send"].p50_ms),
        f"send_p99_ms_{processes}": median(lambda turn: turn["send"].p99_ms),
    }
    ratios: dict[str, float | None] = {
        f"send/{peer}_{processes}": median(lambda turn, peer=peer: turn["send"].rate / turn[peer].rate)  # type: ignore[misc]
        if peer in turns[0]
        else None
        for peer in ("bare", "kannel", "jasmin")
    }
    return figures, ratios


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--processes", type=int, nargs="+", default=[1], help="of each side, one run for each")
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each turn and side")
    options = arguments.parse_args()
    for name, installed in (("Kannel", kannel.INSTALLED), ("Jasmin", jasmin.INSTALLED)):
        if not installed:
            print(f"{name} is not installed: it is not measured.")
    figures: dict[str, float | None] = {}
    ratios: dict[str, float | None] = {}
    for processes in options.processes:
        shown = _show(processes, asyncio.run(_run(processes, options.turns, options.seconds)))
        figures |= shown[0]
        ratios |= shown[1]
    for name, ratio in ratios.items():
        print(f"{name}: {'-' if ratio is None else f'{ratio:.2f}'}")
    print("Wanted: send/bare_1 at least 0.85, send/kannel_2 at least 0.6, send/jasmin_1 at least 3.")
    report(options, "accept", figures, ratios)


if __name__ == "__main__":
    main()
