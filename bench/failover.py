"""How long a dead provider is felt: `python -m bench.failover [--rate 200] [--seconds 15] [--json]`.

Single sends come at a fixed rate. The primary is killed (`kill -9`), and the fallback has to take over:

- `first success`: from the primary's death to the first message in the fallback's ledger;
- `steady`: from the death to the accept of the last message that took longer to the fallback than the p99 to the
  primary before it (or than 50 ms where that is less). What was accepted before the death is left out: where its call
  was on its way its outcome is unknown, and it stays with the primary.

All times are from accepts (`created_at`) and ledgers. PostgreSQL, one `serve`, one `worker`, two simulated providers
and the load generator share the machine.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.gateway import listens_on
from bench.load import Plan, Result, measure
from bench.report import parser, quantile, report
from bench.world import World, a_world

_CONFIG: Final = """
providers: {{primary: {primary}, fallback: {fallback}}}
senders: {{MyApp: {{traffic: transactional}}}}
routes: [{{providers: [primary, fallback], hlr: "off"}}]
"""
_HEALTHY_S: Final = 8.0
_WARM_UP_S: Final = 3.0
_PROMPT_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Sent:
    """A message: when it was accepted, counted from the primary's death, and its wait for either provider."""

    accepted_s: float
    primary_s: float | None
    fallback_s: float | None


@dataclass(frozen=True, slots=True)
class Failover:
    """`before_s`, `after_s`: the waits for the primary before its death, for the fallback once it is steady.

    `first_s`, `steady_s`: see above. `waiting`: accepted after the death and still nowhere when the bench ended.
    """

    before_s: list[float]
    after_s: list[float]
    first_s: float
    steady_s: float
    waiting: int


async def _sent(world: World, died_at: datetime) -> list[Sent]:
    """Every message of the load, in the order of the accepts."""
    rows = await world.fetch("SELECT id, created_at FROM messages ORDER BY created_at")
    primary, fallback = (
        {key.partition(":")[0]: at for key, at in world.came(name).items()} for name in ("primary", "fallback")
    )

    def wait_s(at: datetime | None, accepted_at: datetime) -> float | None:
        return None if at is None else (at - accepted_at).total_seconds()

    return [
        Sent(
            (row["created_at"] - died_at).total_seconds(),
            wait_s(primary.get(row["id"].hex), row["created_at"]),
            wait_s(fallback.get(row["id"].hex), row["created_at"]),
        )
        for row in rows
    ]


async def _drained(world: World) -> None:
    """Until nobody waits for a first call, but not for ever."""
    for _ in range(60):
        if not await world.count("SELECT count(*) FROM messages WHERE status = 'queued'"):
            return
        await asyncio.sleep(0.5)


def _judged(sent: list[Sent]) -> Failover:
    before_s = [each.primary_s for each in sent if -_HEALTHY_S + _WARM_UP_S < each.accepted_s < 0 and each.primary_s]
    limit_s = max(quantile(before_s, 0.99), _PROMPT_S)
    since = [each for each in sent if each.accepted_s >= 0]
    late = [each.accepted_s for each in since if each.fallback_s is None or each.fallback_s > limit_s]
    steady_s = max(late, default=0.0)
    return Failover(
        before_s=before_s,
        after_s=[each.fallback_s for each in since if each.accepted_s > steady_s and each.fallback_s],
        first_s=min(each.accepted_s + each.fallback_s for each in sent if each.fallback_s),
        steady_s=steady_s,
        waiting=sum(each.fallback_s is None for each in since),
    )


async def _run(rate: float, seconds: float) -> tuple[list[Sent], Result]:
    with tempfile.TemporaryDirectory() as name:
        async with a_world(Path(name), _CONFIG, ["primary", "fallback"]) as world:
            body = json.dumps({"to": "{to}", "from": "MyApp", "message": "Your parcel {n} arrives today."})
            url, headers = f"{world.url}/v1/send", world.headers["mine"]
            load = asyncio.create_task(measure(Plan(url, headers, body, 32, _HEALTHY_S + seconds, rate)))
            await asyncio.sleep(_HEALTHY_S)
            primary = listens_on(world.ports["primary"])
            died_at = datetime.now(UTC)
            primary.kill()
            result = await load
            await _drained(world)
            return await _sent(world, died_at), result


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rate", type=float, default=200.0, help="messages a second")
    arguments.add_argument("--seconds", type=float, default=15.0, help="after the death")
    options = arguments.parse_args()
    sent, load = asyncio.run(_run(options.rate, options.seconds))
    if set(load.statuses) != {"200"}:
        raise SystemExit(f"not every answer was 200: {load.statuses}")
    found = _judged(sent)
    carried = Counter(
        (int(each.accepted_s // 1), "fallback" if each.fallback_s else "primary" if each.primary_s else "")
        for each in sent
    )
    print(f"{'second':>6}  {'primary':>7}  {'fallback':>8}  {'nobody':>6}")
    for second in sorted({second for second, _ in carried}):
        print(
            f"{second:>6}  {carried[second, 'primary']:>7}  {carried[second, 'fallback']:>8}  {carried[second, '']:>6}"
        )
    ms = {
        f"{which}_{name}_ms": quantile(waits, share) * 1000
        for which, waits in (("before", found.before_s), ("after", found.after_s))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    print(f"first success after {found.first_s:.3f} s, steady after {found.steady_s:.3f} s, {found.waiting} still wait")
    print(f"accept to provider, p50 / p99: before {ms['before_p50_ms']:.1f} / {ms['before_p99_ms']:.1f} ms,", end=" ")
    print(f"steady through the fallback {ms['after_p50_ms']:.1f} / {ms['after_p99_ms']:.1f} ms")
    figures = {"first_success_s": found.first_s, "steady_s": found.steady_s, "waiting": found.waiting, **ms}
    ratios = {f"after/before_{name}": ms[f"after_{name}_ms"] / ms[f"before_{name}_ms"] for name in ("p50", "p99")}
    report(options, "failover", figures, ratios)


if __name__ == "__main__":
    main()
