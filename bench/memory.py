"""The memory of `serve` and `worker`: `python -m bench.memory [--messages 1000000] [--json]`.

Idle; at full load (32 connections send as fast as they are answered, the worker submits, takes receipts and delivers
webhooks); with 1,000,000 messages queued that the worker works off as fast as it can; and with both. For each phase the
most that a process had of

- rss: what top shows, pages that it shares with others included;
- pss: the same with shared pages divided among those that share them;
- uss: its own, what its end would give back.

Linux only. PostgreSQL, the provider, the webhook sink and the load generator share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, TypeAlias

from bench.fill import queue
from bench.gateway import listens_on
from bench.load import Plan, measure
from bench.report import parser, report
from bench.world import World, a_world

BOUND_MB: Final = 150
"""What a worker may have with the queue full (rss)."""
_KINDS: Final = ("rss", "pss", "uss")
_PARTS: Final = ("serve", "worker")
_EVERY_S: Final = 0.5
_CONFIG: Final = """
providers: {{primary: {primary}}}
senders: {{MyApp: {{traffic: transactional}}, MyAppPromo: {{traffic: marketing}}}}
routes: [{{providers: [primary], hlr: "off"}}]
webhooks: {{allow_loopback: true}}
"""
_SENT: Final = "SELECT count(*) FROM attempts"

Weights: TypeAlias = dict[str, dict[str, float]]
"""Megabytes by process and kind."""


async def _heaviest(world: World, during: Awaitable[object]) -> Weights:
    """The most that each process has while something goes on."""
    processes = {part: listens_on(world.ports[part]) for part in _PARTS}
    weights: Weights = {part: dict.fromkeys(_KINDS, 0.0) for part in _PARTS}
    task = asyncio.ensure_future(during)
    while not task.done():
        for part, process in processes.items():
            now = process.memory_full_info()
            for kind in _KINDS:
                weights[part][kind] = max(weights[part][kind], getattr(now, kind) / 1e6)
        await asyncio.wait([task], timeout=_EVERY_S)
    await task
    return weights


async def _load(world: World, seconds: float) -> None:
    body = json.dumps(
        {"to": "{to}", "from": "MyApp", "message": "Your parcel {n}.", "callback_url": f"{world.sink_url}/hook"}
    )
    headers = {**world.headers["mine"], "Idempotency-Key": "{n}"}
    result = await measure(Plan(f"{world.url}/v1/send", headers, body, connections=32, seconds=seconds))
    if set(result.statuses) != {"200"}:
        raise SystemExit(f"not every answer was 200: {result.statuses}")


async def _run(options: argparse.Namespace) -> dict[str, Weights]:
    with tempfile.TemporaryDirectory() as name:
        async with a_world(Path(name), _CONFIG, ["primary"]) as world:
            phases: dict[str, Weights] = {}

            async def phase(title: str, during: Awaitable[object]) -> None:
                sent, began_s = await world.count(_SENT), time.perf_counter()
                phases[title] = await _heaviest(world, during)
                rate = (await world.count(_SENT) - sent) / (time.perf_counter() - began_s)
                _show(title, phases[title], rate)

            await phase("idle", asyncio.sleep(5))
            await phase("load", _load(world, options.seconds))
            await queue(world.dsn, "others", "MyAppPromo", f"{world.sink_url}/hook", options.messages)
            await phase("queued", asyncio.sleep(options.seconds))
            await phase("queued and load", _load(world, options.seconds))
            return phases


def _show(title: str, weights: Weights, sent_per_s: float) -> None:
    for part in _PARTS:
        shown = "  ".join(f"{weights[part][kind]:>6.1f}" for kind in _KINDS)
        print(f"{title:>16}  {part:>7}  {shown}  {sent_per_s:>6.0f}", flush=True)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--messages", type=int, default=1_000_000, help="queued")
    arguments.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    options = arguments.parse_args()
    print(f"{'phase':>16}  {'process':>7}  {'rss MB':>6}  {'pss MB':>6}  {'uss MB':>6}  {'sent/s':>6}")
    phases = asyncio.run(_run(options))
    figures = {
        f"{part}_{title.replace(' ', '_')}_{kind}_mb": weights[part][kind]
        for title, weights in phases.items()
        for part in _PARTS
        for kind in _KINDS
    }
    queued = max(phases[title]["worker"]["rss"] for title in ("queued", "queued and load"))
    ratios = {
        f"{part}_{title.replace(' ', '_')}/idle": phases[title][part]["rss"] / phases["idle"][part]["rss"]
        for title in ("load", "queued", "queued and load")
        for part in _PARTS
    }
    report(options, "memory", figures, ratios | {"worker_queued/bound": queued / BOUND_MB})
    if queued > BOUND_MB:
        raise SystemExit(f"the worker took more than {BOUND_MB} MB with the queue full")


if __name__ == "__main__":
    main()
