"""What others have while the gateway is attacked: `python -m bench.attacks [--only NAME ...] [--seconds 8] [--json]`.

Another client sends OTPs and lists its messages, and an operator lists the providers: first with nothing else going on,
then under each attack. For each attack a system of its own: PostgreSQL, `serve`, `worker`, simulated or hostile peers,
all on loopback. Shown are the p99 of the accept over HTTP, of the wait from there to the provider's ledger, and of the
lists (`half_bulks`: of bulks); what was no 2xx or never came; how late the loop of `serve` was, at most; and the most
memory (rss) of either process.

Wanted: at most 130 MB and three times the idle p99, and no OTP refused, each where the attack is aimed at that. What is
not kept is said, and ends with exit code 1 unless `--report-only` is given. Callers that attack run at a lower
priority, since they share the machine here. Each attack is bounded in connections, bytes and time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench import assaults
from bench.assaults import Doing, Stage
from bench.bystanders import Bystanders, Observed, Request, a_key, weighed
from bench.callers import NICE
from bench.gateway import free_port, process
from bench.hostile import THROTTLED_SENDER
from bench.report import parser, report
from bench.world import Part, a_world

MOST_MB: Final = 130
MOST_TIMES: Final = 3.0
_ORIGINS: Final = 20
_LONGEST_S: Final = 300.0
_SOON: Final = {"SMS_GATEWAY_DRAIN_S": "1"}
_PARTS: Final = (Part("serve", "serve", _SOON), Part("worker", "worker", _SOON))
_REST: Final = f"""
senders:
  MyAppOTP: {{{{traffic: otp}}}}
  MyApp: {{{{traffic: transactional}}}}
  MyAppPromo: {{{{traffic: marketing}}}}
  {THROTTLED_SENDER}: {{{{traffic: transactional}}}}
webhooks: {{{{allow_loopback: true}}}}
"""
_USUAL: Final = _REST + 'providers: {{primary: {primary}}}\nroutes: [{{providers: [primary], hlr: "off"}}]'
_THROTTLING: Final = (
    _REST
    + f"""
providers: {{{{twilio: {{{{adapter: twilio, base_url: "http://127.0.0.1:HOSTILE", api_key: "AC{"0" * 32}:token"}}}}}}}}
routes: [{{{{providers: [twilio], hlr: "off"}}}}]
"""
)
_SLOW: Final = (
    _REST
    + """
providers: {{primary: {primary}, slow: {slow}}}
routes: [{{countries: [GB], providers: [slow], hlr: "off"}}, {{providers: [primary], hlr: "off"}}]
deliver: {{lease_s: 30LANES}}
"""
)
_USUAL_LANES: Final = _SLOW.replace("LANES", "")
_WIDE_LANES: Final = _SLOW.replace("LANES", ", lanes: {{otp: 400, transactional: 400, marketing: 400}}")


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done, and what must hold meanwhile: `memory`, `otps`, `others` (none of their requests is refused).

    Bystanders send with `senders` in turn, and what they send goes by `provider`.
    """

    does: Doing
    wanted: frozenset[str]
    config: str = _USUAL
    providers: tuple[str, ...] = ("primary",)
    provider: str = "primary"
    senders: tuple[str, ...] = ("MyAppOTP",)
    slow_pace: str = ", timeout_s: 25"
    before: Callable[[Stage], Awaitable[None]] | None = None


_throttled = partial(Attack, wanted=frozenset({"otps"}), config=_THROTTLING, providers=(), provider="twilio")
_slow = partial(
    Attack,
    assaults.slow_provider,
    frozenset(),
    providers=("primary", "slow"),
    senders=("MyAppOTP", "MyApp", "MyAppPromo"),
)
ATTACKS: Final = {
    "trailers": Attack(assaults.trailers, frozenset({"memory", "otps"})),
    "chunk_extensions": Attack(assaults.chunk_extensions, frozenset({"memory", "otps"})),
    "receiver_trailers": Attack(assaults.receiver_trailers, frozenset({"memory"})),
    "receiver_endless": Attack(assaults.receiver_endless, frozenset({"memory"})),
    "half_sends": Attack(assaults.half_sends, frozenset({"otps"})),
    "half_previews": Attack(assaults.half_previews, frozenset({"otps", "others"})),
    "half_bulks": Attack(assaults.half_bulks, frozenset({"otps", "others"})),
    "half_receipts": Attack(assaults.half_receipts, frozenset({"otps"})),
    "endpoint_tests": Attack(assaults.endpoint_tests, frozenset({"otps", "others"})),
    "wrong_keys": Attack(assaults.wrong_keys, frozenset({"otps"})),
    "wrong_keys_paced": Attack(partial(assaults.wrong_keys, per_s=1_000), frozenset({"otps"})),
    "reads_24": Attack(partial(assaults.reads, connections=24), frozenset({"otps"}), before=assaults.fill),
    "reads_60": Attack(partial(assaults.reads, connections=60), frozenset({"otps"}), before=assaults.fill),
    "sender_throttled": _throttled(assaults.sender_throttled),
    "recipient_throttled": _throttled(assaults.recipient_throttled),
    "slow_provider": _slow(config=_USUAL_LANES),
    "slow_fills_lanes": _slow(config=_USUAL_LANES, slow_pace=", timeout_s: 25, max_in_flight: 1000"),
    "slow_fills_pool": _slow(config=_WIDE_LANES, slow_pace=", timeout_s: 25, max_in_flight: 600"),
    "many_keys": Attack(assaults.many_keys, frozenset()),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack did to others. `load`: of the machine, at its end."""

    idle: Observed
    under: Observed
    idle_mb: dict[str, float]
    mb: dict[str, float]
    facts: dict[str, object]
    load: float

    @property
    def accept_times(self) -> float:
        """The p99 of an accept, against idle."""
        return self.under.sends.p99_ms() / self.idle.sends.p99_ms()

    @property
    def wait_times(self) -> float:
        """The p99 from there to the provider, against idle."""
        return self.under.wait_p99_ms() / self.idle.wait_p99_ms()

    def broken(self, wanted: frozenset[str]) -> list[str]:
        """What of it was not kept."""
        found = []
        if "memory" in wanted:
            found += [f"{part} took {mb:.0f} MB" for part, mb in self.mb.items() if mb > MOST_MB]
        if "otps" in wanted:
            times = {"accepts": self.accept_times, "waits for the provider": self.wait_times}
            found += [f"{what} took {of:.1f} times as long" for what, of in times.items() if of > MOST_TIMES]
            if self.under.sends.bad or self.under.lost:
                found.append(f"OTPs were refused {dict(self.under.sends.bad)} or lost ({self.under.lost})")
        if "others" in wanted and self.under.others.bad:
            found.append(f"other requests of bystanders were refused {dict(self.under.others.bad)}")
        return found


def _others(attack: Attack, operator: dict[str, str], mine: dict[str, str]) -> list[Request]:
    """What bystanders ask besides: lists, or bulks where those are attacked."""
    if attack.does is assaults.half_bulks:
        body = {"from": "MyAppPromo", "message": "We open at nine.", "recipients": ["+15555550100", "+15555550101"]}
        return [Request("/v1/send/bulk", mine, body)]
    return [Request("/v1/admin/providers", operator), Request("/v1/messages", mine)]


async def _run(attack: Attack, options: argparse.Namespace) -> Outcome:
    """In a system of its own."""
    ports = [free_port() for _ in range(_ORIGINS)]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arguments = ["bench.hostile", str(folder / "twilio.jsonl"), *map(str, ports)]
        hostile = process(arguments, f"http://127.0.0.1:{ports[0]}/count", folder / "hostile.log")
        (await stack.enter_async_context(hostile)).nice(NICE)
        config = attack.config.replace("HOSTILE", str(ports[0]))
        made = a_world(folder, config, attack.providers, paces={"slow": attack.slow_pace}, parts=_PARTS)
        world = await stack.enter_async_context(made)
        stage = Stage(world, ports, options.seconds, options.rows)
        operator = await a_key(world, "operator", "operator")
        bystanders = Bystanders(
            world, attack.provider, attack.senders, _others(attack, operator, world.headers["mine"])
        )
        if attack.before is not None:
            await attack.before(stage)
        await bystanders.observe(3)  # warm up
        async with weighed(world) as idle_mb:
            idle = await bystanders.observe(options.seconds)
        async with weighed(world) as mb, attack.does(stage):
            under = await bystanders.observe(options.seconds)
        return Outcome(idle, under, idle_mb, mb, stage.facts, os.getloadavg()[0])


def _show(name: str, found: Outcome, broken: list[str]) -> None:
    idle, under = found.idle, found.under
    print(
        f"{name:>19}  {idle.sends.p99_ms():>7.1f} {under.sends.p99_ms():>8.1f} {found.accept_times:>6.1f}"
        f"  {idle.wait_p99_ms():>7.1f} {under.wait_p99_ms():>8.1f} {found.wait_times:>6.1f}"
        f"  {under.sends.bad.total():>4}/{len(under.sends.seconds):<4} {under.lost:>4}"
        f"  {idle.others.p99_ms():>7.1f} {under.others.p99_ms():>8.1f} {under.others.bad.total():>4}"
        f"  {idle.loop_s * 1000:>5.0f} {under.loop_s * 1000:>6.0f}"
        f"  {found.mb['serve']:>5.0f} {found.mb['worker']:>6.0f}  {found.load:>4.1f}",
        flush=True,
    )
    bad = {"OTPs": dict(under.sends.bad), "others": dict(under.others.bad)}
    facts = found.facts | {f"bad {what}": counted for what, counted in bad.items() if counted}
    if facts:
        print(f"{'':>19}  {', '.join(f'{what}: {fact}' for what, fact in facts.items())}", flush=True)
    for what in broken:
        print(f"{'':>19}  NOT KEPT: {what}", flush=True)


_HEADS: Final = (
    f"{'':>19}  {'accept p99 ms':>23}  {'to provider p99 ms':>23}  {'not 2xx':>9} {'':>4}  {'others p99 ms':>21}"
    f"  {'loop of serve':>12}  {'most MB':>12}\n"
    f"{'attack':>19}  {'idle':>7} {'under':>8} {'ratio':>6}  {'idle':>7} {'under':>8} {'ratio':>6}"
    f"  {'of':>9} {'lost':>4}  {'idle':>7} {'under':>8} {'bad':>4}"
    f"  {'idle':>5} {'under':>6}  {'serve':>5} {'worker':>6}  {'load':>4}"
)


async def _all(options: argparse.Namespace) -> tuple[dict[str, Outcome], dict[str, list[str]]]:
    """One after the other, whatever becomes of each."""
    found, broken = dict[str, Outcome](), dict[str, list[str]]()
    print(_HEADS, flush=True)
    for name in options.only or ATTACKS:
        try:
            async with asyncio.timeout(_LONGEST_S + options.rows / 1_000):
                found[name] = await _run(ATTACKS[name], options)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the others are to be tried all the same
            broken[name] = [f"the bench failed: {error!r}"]
            print(f"{name:>19}  {broken[name][0]}", flush=True)
        else:
            broken[name] = found[name].broken(ATTACKS[name].wanted)
            _show(name, found[name], broken[name])
    return found, broken


def _figures(found: dict[str, Outcome]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, outcome in found.items():
        for when, seen in (("idle", outcome.idle), ("under", outcome.under)):
            figures |= {
                f"{name}_{when}_accept_p99_ms": seen.sends.p99_ms(),
                f"{name}_{when}_to_provider_p99_ms": seen.wait_p99_ms(),
                f"{name}_{when}_others_p99_ms": seen.others.p99_ms(),
                f"{name}_{when}_refused": seen.sends.bad.total(),
                f"{name}_{when}_others_refused": seen.others.bad.total(),
                f"{name}_{when}_lost": seen.lost,
                f"{name}_{when}_loop_ms": seen.loop_s * 1000,
            }
        figures |= {f"{name}_{part}_mb": mb for part, mb in outcome.mb.items()}
    return figures


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=list(ATTACKS), metavar="NAME", help=", ".join(ATTACKS))
    arguments.add_argument("--seconds", type=float, default=8.0, help="of each observation")
    arguments.add_argument("--rows", type=int, default=200_000, help="in the table that is read")
    arguments.add_argument("--report-only", action="store_true", help="exit code 0 whatever is not kept")
    options = arguments.parse_args()
    found, broken = asyncio.run(_all(options))
    ratios = {f"{name}_accept_under/idle": outcome.accept_times for name, outcome in found.items()}
    ratios |= {f"{name}_to_provider_under/idle": outcome.wait_times for name, outcome in found.items()}
    kept = not any(broken.values())
    print("all that is wanted was kept" if kept else f"not kept under: {', '.join(n for n, b in broken.items() if b)}")
    report(options, "attacks", _figures(found), ratios)
    if not (kept or options.report_only):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
