"""Does a target in trouble reach those beside it? `python -m bench.neighbours [--only NAME ...] [--seconds 20]`.

One client (`mine`) sends 20 messages a second through the provider `good`, OTP, transactional and marketing in turn,
with webhooks to a good receiver. Beside it 50 a second of `mine` and of another client, in turn, go through the
provider `other`, or have their webhooks sent to another receiver. First all are well (idle), then the other slows from
50 ms to 5 s, answers 429, or never answers, then it is well again. For each case a system of its own on loopback, on
defaults: PostgreSQL, one `serve`, one `worker`.

Shown are the waits of what goes past the other: accept over HTTP, accept to the provider's ledger (without the 250 ms
that it takes to answer), and webhook lag (from the event to the post). Wanted: each p99 within twice the idle one, or
within 50 ms. What is not kept is said, and ends with exit code 1 unless `--report-only` is given. Then the recovery:
after how many seconds nothing that is older than 2 s waits, and messages go through the other at nine tenths of their
rate again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final

import httpx

from bench.gateway import free_port, process
from bench.receivers import GOOD, OTHER_TAKES_S, Mode, other
from bench.report import parser, quantile, report
from bench.world import Part, World, a_number, a_world

MOST_TIMES: Final = 2.0
SMALL_MS: Final = 50.0
"""A p99 of so little is never too much: twice 5 ms is noise on a machine that runs all of this."""
_MINE_PER_S: Final = 20
_BESIDE_PER_S: Final = 50
_SLOW_S: Final = 5.0
_MANY: Final = 300
_WARM_S: Final = 3.0
_RECOVERS_WITHIN_S: Final = 27.0
"""More than the 15 s after which a receiver that hung is given up, and the pause that follows."""
_RATE_OVER_S: Final = 3.0
_SENDERS: Final = {"otp": "MyAppOTP", "transactional": "MyApp", "marketing": "MyAppPromo"}
_SOON: Final = {"SMS_GATEWAY_DRAIN_S": "1"}
_PARTS: Final = (Part("serve", "serve", _SOON), Part("worker", "worker", _SOON))
_CONFIG: Final = """
providers: {{good: {good}, other: {other}}}
senders:
  MyAppOTP: {{traffic: otp}}
  MyApp: {{traffic: transactional}}
  MyAppPromo: {{traffic: marketing}}
routes: [{{countries: [GB], providers: [other], hlr: "off"}}, {{providers: [good], hlr: "off"}}]
webhooks: {{allow_loopback: true}}
"""
_WAITING: Final = {
    "provider": "SELECT count(*) FROM messages WHERE country = 'GB' AND status IN ('queued', 'sending')"
    " AND created_at < now() - interval '2 seconds'",
    "receiver": "SELECT count(*) FROM webhook_deliveries WHERE state = 'pending'"
    " AND created_at < now() - interval '2 seconds'",
}


@dataclass(frozen=True, slots=True)
class Case:
    """What becomes of the other. `fault`: of a simulated provider; `status`: of a receiver, None for no answer."""

    of: str
    fault: str = "none"
    status: int | None = 204
    takes_s: float = OTHER_TAKES_S
    targets: int = 1


CASES: Final = {
    "provider_slows": Case("provider", takes_s=_SLOW_S),
    "provider_429": Case("provider", fault="throttle"),
    "provider_hangs": Case("provider", fault="hang"),
    "receiver_slows": Case("receiver", takes_s=_SLOW_S),
    "receiver_429": Case("receiver", status=429),
    "receiver_hangs": Case("receiver", status=None),
    "receiver_is_many": Case("receiver", status=None, targets=_MANY),
}


@dataclass(slots=True)
class Mine:
    """What went past the other in one phase: accepts (seconds) and when each number was accepted, by traffic."""

    accept_s: list[float] = field(default_factory=list)
    accepted: dict[str, dict[str, datetime]] = field(default_factory=lambda: {traffic: {} for traffic in _SENDERS})
    refused: int = 0


@dataclass(slots=True)
class Outcome:
    """Waits in seconds by what was measured, for both phases; and the recovery (None: not within its time)."""

    waits_s: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    refused: int = 0
    emptied_s: float | None = None
    at_rate_s: float | None = None
    rate_after: float = 0.0
    left: int = 0
    load: float = 0.0

    def broken(self) -> list[str]:
        """What is not as wanted."""
        broken = [f"{self.refused} of the bystander's sends refused"] if self.refused else []
        for what, waits_s in self.waits_s.items():
            idle, during = (quantile(waits_s[when], 0.99) * 1000 for when in ("idle", "during"))
            if not during <= max(SMALL_MS, MOST_TIMES * idle):
                broken.append(f"{what} p99 {during:.0f} ms, {during / idle:.1f} x idle")
        return broken


class Neighbours:
    """One case under way."""

    def __init__(self, world: World, case: Case, port: int) -> None:
        self._world = world
        self._case = case
        self._port = port
        self._mine: Mine | None = None
        self._phase = "warm"
        self._limits: dict[str, list[float]] = {}

    async def run(self, seconds: float) -> Outcome:
        """Idle, during and after, while the load goes on."""
        outcome, phases = Outcome(), {"idle": Mine(), "during": Mine()}
        async with self._load():
            await self._become(Case(self._case.of))
            await asyncio.sleep(_WARM_S)
            for phase, mine in phases.items():
                if phase == "during":
                    await self._become(self._case)
                self._phase, self._mine = phase, mine
                await asyncio.sleep(seconds if phase == "during" else seconds / 2)
            self._phase, self._mine = "after", None
            await self._become(Case(self._case.of))
            outcome.load = os.getloadavg()[0]
            await self._recover(outcome)
        outcome.refused = sum(mine.refused for mine in phases.values())
        outcome.limits = {phase: (min(seen), max(seen)) for phase, seen in self._limits.items()}
        outcome.waits_s = self._waits_s(phases)
        return outcome

    async def _become(self, case: Case) -> None:
        if case.of == "provider":
            await self._world.fault("other", case.fault, case.takes_s)
            return
        mode: Mode = {"takes_s": case.takes_s, "status": case.status}
        async with httpx.AsyncClient() as http:
            (await http.put(f"http://{GOOD}:{self._port}/mode", json=mode)).raise_for_status()

    @asynccontextmanager
    async def _load(self) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        async with httpx.AsyncClient(base_url=self._world.url, timeout=20, limits=limits) as http:
            tasks = [asyncio.create_task(part) for part in (self._past(http), self._beside(http), self._watch())]
            try:
                yield
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _past(self, http: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            async for number in _turns(_MINE_PER_S):
                group.create_task(self._send_mine(http, list(_SENDERS)[number % len(_SENDERS)], self._mine))

    async def _send_mine(self, http: httpx.AsyncClient, traffic: str, mine: Mine | None) -> None:
        to = a_number()
        began_s = time.perf_counter()
        answer = await self._send(http, "mine", to, _SENDERS[traffic], GOOD)
        if mine is None:
            return
        mine.accept_s.append(time.perf_counter() - began_s)
        if answer is None:
            mine.refused += 1
        else:
            mine.accepted[traffic][to] = datetime.fromisoformat(answer.json()["created_at"])

    async def _beside(self, http: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            async for number in _turns(_BESIDE_PER_S):
                client, sender = ("mine", "others")[number % 2], list(_SENDERS.values())[number // 2 % 3]
                if self._case.of == "provider":
                    to, host = f"+4477009{number % 100_000:05d}", None
                else:
                    to, host = a_number(), other(number % self._case.targets)
                if self._case.targets > 1:
                    client = "others"
                group.create_task(self._send(http, client, to, sender, host))

    async def _send(
        self, http: httpx.AsyncClient, client: str, to: str, sender: str, host: str | None
    ) -> httpx.Response | None:
        body = {"to": to, "from": sender, "message": "Your parcel arrives today between 9 and 11."}
        if host is not None:
            body["callback_url"] = f"http://{host}:{self._port}/hook"
        try:
            answer = await http.post("/v1/send", json=body, headers=self._world.headers[client])
        except httpx.HTTPError:
            return None
        return answer if answer.is_success else None

    async def _watch(self) -> None:
        """What the worker's metrics say of the limit for the other (of receivers: of the lowest and the highest)."""
        which = "provider_limit{provider=.other" if self._case.of == "provider" else "receiver_limit{which="
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._world.ports['worker']}") as http:
            while True:
                metrics = (await http.get("/metrics")).text
                seen = re.findall(rf"{which}[^}}]*}} (\S+)", metrics)
                self._limits.setdefault(self._phase, []).extend(map(float, seen))
                await asyncio.sleep(0.5)

    def _came(self) -> list[datetime]:
        """When something came to the other and was taken."""
        if self._case.of == "provider":
            return list(self._world.came("other", by="to").values())
        return [datetime.fromisoformat(line["at"]) for line in self._webhooks() if line["host"] != GOOD]

    def _webhooks(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self._world.folder / "receivers.jsonl").read_text().splitlines()]

    def _rate(self) -> float:
        since_at = datetime.now(UTC) - timedelta(seconds=_RATE_OVER_S)
        return sum(at >= since_at for at in self._came()) / _RATE_OVER_S

    async def _recover(self, outcome: Outcome) -> None:
        began_s = time.monotonic()
        while (gone_s := time.monotonic() - began_s) < _RECOVERS_WITHIN_S:
            outcome.left = await self._world.count(_WAITING[self._case.of])
            outcome.rate_after = self._rate()
            if outcome.at_rate_s is None and gone_s >= _RATE_OVER_S and outcome.rate_after >= 0.9 * _BESIDE_PER_S:
                outcome.at_rate_s = gone_s
            if outcome.emptied_s is None and not outcome.left:
                outcome.emptied_s = gone_s
            if outcome.at_rate_s is not None and not outcome.left:
                return
            await asyncio.sleep(0.5)

    def _waits_s(self, phases: dict[str, Mine]) -> dict[str, dict[str, list[float]]]:
        waits_s: dict[str, dict[str, list[float]]] = {}
        lags_s = {
            line["to"]: (datetime.fromisoformat(line["at"]) - datetime.fromisoformat(line["event_at"])).total_seconds()
            for line in reversed(self._webhooks())
            if line["host"] == GOOD
        }
        for phase, mine in phases.items():
            waits_s.setdefault("accept", {})[phase] = mine.accept_s
            for traffic, accepted in mine.accepted.items():
                waits_s.setdefault(traffic, {})[phase] = self._world.waits_s("good", accepted)
            numbers = [to for accepted in mine.accepted.values() for to in accepted]
            waits_s.setdefault("webhook", {})[phase] = [lags_s.get(to, float("inf")) for to in numbers]
        return waits_s


async def _turns(per_s: float) -> AsyncIterator[int]:
    """The numbers of turns at a fixed rate, each when it is due."""
    began_s = time.monotonic()
    for number in count():
        await asyncio.sleep(began_s + number / per_s - time.monotonic())
        yield number


async def _run(case: Case, seconds: float) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        arguments = ["bench.receivers", str(folder / "receivers.jsonl"), str(port), "100", str(case.targets)]
        async with (
            process(arguments, f"http://{GOOD}:{port}/", folder / "receivers.log"),
            a_world(folder, _CONFIG, ["good", "other"], parts=_PARTS) as world,
        ):
            await world.fault("good", "none", 0.25 if case.of == "provider" else 0.02)
            return await Neighbours(world, case, port).run(seconds)


def _show(name: str, outcome: Outcome, broken: Sequence[str]) -> None:
    for what, waits_s in outcome.waits_s.items():
        cells = ""
        for share in (0.5, 0.99):
            idle, during = (quantile(waits_s[when], share) * 1000 for when in ("idle", "during"))
            cells += f"  {idle:>8.1f} {during:>8.1f} {during / idle:>6.2f}"
        print(f"{name:>16}  {what:>13}{cells}", flush=True)
    limits = ", ".join(f"{phase} {low:.0f} to {high:.0f}" for phase, (low, high) in outcome.limits.items())
    emptied, at_rate = (
        f"not within {_RECOVERS_WITHIN_S:.0f} s" if after_s is None else f"after {after_s:.1f} s"
        for after_s in (outcome.emptied_s, outcome.at_rate_s)
    )
    print(f"{'':>16}  well again: backlog gone {emptied} ({outcome.left} left), rate back {at_rate}", end="")
    print(f" ({outcome.rate_after:.0f}/s at the end); limit: {limits}; load {outcome.load:.1f}", flush=True)
    for what in broken:
        print(f"{'':>16}  NOT KEPT: {what}", flush=True)


async def _all(options: argparse.Namespace) -> tuple[dict[str, Outcome], dict[str, list[str]]]:
    found, broken = dict[str, Outcome](), dict[str, list[str]]()
    print(f"{'':>16}  {'':>13}  {'p50 ms':>24}  {'p99 ms (wanted: within 2 x idle)':>24}")
    print(f"{'case':>16}  {'what':>13}" + f"  {'idle':>8} {'during':>8} {'ratio':>6}" * 2, flush=True)
    for name in options.only or CASES:
        found[name] = await _run(CASES[name], options.seconds)
        broken[name] = found[name].broken()
        _show(name, found[name], broken[name])
    return found, broken


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", choices=list(CASES), metavar="NAME", help=", ".join(CASES))
    arguments.add_argument("--seconds", type=float, default=20.0, help="of trouble; idle half as long")
    arguments.add_argument("--report-only", action="store_true", help="exit code 0 whatever is not kept")
    options = arguments.parse_args()
    found, broken = asyncio.run(_all(options))
    kept = not any(broken.values())
    print("all that is wanted was kept" if kept else f"not kept: {', '.join(n for n, b in broken.items() if b)}")
    figures: dict[str, float | None] = {}
    ratios: dict[str, float | None] = {}
    for name, outcome in found.items():
        figures |= {f"{name}_emptied_s": outcome.emptied_s, f"{name}_at_rate_s": outcome.at_rate_s}
        for what, waits_s in outcome.waits_s.items():
            idle, during = (quantile(waits_s[when], 0.99) * 1000 for when in ("idle", "during"))
            figures |= {f"{name}_{what}_idle_p99_ms": idle, f"{name}_{what}_during_p99_ms": during}
            ratios |= {f"{name}_{what}_p99_during/idle": during / idle}
    report(options, "neighbours", figures, ratios)
    if not (kept or options.report_only):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
