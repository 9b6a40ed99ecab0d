"""Durable single sends a second, against a bare typed FastAPI route: `python -m bench.accept [--json]`.

Both run as one process beside the same load generator (32 connections), in turns, so that the noise of a shared
machine hits both; the ratio of each turn counts, and the median of them is the result. The gateway's side has
everything on: API key, E.164, sender, segments, a limit, a fresh idempotency key for each request, metrics, the access
log line (into a file), and a commit to a PostgreSQL with fsync on before the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path

from bench.gateway import command, free_port, process
from bench.load import Plan, Result, measure
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


async def _run(turns: int, seconds: float) -> list[tuple[Result, Result]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gateway.yaml").write_text(_CONFIG)
        async with EmbeddedPostgres(folder / "data") as dsn:
            gateway_port, bare_port = free_port(), free_port()
            environment = {
                "SMS_GATEWAY_DATABASE_URL": dsn,
                "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
                "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
                "SMS_GATEWAY_PORT": str(gateway_port),
            }
            await command("migrate", environment)
            key = json.loads(await command("keys create --client bench --scopes send --json", environment))["key"]
            gateway_url, bare_url = f"http://127.0.0.1:{gateway_port}", f"http://127.0.0.1:{bare_port}"
            uvicorn = f"uvicorn bench.bare:app --port {bare_port} --no-access-log".split()
            async with (
                process(["service.cli", "serve"], f"{gateway_url}/readyz", folder / "gateway.log", **environment),
                process(uvicorn, f"{bare_url}/openapi.json", folder / "bare.log"),
            ):
                headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "{n}"}
                gateway = Plan(f"{gateway_url}/v1/send", headers, _BODY, connections=32, seconds=seconds)
                bare = Plan(f"{bare_url}{_BARE}", headers, _BODY, connections=32, seconds=seconds)
                for plan in (gateway, bare):  # warm up
                    await measure(plan)
                return [(await measure(bare), await measure(gateway)) for _ in range(turns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn and side")
    options = parser.parse_args()
    turns = asyncio.run(_run(options.turns, options.seconds))
    print(f"{'turn':>4}  {'bare/s':>8}  {'send/s':>8}  {'p50 ms':>7}  {'p99 ms':>7}  {'ratio':>6}  generator CPU")
    for number, (bare, send) in enumerate(turns, start=1):
        print(
            f"{number:>4}  {bare.rate:>8.0f}  {send.rate:>8.0f}  {send.p50_ms:>7.2f}  {send.p99_ms:>7.2f}"
            f"  {send.rate / bare.rate:>6.2f}  {bare.cpu:.2f} / {send.cpu:.2f}"
        )
        if set(bare.statuses) != {"200"} or set(send.statuses) != {"200"}:
            raise SystemExit(f"not every answer was 200: {bare.statuses} {send.statuses}")
    ratio = statistics.median(send.rate / bare.rate for bare, send in turns)
    print(f"median ratio: {ratio:.2f} (at least 0.6 is wanted)")
    if options.json:
        figures = {
            "bare_per_s": round(statistics.median(bare.rate for bare, _ in turns)),
            "send_per_s": round(statistics.median(send.rate for _, send in turns)),
            "send_p50_ms": round(statistics.median(send.p50_ms for _, send in turns), 2),
            "send_p99_ms": round(statistics.median(send.p99_ms for _, send in turns), 2),
        }
        print(json.dumps({"name": "accept", "figures": figures, "ratios": {"send/bare": round(ratio, 3)}}))


if __name__ == "__main__":
    main()
