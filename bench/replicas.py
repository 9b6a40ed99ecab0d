"""Does a provider's MPS hold over several workers? `python -m bench.replicas [--json]`.

Two `serve` and three `worker` processes on one PostgreSQL, one simulated provider with an MPS, and more messages than
it can take, OTPs and others. Counts what came to the provider, by its ledger:

- `rate`: messages a second over the whole time, against the MPS;
- `busiest second`: the most attempts begun in any one second, against the MPS;
- `at the provider`: the same by its ledger. It holds what its own process was late as well: all share the machine;
- the same while one worker is killed (`kill -9`) a third of the way. Its lease is short here.

That limits of callers hold over two replicas is measured by `python -m bench.limits`.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from bisect import bisect_left
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

import asyncpg
import httpx

from bench.gateway import command, free_port, listens_on, process
from bench.report import parser, report
from service.storage.embedded import EmbeddedPostgres

_WITHIN = 0.05
_WORKERS = 3
_SERVES = 2
_CONFIG = """
providers:
  primary:
    {{adapter: smsroute, base_url: "http://127.0.0.1:{port}", api_key: key, webhook_secret: "{secret}", mps: {mps}}}
senders: {{MyApp: {{traffic: transactional}}, MyAppOTP: {{traffic: otp}}}}
routes: [{{providers: [primary], hlr: "off"}}]
deliver: {{lease_s: 5}}
"""
_SECRET = "whsec_" + "c2VjcmV0" * 4
_numbers = count()


@dataclass(frozen=True, slots=True)
class Figures:
    """Messages a second, and the most in any second, each divided by the MPS."""

    rate: float
    busiest: float
    at_provider: float


def _number() -> str:
    """One that nobody else has, and that the simulator delivers."""
    number = next(_numbers)
    return f"+1{200 + number // 10_000}5{number // 100 % 100:02}01{number % 100:02}"


async def _fill(urls: list[str], key: str, messages: int) -> None:
    """A backlog, half of it OTPs: only they may use the whole MPS, so there are enough of them for the whole time."""
    async with httpx.AsyncClient(timeout=60, headers={"Authorization": f"Bearer {key}"}) as http:
        for number in range(0, messages, 500):
            sender = "MyAppOTP" if number // 500 % 2 else "MyApp"
            body = {"from": sender, "message": "Hello", "recipients": [_number() for _ in range(500)]}
            url = urls[number // 500 % len(urls)]
            (await http.post(f"{url}/v1/send/bulk", json=body)).raise_for_status()


def _sends(ledger: Path) -> list[float]:
    lines = [json.loads(line) for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return sorted(datetime.fromisoformat(send["at"]).timestamp() for line in lines for send in line["sends"])


async def _begun(dsn: str) -> list[float]:
    """When each attempt was written, which is right before its call."""
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0].timestamp() for row in await connection.fetch("SELECT started_at FROM attempts ORDER BY 1")]
    finally:
        await connection.close()


def _figures(begun: list[float], sends: list[float], mps: float, seconds: float) -> Figures:
    """Of the `seconds` after the first two, in which workers begin."""
    since = begun[0] + 2
    begun, sends = ([at - since for at in times if since <= at < since + seconds] for times in (begun, sends))
    return Figures(len(begun) / seconds / mps, _busiest(begun) / mps, _busiest(sends) / mps)


def _busiest(times: list[float]) -> int:
    """The most in any one second."""
    return max(bisect_left(times, at + 1) - number for number, at in enumerate(times))


async def _measure(mps: float, seconds: float, *, kill: bool) -> Figures:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(EmbeddedPostgres(folder / "data"))
            port = free_port()
            ports = [free_port() for _ in range(_SERVES + _WORKERS)]
            urls = [f"http://127.0.0.1:{number}" for number in ports[:_SERVES]]
            (folder / "gateway.yaml").write_text(_CONFIG.format(port=port, secret=_SECRET, mps=mps))
            settings = {
                "SMS_GATEWAY_DATABASE_URL": dsn,
                "SMS_GATEWAY_SECRET_KEY": "bench" * 8,
                "SMS_GATEWAY_CONFIG": str(folder / "gateway.yaml"),
                "SMS_GATEWAY_PUBLIC_URL": urls[0],
            }
            await command("migrate", settings)
            made = json.loads(await command("keys create --client bench --scopes send --json", settings))
            words = f"simulator --name primary --port {port} --data-dir {folder} --api-key key"
            arguments = ["service.cli", *words.split(), "--webhook-secret", _SECRET]
            ready = f"http://127.0.0.1:{port + 10}/ledger?to=x"
            await stack.enter_async_context(process(arguments, ready, folder / "primary.log"))
            for number, own_port in enumerate(ports):
                kind = "serve" if number < _SERVES else "worker"
                if number == _SERVES:
                    await _fill(urls, made["key"], int(mps * (seconds + 10) / 250 + 2) * 500)
                ready = f"http://127.0.0.1:{own_port}/readyz"
                own = settings | {"SMS_GATEWAY_PORT": str(own_port)}
                log = folder / f"{kind}{number}.log"
                await stack.enter_async_context(process(["service.cli", kind], ready, log, **own))
            await asyncio.sleep(seconds / 3)
            if kill:
                listens_on(ports[-1]).kill()
            await asyncio.sleep(seconds * 2 / 3 + 3)
            begun = await _begun(dsn)
        return _figures(begun, _sends(folder / "primary.jsonl"), mps, seconds)


async def _run(rates: list[float], seconds: float) -> dict[tuple[float, bool], Figures]:
    return {(mps, kill): await _measure(mps, seconds, kill=kill) for mps in rates for kill in (False, True)}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=20.0, help="of each part")
    arguments.add_argument("--mps", type=float, nargs="+", default=[50.0, 200.0])
    options = arguments.parse_args()
    results = asyncio.run(_run(options.mps, options.seconds))
    print(
        f"{'mps':>6}  {'worker killed':>13}  {'rate / mps':>10}  {'busiest second / mps':>20}  {'at the provider':>15}"
    )
    sums: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for (mps, killed), figures in results.items():
        shown = f"{figures.rate:>10.3f}  {figures.busiest:>14.3f}  {figures.at_provider:>15.3f}"
        print(f"{mps:>6g}  {'yes' if killed else 'no':>13}  {shown}")
        name = f"{mps:g}_mps" + ("_killed" if killed else "")
        own = {"rate": figures.rate, "busiest_second": figures.busiest, "at_provider": figures.at_provider}
        sums |= {f"{which}_at_{name}": ratio * mps for which, ratio in own.items()}
        ratios |= {f"{which}/mps_at_{name}": ratio for which, ratio in own.items()}
    report(options, "replicas", sums, ratios)
    if any(abs(figures.rate - 1) > _WITHIN for figures in results.values()):
        raise SystemExit(f"a rate was off by more than {_WITHIN:.0%}")


if __name__ == "__main__":
    main()
