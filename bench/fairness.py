"""Does one client's trouble reach another? `python -m bench.fairness [--json]`.

A client sends a few single messages a second, and what counts is the time from its 200 to the provider's ledger. First
with nothing else going on, then in the company of

- a campaign: another client's bulks of 100,000 marketing recipients through the same provider, at an MPS of 500;
- a slow sender: 2,000 messages of another client under a sender ID that may send one message a second;
- a hanging provider: 50 messages a second of another client to a country whose provider never answers.

One `serve`, one `worker`, two simulators, one PostgreSQL, all on this machine.
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime
from itertools import count
from pathlib import Path

from bench.report import parser, quantile, report
from bench.world import World, a_number, a_world

_CONFIG = """
providers:
  primary: {primary}
  hanging: {hanging}
senders:
  MyApp: {{traffic: transactional}}
  MyAppOTP: {{traffic: otp}}
  MyAppPromo: {{traffic: marketing}}
  "+447700900999": {{traffic: transactional, mps: 1}}
routes:
  - {{countries: [GB], providers: [hanging], hlr: "off"}}
  - {{providers: [primary], hlr: "off"}}
"""


async def _observe(world: World, seconds: float, per_s: float = 10) -> dict[str, list[float]]:
    """My waits by sender, while I send at a fixed rate with each of them in turn."""
    accepted: dict[str, dict[str, datetime]] = {"MyAppOTP": {}, "MyApp": {}, "MyAppPromo": {}}
    for number in range(int(seconds * per_s)):
        sender = list(accepted)[number % 3]
        to = a_number()
        accepted[sender][to] = await world.send("mine", to, sender)
        await asyncio.sleep(1 / per_s)
    await asyncio.sleep(2)
    return {sender: world.waits_s("primary", mine) for sender, mine in accepted.items()}


async def _campaign(world: World) -> None:
    for _ in range(10):
        body = {"from": "MyAppPromo", "message": "Sale!", "recipients": [a_number() for _ in range(10_000)]}
        (await world.http.post("/v1/send/bulk", json=body, headers=world.headers["others"])).raise_for_status()


async def _slow_sender(world: World) -> None:
    body = {"from": "+447700900999", "message": "Hello", "recipients": [a_number() for _ in range(2_000)]}
    (await world.http.post("/v1/send/bulk", json=body, headers=world.headers["others"])).raise_for_status()


async def _hanging(world: World) -> None:
    await world.fault("hanging", "hang")
    for number in count():
        await world.send("others", f"+4477009{number % 100_000:05d}", "MyApp")
        await asyncio.sleep(0.02)


async def _run(seconds: float) -> dict[str, dict[str, list[float]]]:
    """Waits by company and sender."""
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for company in (None, _slow_sender, _hanging, _campaign):
            folder = Path(name) / (company.__name__ if company else "alone")
            folder.mkdir()
            async with a_world(folder, _CONFIG, ["primary", "hanging"], paces={"primary": ", mps: 500"}) as world:
                await _observe(world, 2)  # warm up
                disturbing = asyncio.create_task(company(world)) if company else None
                await asyncio.sleep(1)
                results[company.__name__.strip("_") if company else "alone"] = await _observe(world, seconds)
                if disturbing is not None:
                    if disturbing.done():
                        disturbing.result()
                    disturbing.cancel()
    return results


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=15.0, help="of each part")
    options = arguments.parse_args()
    results = asyncio.run(_run(options.seconds))
    print(f"{'company':>12}  {'sender':>11}  {'p50 ms':>7}  {'p99 ms':>7}  {'p50 / alone':>11}  {'p99 / alone':>11}")
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for company, by_sender in results.items():
        for sender, waits in by_sender.items():
            p50, p99 = (quantile(waits, share) * 1000 for share in (0.5, 0.99))
            alone = results["alone"][sender]
            r50, r99 = p50 / quantile(alone, 0.5) / 1000, p99 / quantile(alone, 0.99) / 1000
            print(f"{company:>12}  {sender:>11}  {p50:>7.1f}  {p99:>7.1f}  {r50:>11.2f}  {r99:>11.2f}")
            figures |= {f"{company}_{sender}_p50_ms": p50, f"{company}_{sender}_p99_ms": p99}
            if company != "alone":
                ratios |= {f"{company}/alone_{sender}_p50": r50, f"{company}/alone_{sender}_p99": r99}
    report(options, "fairness", figures, ratios)


if __name__ == "__main__":
    main()
