"""The primary is killed under load and comes back: who carries the traffic, second by second, from the ledgers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from tests.chaos.config import CONFIG, edited
from tests.chaos.rounds import Report, Theatre, play
from tests.chaos.scene import Scene
from tests.chaos.stage import Stage

FAILOVER_CONFIG: Final = edited(
    CONFIG,
    ("hlr: required", "hlr: 'off'"),
    ("timeout_s: 2, cost", "timeout_s: 10, cost"),
    ("lease_s: 3", "lease_s: 15"),
    ("receipt_wait_hours: 0.001", "receipt_wait_hours: 0.1"),
)
"""Without look-ups, which would go to the primary too; and patient, for a busy machine is no fault of a provider."""

_HEALTHY_S: Final = 3.0
_DEAD_S: Final = 6.0
_BACK_WITHIN_S: Final = 60.0
"""A breaker's longest pause (`BreakerPolicy.open_cap_s`)."""
_TRIED_WITHIN: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Failover:
    """`shares`: for each second since the kill (negative: before), sends accepted by the primary and the fallback.

    Of the messages that were accepted from the second second after the kill until a second before the primary starts
    again: `carried` went out through the fallback, `strays` were tried before that start and did not, `late` were not
    tried before it, so they waited for longer than that second.
    `back_s`: when the primary was ready again. The shares end with the load.
    """

    report: Report
    shares: Mapping[int, tuple[int, int]]
    carried: int
    strays: int
    late: int
    back_s: float

    def lines(self) -> list[str]:
        """A table of the shares."""
        head = f"{'second':>7} {'primary':>8} {'fallback':>9}   (killed at 0, back at {self.back_s:.1f})"
        return [
            head,
            *(f"{second:>7} {one:>8} {other:>9}" for second, (one, other) in sorted(self.shares.items())),
            f"accepted meanwhile: {self.carried} through the fallback, {self.strays} not, {self.late} not tried yet",
        ]


async def failover(theatre: Theatre, seed: int, rate: float, watch_s: float) -> Failover:
    """Kill the primary under `rate` messages a second, start it again 6 s later, look on while it gets traffic again.

    `watch_s`: for how long from its first message on.
    """
    stage = theatre.stage
    times: list[datetime] = []

    async def plot(scene: Scene) -> None:
        await asyncio.sleep(_HEALTHY_S)
        scene.kills += 1
        await stage.primary.kill()
        times.append(datetime.now(UTC))
        await asyncio.sleep(_DEAD_S)
        times.append(datetime.now(UTC))
        await stage.primary.start()
        times.append(datetime.now(UTC))
        before, deadline_s = len(stage.primary.ledger()), time.monotonic() + _BACK_WITHIN_S
        while len(stage.primary.ledger()) == before and time.monotonic() < deadline_s:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.2)
        await asyncio.sleep(watch_s)
        times.append(datetime.now(UTC))

    report = await play(theatre, seed, plot, rate=rate, load_s=None)
    killed_at, started_at, back_at, ended_at = times
    counts = {
        provider.name: Counter(
            (send.at - killed_at) // timedelta(seconds=1) for send in provider.ledger() if send.at < ended_at
        )
        for provider in stage.providers
    }
    seconds = sorted(counts["primary"].keys() | counts["fallback"].keys())
    verdicts = await _verdicts(stage, killed_at + timedelta(seconds=1), started_at)
    return Failover(
        report,
        {second: (counts["primary"][second], counts["fallback"][second]) for second in seconds},
        verdicts["carried"],
        verdicts["stray"],
        verdicts["late"],
        (back_at - killed_at).total_seconds(),
    )


async def _verdicts(stage: Stage, since: datetime, until: datetime) -> Counter[str]:
    """What became of each message that was accepted in this time, but for its last second.

    Those that a provider refused for their number do not count.
    """
    by_fallback = {UUID(send.key.partition(":")[0]) for send in stage.fallback.ledger()}
    rows = await stage.fetch(
        "SELECT m.id, min(a.started_at) AS tried_at FROM messages AS m LEFT JOIN attempts AS a ON a.message_id = m.id"
        " WHERE m.created_at BETWEEN $1 AND $2 AND m.send_at = m.created_at"
        " GROUP BY m.id HAVING bool_and(a.outcome IS DISTINCT FROM 'rejected')",
        since,
        until - _TRIED_WITHIN,
    )
    return Counter(
        "carried" if row["id"] in by_fallback
        else "stray" if row["tried_at"] is not None and row["tried_at"] < until
        else "late"
        for row in rows
    )  # fmt: skip
