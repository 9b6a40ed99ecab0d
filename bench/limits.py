"""Does a limit hold over two replicas? `python -m bench.limits [--json]`.

Two `serve` processes on one PostgreSQL, one client with a limit, ten times that demand spread over both. Prints what
was accepted, its ratio to the limit, and how even it came: the longest and shortest gap between two accepted sends.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path

import httpx

from bench.gateway import command, free_port, process
from bench.report import parser, report
from service.storage.embedded import EmbeddedPostgres

_WITHIN = 0.05
_CONFIG = """
providers:
  primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: none}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
"""
_BODY = {"to": "+15555550100", "from": "MyApp", "message": "Hello"}


async def _hammer(urls: list[str], key: str, per_s: float, seconds: float) -> list[float]:
    """Send at a fixed rate, to each replica in turn; when each accepted answer came."""
    accepted: list[float] = []
    began_s = time.perf_counter()

    async def one(http: httpx.AsyncClient, url: str) -> None:
        answer = await http.post(f"{url}/v1/send", json=_BODY, headers={"Authorization": f"Bearer {key}"})
        if answer.status_code == httpx.codes.OK:
            accepted.append(time.perf_counter() - began_s)
        elif answer.status_code != httpx.codes.TOO_MANY_REQUESTS or "retry-after" not in answer.headers:
            raise SystemExit(f"unexpected: {answer.status_code} {answer.text}")

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=64)) as http, asyncio.TaskGroup() as group:
        for number, url in enumerate(cycle(urls)):
            due_s = began_s + number / per_s
            if max(due_s, time.perf_counter()) >= began_s + seconds:
                break
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            group.create_task(one(http, url))
    return sorted(accepted)


async def _run(seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(_CONFIG)
        async with AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(EmbeddedPostgres(folder / "data"))
            environment = {
                "SMS_GATEWAY_DATABASE_URL": dsn,
                "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
                "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
            }
            await command("migrate", environment)
            urls = []
            for number in range(2):
                port = free_port()
                urls.append(f"http://127.0.0.1:{port}")
                arguments = ["service.cli", "serve"]
                log = folder / f"{number}.log"
                port_setting = {"SMS_GATEWAY_PORT": str(port)}
                await stack.enter_async_context(
                    process(arguments, f"{urls[-1]}/readyz", log, **environment, **port_setting)
                )
            for per_s, burst in ((50, 25), (1, 1)):
                client = f"limited-{per_s}"
                made = await command(f"keys create --client {client} --scopes send --json", environment)
                await command(f"clients set {client} --limit send={per_s}:{burst}", environment)
                await asyncio.sleep(3)  # until both replicas have read the limit
                times = await _hammer(urls, json.loads(made)["key"], per_s * 10, seconds)
                gaps = [later - earlier for earlier, later in zip(times[burst:], times[burst + 1 :], strict=False)]
                figures |= {
                    f"accepted_at_{per_s}_per_s": len(times),
                    f"accepted/limit_at_{per_s}_per_s": round(len(times) / (per_s * seconds), 3),
                    f"longest_gap_at_{per_s}_per_s": round(max(gaps), 3),
                    f"shortest_gap_at_{per_s}_per_s": round(min(gaps), 3),
                }
    return figures


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=20.0)
    options = arguments.parse_args()
    figures = asyncio.run(_run(options.seconds))
    for name, value in figures.items():
        print(f"{name:>28}  {value}")
    ratios = {name: figures.pop(name) for name in list(figures) if name.startswith("accepted/limit")}
    report(options, "limits", figures, ratios)
    if max(ratios.values()) > 1 + _WITHIN:
        raise SystemExit(f"a limit was passed by more than {_WITHIN:.0%}")


if __name__ == "__main__":
    main()
