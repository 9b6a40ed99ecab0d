"""Does a campaign hold up an OTP? `python -m bench.otp_isolation [--seconds 30] [--json]`.

One client sends single OTPs; what counts is the time from the accept (`created_at`) to the provider's ledger. First
with nothing else going on, then while another client's 100,000 marketing recipients drain through the same two
providers at an MPS of 500, which take 250 ms for an answer (`--provider-ms`). The campaign's rate at the providers is
shown too: to starve it would be no isolation.

A `worker` of its own does the OTPs, and one with a lower priority all else, as docs/performance.md advises; with
`--one-worker` a single one does everything. PostgreSQL, `serve` and two simulated providers, which send receipts, share
the machine.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from bench.report import parser, quantile, report
from bench.world import SERVE, WORKER, Part, World, a_number, a_world

_PROVIDERS: Final = ("primary", "fallback")
_MPS: Final = 500
_OTPS_PER_S: Final = 20
_AT_ONCE: Final = 10_000
_CONFIG: Final = """
providers: {{primary: {primary}, fallback: {fallback}}}
senders: {{MyAppOTP: {{traffic: otp}}, MyAppPromo: {{traffic: marketing}}}}
routes: [{{providers: [primary, fallback], hlr: "off"}}]
"""
_APART: Final = (
    SERVE,
    Part("worker", "otp", {"SMS_GATEWAY_WORK": "otp"}),
    Part("worker", "others", {"SMS_GATEWAY_WORK": "transactional,marketing,webhooks"}, nice=10),
)


@dataclass(frozen=True, slots=True)
class Observed:
    """The waits of OTPs, and what the campaign had at the providers meanwhile. `lost`: OTPs that never came."""

    waits_ms: list[float]
    campaign_per_s: float
    lost: int


def _came(world: World) -> dict[str, datetime]:
    """When each number was first sent to."""
    came: dict[str, datetime] = {}
    for name in _PROVIDERS:
        for to, at in world.came(name, by="to").items():
            came[to] = min(at, came.get(to, at))
    return came


async def _observe(world: World, seconds: float) -> Observed:
    accepted: dict[str, datetime] = {}
    sending: set[asyncio.Task[None]] = set()

    async def send(to: str) -> None:
        accepted[to] = await world.send("mine", to, "MyAppOTP")

    before, began_s = len(_came(world)), time.monotonic()
    for number in range(int(seconds * _OTPS_PER_S)):
        await asyncio.sleep(began_s + number / _OTPS_PER_S - time.monotonic())
        sending.add(asyncio.create_task(send(a_number())))
    took_s, after = time.monotonic() - began_s, len(_came(world))
    await asyncio.gather(*sending)
    await asyncio.sleep(3)  # what is not there by then has lost its worth
    came = _came(world)
    waits_ms = [(came[to] - at).total_seconds() * 1000 for to, at in accepted.items() if to in came]
    return Observed(waits_ms, (after - before - len(waits_ms)) / took_s, len(accepted) - len(waits_ms))


async def _flood(world: World, recipients: int) -> None:
    for start in range(0, recipients, _AT_ONCE):
        numbers = [a_number() for _ in range(min(_AT_ONCE, recipients - start))]
        body = {"from": "MyAppPromo", "message": "We open at nine.", "recipients": numbers}
        answer = await world.http.post("/v1/send/bulk", json=body, headers=world.headers["others"])
        answer.raise_for_status()


async def _run(parts: Sequence[Part], seconds: float, recipients: int, provider_ms: float) -> tuple[Observed, Observed]:
    with tempfile.TemporaryDirectory() as name:
        paces = dict.fromkeys(_PROVIDERS, f", mps: {_MPS}")
        async with a_world(Path(name), _CONFIG, _PROVIDERS, paces=paces, parts=parts) as world:
            for provider in _PROVIDERS:
                await world.fault(provider, "none", provider_ms / 1000)
            await _observe(world, 3)  # warm up
            idle = await _observe(world, seconds)
            await _flood(world, recipients)
            await asyncio.sleep(3)
            flood = await _observe(world, seconds)
            if not await world.count("SELECT count(*) FROM messages WHERE status = 'queued'"):
                raise SystemExit("the campaign had ended before the observation did: give more recipients")
            return idle, flood


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0, help="of each observation")
    arguments.add_argument("--recipients", type=int, default=100_000, help="of the campaign")
    arguments.add_argument("--one-worker", action="store_true", help="a single worker for all")
    arguments.add_argument("--provider-ms", type=float, default=250.0, help="how long a provider takes")
    options = arguments.parse_args()
    parts = (SERVE, WORKER) if options.one_worker else _APART
    running = _run(parts, options.seconds, options.recipients, options.provider_ms)
    observed = dict(zip(("idle", "flood"), asyncio.run(running), strict=True))
    figures: dict[str, float] = {}
    print(f"{'':>5}  {'OTPs':>5}  {'p50 ms':>7}  {'p99 ms':>7}  {'lost':>4}  {'campaign/s':>10}")
    for name, seen in observed.items():
        p50, p99 = quantile(seen.waits_ms, 0.5), quantile(seen.waits_ms, 0.99)
        cells = f"{len(seen.waits_ms):>5}  {p50:>7.1f}  {p99:>7.1f}  {seen.lost:>4}  {seen.campaign_per_s:>10.0f}"
        print(f"{name:>5}  {cells}")
        figures |= {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99, f"{name}_lost": seen.lost}
    figures["campaign_per_s"] = observed["flood"].campaign_per_s
    ratios = {
        f"flood/idle_{share}": figures[f"flood_{share}_ms"] / figures[f"idle_{share}_ms"] for share in ("p50", "p99")
    }
    ratios["campaign/mps"] = figures["campaign_per_s"] / _MPS
    print(f"p99 beside the flood / idle: {ratios['flood/idle_p99']:.2f} (at most 1.5 is wanted)")
    report(options, "otp_isolation", figures, ratios)


if __name__ == "__main__":
    main()
