"""The primary is killed under load and comes back: who carries the traffic, second by second, from the ledgers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final
from uuid import UUID

from service.domain.ids import show
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
_SPAN_S: Final = 10
"""Its share after its return is looked at in spans: the traffic of a single second is too little to judge by."""
_SHARE_MAY_FALL: Final = 0.08
"""From span to span. Of 500 sends a share of a half is off by 0.045 (two standard deviations) by chance alone."""
_SHARE_GROWS: Final = 0.15
"""In three spans and more, at least. The ramp is to let it grow by a sixth in each."""
_JUMP_S: Final = 5
_JUMP: Final = 20
"""In its first seconds less goes to it than to the fallback, give or take so many messages a second."""


@dataclass(frozen=True, slots=True)
class Failover:
    """`shares`: for each second since the kill (negative: before), sends accepted by the primary and the fallback.

    `accepted`: messages of clients that were accepted in each of these seconds; `rate`: what the clients aimed at.
    Of the messages that were accepted from the second second after the kill until a second before the primary starts
    again: `carried` went out through the fallback, `strays` were tried before that start and did not, `late` were not
    tried before it, so they waited for longer than that second (each in a sentence).
    `back_s`: when the primary was ready again. The shares end with the load.
    """

    report: Report
    shares: Mapping[int, tuple[int, int]]
    accepted: Mapping[int, int]
    rate: float
    carried: int
    strays: int
    late: Sequence[str]
    back_s: float

    def lines(self) -> list[str]:
        """A table of the shares, and what was found."""
        head = (
            f"{'second':>7} {'accepted':>9} {'primary':>8} {'fallback':>9}   (killed at 0, back at {self.back_s:.1f})"
        )
        seconds = sorted(self.shares)
        rows = [
            f"{second:>7} {self.accepted.get(second, 0):>9} {self.shares[second][0]:>8} {self.shares[second][1]:>9}"
            for second in seconds
        ]
        whole = [self.accepted.get(second, 0) for second in seconds[1:-1]]
        return [
            head,
            *rows,
            f"accepted: {sum(whole) / len(whole):.0f} a second, aimed at {self.rate:.0f}",
            f"accepted meanwhile: {self.carried} through the fallback, {self.strays} not, {len(self.late)} late",
            f"the primary's share in spans of {_SPAN_S} s: {', '.join(f'{share:.0%}' for share in self.spans)}",
            *self.broken(),
        ]

    @property
    def _returned(self) -> list[int]:
        """The seconds since the primary got traffic again."""
        first = min((second for second, (one, _) in self.shares.items() if second >= self.back_s and one), default=None)
        return [] if first is None else list(range(first, max(self.shares)))

    @property
    def spans(self) -> list[float]:
        """Its share in each whole span since then."""
        seconds = self._returned
        found = []
        for start in range(0, len(seconds) - _SPAN_S + 1, _SPAN_S):
            sends = [self.shares.get(second, (0, 0)) for second in seconds[start : start + _SPAN_S]]
            ones, others = (sum(counts) for counts in zip(*sends, strict=True))
            found.append(ones / max(ones + others, 1))
        return found

    def broken(self) -> list[str]:
        """Everything that is not as promised, besides what the report has."""
        found = [f"late: {sentence}" for sentence in self.late]
        if not self.carried:
            found.append("nothing failed over")
        if self.strays:
            found.append(f"{self.strays} messages were tried and did not go out through the fallback")
        if not self._returned:
            found.append("the primary got no traffic after its return")
        for second in self._returned[:_JUMP_S]:
            one, other = self.shares.get(second, (0, 0))
            if one > other + _JUMP:
                found.append(f"traffic jumped back: {one} to {other} in second {second}")
        spans = self.spans
        found += [
            f"the primary's share fell from {before:.0%} to {after:.0%}"
            for before, after in pairwise(spans)
            if after < before - _SHARE_MAY_FALL
        ]
        if len(spans) > 2 and spans[-1] < spans[0] + _SHARE_GROWS:
            found.append("the primary's share does not grow")
        return found


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
    fates = await _fates(stage, killed_at + timedelta(seconds=1), started_at)
    verdicts = Counter(fate.partition(":")[0] for fate in fates)
    return Failover(
        report=report,
        shares={second: (counts["primary"][second], counts["fallback"][second]) for second in seconds},
        accepted=await _accepted(stage, killed_at, ended_at),
        rate=rate,
        carried=verdicts["carried"],
        strays=verdicts["stray"],
        late=[fate.removeprefix("late: ") for fate in fates if fate.startswith("late")],
        back_s=(back_at - killed_at).total_seconds(),
    )


async def _accepted(stage: Stage, killed_at: datetime, ended_at: datetime) -> Mapping[int, int]:
    """By second since the kill."""
    rows = await stage.fetch(
        "SELECT floor(extract(epoch FROM created_at - $1))::int AS second, count(*) AS number FROM messages"
        " WHERE created_at < $2 GROUP BY 1",
        killed_at,
        ended_at,
    )
    return {row["second"]: row["number"] for row in rows}


async def _fates(stage: Stage, since: datetime, until: datetime) -> list[str]:
    """What became of each message that was accepted in this time, but for its last second.

    Those that a provider refused for their number do not count.
    """
    by_fallback = {UUID(send.key.partition(":")[0]) for send in stage.fallback.ledger()}
    rows = await stage.fetch(
        "SELECT m.id, m.created_at, min(a.started_at) AS tried_at FROM messages AS m"
        " LEFT JOIN attempts AS a ON a.message_id = m.id"
        " WHERE m.created_at BETWEEN $1 AND $2 AND m.send_at = m.created_at"
        " GROUP BY m.id, m.created_at HAVING bool_and(a.outcome IS DISTINCT FROM 'rejected')",
        since,
        until - _TRIED_WITHIN,
    )
    return [
        "carried" if row["id"] in by_fallback
        else "stray" if row["tried_at"] is not None and row["tried_at"] < until
        else f"late: {show('msg', row['id'])}, accepted {row['created_at']}, first tried {row['tried_at']}"
        for row in rows
    ]  # fmt: skip
