"""Messages a second through everything: `python -m bench.end_to_end [--rate 350] [--seconds 60] [--json]`.

Accept, HLR verdict from the cache, submit, receipt, signed webhook acknowledged, on the gateway's defaults. The
provider takes 250 ms for an answer and the receiver 100 ms, as real ones do (`--provider-ms`, `--receiver-ms`; 0 leaves
what the gateway itself takes). Single sends come at a fixed rate.
What is under way is counted after a third of the time, after two and at the end: the rate is sustained when that is
never more than one and a half seconds' worth, and at the end no more than half a second's worth above the first count.
Then the same at half the rate, to see how long a message takes from its accept to the provider.

PostgreSQL, one `serve`, one `worker`, a simulated provider and one that it could fail over to, the webhook sink and the
load generator share the machine. How fast that is says the bare route of `bench.accept`, measured before, between and
after: 350 messages a second on a machine where it answers 5,000 requests are 0.07 of it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import wrk
from bench.gateway import free_port, process
from bench.load import Plan, Result, measure, subscriber
from bench.report import parser, quantile, report
from bench.world import World, a_world

_CONFIG = """
providers: {{primary: {primary}, fallback: {fallback}}}
senders: {{MyApp: {{traffic: transactional}}}}
routes: [{{providers: [primary, fallback], hlr: cached}}]
hlr: {{provider: primary}}
webhooks: {{allow_loopback: true}}
"""
_KNOWN = 1_000
"""Numbers that the HLR cache knows, over which the messages go round."""
_BODY = json.dumps(
    {
        "to": "{to}",
        "from": "MyApp",
        "message": "Your parcel {n} arrives today between 9 and 11.",
        "callback_url": "SINK/hook",
        "reference": "{n}",
    }
)
_BARE_S = 2.0
_OPEN = "SELECT count(*) FROM messages WHERE ended_at IS NULL"
_UNSENT = "SELECT count(*) FROM webhook_deliveries WHERE state = 'pending'"


@dataclass(frozen=True, slots=True)
class Phase:
    """One rate, kept up for a while. `left`: what was under way, see above. `cpu`: what each part used a second."""

    load: Result
    acknowledged_per_s: float
    left: tuple[int, int, int]
    cpu: dict[str, float]

    @property
    def cpu_ms(self) -> dict[str, float]:
        """The same for each message that went all the way."""
        return {part: 1000 * used / max(self.acknowledged_per_s, 1.0) for part, used in self.cpu.items()}


async def _acknowledged(world: World) -> int:
    answer = await world.http.get(f"{world.sink_url}/count")
    return int(answer.json()["webhooks"])


def _cpu_s() -> dict[str, float]:
    """CPU time by part so far."""
    used: dict[str, float] = {}
    for running in psutil.process_iter(["cmdline", "name", "cpu_times"]):
        words = " ".join(running.info["cmdline"] or ())
        parts = ("service.cli serve", "service.cli worker", "service.cli simulator", "bench.sink", "postgres")
        part = next((part for part in parts if part in words or part == running.info["name"]), None)
        if part is not None:
            times = running.info["cpu_times"]
            name = part.rpartition(" ")[2]
            used[name] = used.get(name, 0.0) + times.user + times.system
    return used


async def _phase(world: World, rate: float, seconds: float) -> Phase:
    before, cpu_before, began_s = await _acknowledged(world), _cpu_s(), time.monotonic()
    body = _BODY.replace("SINK", world.sink_url)
    headers = {**world.headers["mine"], "Idempotency-Key": "{n}"}
    plan = Plan(f"{world.url}/v1/send", headers, body, connections=32, seconds=seconds, rate=rate)
    load, (first, second) = await asyncio.gather(measure(plan), _under_way_meanwhile(world, seconds))
    after, cpu_after, took_s = await _acknowledged(world), _cpu_s(), time.monotonic() - began_s
    left = first, second, await _under_way(world)
    cpu = {part: (used - cpu_before.get(part, 0.0)) / took_s for part, used in cpu_after.items()}
    return Phase(load, (after - before) / took_s, left, cpu)


async def _under_way(world: World) -> int:
    return await world.count(_OPEN) + await world.count(_UNSENT)


async def _under_way_meanwhile(world: World, seconds: float) -> tuple[int, int]:
    await asyncio.sleep(seconds / 3)
    first = await _under_way(world)
    await asyncio.sleep(seconds / 3)
    return first, await _under_way(world)


async def _drained(world: World) -> None:
    while await _under_way(world):  # noqa: ASYNC110 - a table tells nobody
        await asyncio.sleep(0.2)


async def _know_numbers(world: World) -> None:
    """Fill the HLR cache."""
    limit = asyncio.Semaphore(20)

    async def look_up(number: int) -> None:
        async with limit:
            answer = await world.http.get(f"/v1/hlr/{subscriber(number)}", headers=world.headers["mine"])
            answer.raise_for_status()

    await asyncio.gather(*(look_up(number) for number in range(_KNOWN)))


async def _waits_ms(world: World, skip: int) -> list[float]:
    """From accept to the provider, sorted, but for the first `skip` messages. Keys in the ledger name messages."""
    rows = await world.fetch("SELECT id, created_at FROM messages")
    accepted = {row["id"].hex: row["created_at"] for row in rows}
    came = list(world.came("primary").items())[skip:]
    return sorted((at - accepted[key.partition(":")[0]]).total_seconds() * 1000 for key, at in came)


async def _bare_per_s(folder: Path) -> float:
    """Requests a second of the bare route, in a process that runs meanwhile only."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    uvicorn = f"uvicorn bench.bare:app --port {port} --no-access-log".split()
    async with process(uvicorn, f"{url}/openapi.json", folder / "bare.log"):
        return (await wrk.measure(Plan(f"{url}/bare/send", {}, _BODY, connections=32, seconds=_BARE_S))).rate


async def _run(
    rate: float, seconds: float, provider_ms: float, receiver_ms: float
) -> tuple[Phase, Phase, list[float], float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with a_world(folder, _CONFIG, ["primary", "fallback"], receiver_ms=receiver_ms) as world:
            await _know_numbers(world)
            await world.fault("primary", "none", provider_ms / 1000)
            await _phase(world, rate / 2, 3)  # warm up
            await _drained(world)
            bare = [await _bare_per_s(folder)]
            full = await _phase(world, rate, seconds)
            await _drained(world)
            bare.append(await _bare_per_s(folder))
            sent = len(world.came("primary"))
            half = await _phase(world, rate / 2, min(seconds, 20))
            await _drained(world)
            bare.append(await _bare_per_s(folder))
            return full, half, await _waits_ms(world, sent), statistics.median(bare)


def _tell(name: str, phase: Phase) -> None:
    cpu = "  ".join(f"{part} {used:.2f}" for part, used in sorted(phase.cpu.items()))
    load = phase.load
    print(
        f"{name:>10}  {load.rate:>8.0f}  {phase.acknowledged_per_s:>14.0f}  {phase.left[-1]:>5}  {load.p50_ms:>7.1f}"
        f"  {load.p99_ms:>7.1f}  generator {load.cpu:.2f}  {cpu}"
    )
    print(" " * 10, *(f" {part} {ms:.2f} ms a message" for part, ms in sorted(phase.cpu_ms.items())))
    if set(load.statuses) != {"200"}:
        raise SystemExit(f"not every answer was 200: {load.statuses}")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rate", type=float, default=350.0, help="messages a second")
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--provider-ms", type=float, default=250.0, help="how long the provider takes")
    arguments.add_argument("--receiver-ms", type=float, default=100.0, help="how long the receiver of webhooks takes")
    options = arguments.parse_args()
    full, half, waits_ms, bare_per_s = asyncio.run(
        _run(options.rate, options.seconds, options.provider_ms, options.receiver_ms)
    )
    print("      rate  accept/s  acknowledged/s   left   p50 ms   p99 ms  CPU (cores)")
    _tell("full", full)
    _tell("half", half)
    p50, p99 = quantile(waits_ms, 0.5), quantile(waits_ms, 0.99)
    print(f"accept to provider at half the rate: p50 {p50:.1f} ms, p99 {p99:.1f} ms, of {len(waits_ms)}")
    sustained = max(full.left) <= 1.5 * options.rate and full.left[-1] <= full.left[0] + options.rate / 2
    thirds = ", ".join(map(str, full.left))
    print(
        f"{options.rate:.0f}/s {'is' if sustained else 'is NOT'} sustained: {thirds} under way, by thirds of the time"
    )
    ratio = full.acknowledged_per_s / bare_per_s
    print(f"{full.acknowledged_per_s:.0f}/s are {ratio:.2f} of the bare route's {bare_per_s:.0f}/s (0.07 is wanted)")
    figures = {
        "bare_per_s": bare_per_s,
        "accepted_per_s": full.load.rate,
        "acknowledged_per_s": full.acknowledged_per_s,
        "left_after_a_third": full.left[0],
        "left_after_two_thirds": full.left[1],
        "left": full.left[2],
        "generator_cpu": full.load.cpu,
        "accept_to_provider_p50_ms": p50,
        "accept_to_provider_p99_ms": p99,
        **{f"cpu_ms_of_{part.removeprefix('bench.')}": ms for part, ms in full.cpu_ms.items()},
    }
    ratios = {"acknowledged/bare": ratio, "acknowledged/accepted": full.acknowledged_per_s / full.load.rate}
    report(options, "end_to_end", figures, ratios)


if __name__ == "__main__":
    main()
