"""Health: which provider a message tries first.

Every process counts what it sees of the providers and adds it up in PostgreSQL once a second. Of all workers one at a
time judges the sums; all read the standings that follow. On the way of a message there is only memory.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from service.domain.health import (
    Cause,
    Condition,
    Place,
    Samples,
    Standing,
    StandingPolicy,
    judge,
    ramp,
    share,
)
from service.domain.message import Traffic
from service.domain.outcome import About, Outcome, Refused, Unavailable, Unknown
from service.domain.receipt import SUBSCRIBERS_OWN
from service.domain.routing import Route, draw, rank
from service.errors import StoreError
from service.pipeline.gate import Gate
from service.runtime import Runtime
from service.settings import GatewayConfig
from service.storage.queue import Claimed

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0
PROBE_EVERY_S: Final = 1.0
"""How often a process lets a message try a place that is probed."""
OTP_PROBES_AFTER_S: Final = 10.0
"""An OTP is a probe only where no other message has wanted to be it for so long."""
_SLOW: Final = 0.5
"""The part of a provider's timeout after which a call is slow: it is near to ending as an unknown one."""
_NEW: Final = Standing()


def policy_of(config: GatewayConfig) -> StandingPolicy:
    """The policy of `gateway.yaml`."""
    return StandingPolicy(
        min_samples=config.health.min_samples, hold_s=config.health.hold_s, ramp_s=config.health.ramp_s
    )


def provider_is_down(outcome: Outcome) -> bool:
    """Whether the next message can expect no better. A refused sender says nothing of other senders."""
    return isinstance(outcome, Unavailable | Unknown) or (
        isinstance(outcome, Refused) and outcome.about is About.ACCOUNT
    )


@dataclass(frozen=True, slots=True)
class Order:
    """The providers in the order in which a message tries them. `spares` stand back only because they are slow."""

    providers: list[str]
    spares: frozenset[str]


class Health:
    """What this process sees of the providers, and where all processes together say that they stand."""

    def __init__(
        self, runtime: Runtime, gates: Mapping[str, Gate] | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = runtime.health
        self._pulse = runtime.pulse
        self._pauses = runtime.pauses
        self._metrics = runtime.metrics
        self._policy = policy_of(runtime.config)
        self._gates = gates or {}
        self._now = now
        self._standings: dict[Place, Standing] = {}
        self._all_healthy = True
        self._seen: dict[Place, Counter[str]] = {}
        self._probe_at_s: dict[Place | str, float] = {}
        self._adding: asyncio.Task[None] | None = None

    def called(self, place: Place, outcome: Outcome, took_s: float, timeout_s: float, *, opened: bool) -> None:
        """Count a call that has ended. `opened`: its provider's breaker opened by it."""
        kinds = ["calls"]
        if provider_is_down(outcome):
            kinds.append("failures")
        elif took_s > timeout_s * _SLOW:
            kinds.append("slow")
        self._count(place, kinds + ["openings"] * opened, took_s)

    def received(self, place: Place, status: str, error_code: int | None, age_s: float) -> None:
        """Count a receipt of an attempt that began `age_s` ago. What lies with the subscriber is nobody's failure."""
        if status == "delivered":
            self._count(place, ["delivered"], age_s)
        elif status in {"undelivered", "failed"} and error_code not in SUBSCRIBERS_OWN:
            self._count(place, ["undelivered"], age_s)

    def _count(self, place: Place, kinds: list[str], age_s: float) -> None:
        """What began before the standing did says nothing of it: late results do not count."""
        if self._now() - age_s >= self._standing(place).since_s:
            self._seen.setdefault(place, Counter()).update(kinds)
            if self._adding is None or self._adding.done():
                self._adding = asyncio.create_task(self._add_soon())

    async def _add_soon(self) -> None:
        await asyncio.sleep(ROUND_S)
        await self.sync()

    async def sync(self) -> None:
        """Add what was counted to what others have counted, and read the standings."""
        seen, self._seen = self._seen, {}
        try:
            if seen:
                await self._store.add({place: Samples(**counts) for place, counts in seen.items()})
            now_s = self._now()
            standings = await self._store.standings()
        except StoreError as error:
            log.warning("health was not shared", extra={"error": str(error)})
        else:
            self._all_healthy = all(each.condition is Condition.HEALTHY for each in standings.values())
            self._standings = {
                place: replace(standing, since_s=now_s + standing.since_s) for place, standing in standings.items()
            }

    def hide(self) -> None:
        """Let the metrics tell of these gates no more."""
        for gate in self._gates.values():
            gate.hide()

    async def close(self) -> None:
        """Share what was counted last."""
        if self._adding is not None:
            self._adding.cancel()
        await self.sync()

    async def keep(self) -> None:
        """Judge when it is this worker's turn, and follow what others judged, until cancelled."""
        with self._pulse.of("health", rests_s=ROUND_S) as beat:
            while True:
                beat()
                await asyncio.sleep(ROUND_S)
                await self._round()

    async def _round(self) -> None:
        try:
            await self.follow_pauses()
        except StoreError as error:
            log.warning("it is not known which providers are paused", extra={"error": str(error)})
        try:
            if await self._store.take_round():
                await self.judge()
        except StoreError as error:
            self._metrics.worker_errors.labels("health").inc()
            log.warning("health was not judged", extra={"error": str(error)})
        await self.sync()

    async def follow_pauses(self) -> None:
        """Hold the providers that operators paused, and no others.

        Raises:
            StoreError: that is not known. All stays as it is.
        """
        paused = await self._pauses.pauses()
        for name, gate in self._gates.items():
            if gate.held is not (name in paused):
                gate.held = name in paused
                log.warning("a provider was paused or resumed", extra={"provider": name, "paused": gate.held})
            gate.show()  # each time, because a generation that ends, or never began, hides what it showed

    async def judge(self) -> None:
        """Move every standing that the samples of all processes want moved."""
        moves: dict[Place, Standing] = {}
        for one in await self._store.evidence(self._policy):
            new = judge(one.standing, one.samples, 0.0, self._policy)
            if new != one.standing:
                moves[one.place] = new
            if new.condition is not one.standing.condition:
                self._tell(one.place, new)
        if moves:
            await self._store.move(moves)

    def _tell(self, place: Place, new: Standing) -> None:
        self._metrics.standings.labels(place.provider, new.condition).inc()
        log.warning("a provider's standing moved", extra=place._asdict() | {"to": new.condition, "cause": new.cause})

    def order(self, message: Claimed, route: Route) -> Order:
        """The providers of the route in the order in which the message tries them.

        One that is probed goes first where it is its turn, and where the message has somewhere else to go. What is
        closed to the message, because it refused it or may have it, is no probe, nor somewhere to go.
        """
        now_s = self._now()
        if self._all_healthy and not message.tried and all(self._own(name, now_s) == 1 for name in route.providers):
            return Order(list(route.providers), frozenset())
        places = {name: Place(name, message.country, message.traffic.value) for name in route.providers}
        shares = {name: self._share(place, now_s) for name, place in places.items()}
        lot = draw(message.id)
        failed = {tried.provider for tried in message.tried if tried.outcome == "unavailable"}
        ranked = rank(route.providers, lot, shares, failed)
        back = [name for name in route.providers if shares[name] == 0]
        closed = {tried.provider for tried in message.tried if tried.open or tried.outcome == "refused"}
        if back and any(lot < shares[name] for name in ranked if name not in closed):
            otp, free = message.traffic is Traffic.OTP, [name for name in back if name not in failed | closed]
            probed = next((name for name in free if self._probes(places[name], now_s, otp=otp)), None)
            if probed is not None:
                ranked = [probed, *(name for name in ranked if name != probed)]
        return Order(ranked, frozenset(name for name in back if self._only_slow(places[name])))

    def _share(self, place: Place, now_s: float) -> float:
        return min(self._own(place.provider, now_s), share(self._standing(place), now_s, self._policy))

    def _own(self, provider: str, now_s: float) -> float:
        """The share that a pause or this process's own breaker lets a provider have. After a breaker it grows.

        All processes see a dead provider die, so all let their traffic drift back, whatever the standings say.
        """
        gate = self._gates.get(provider)
        if gate is None:
            return 1.0
        return 0.0 if gate.held or gate.probe_at_s is not None else ramp(now_s - gate.closed_at_s, self._policy)

    def _only_slow(self, place: Place) -> bool:
        return self._standing(place).cause is Cause.SLOW and self._own(place.provider, self._now()) > 0

    def _probes(self, place: Place, now_s: float, *, otp: bool) -> bool:
        """Take a turn as a probe, if there is one: of the place, of its provider's breaker, or of both."""
        gate, standing = self._gates.get(place.provider), self._standing(place)
        if standing.condition is Condition.FAILING or (gate is not None and gate.held):
            return False
        due_s: dict[Place | str, float] = {}
        if standing.condition is Condition.PROBING:
            due_s[place] = standing.since_s
        if gate is not None and gate.probe_at_s is not None:
            due_s[place.provider] = gate.probe_at_s
        patience_s = OTP_PROBES_AFTER_S if otp else 0.0
        if any(now_s < max(at_s, self._probe_at_s.get(one, 0.0)) + patience_s for one, at_s in due_s.items()):
            return False
        self._probe_at_s.update(dict.fromkeys(due_s, now_s + PROBE_EVERY_S))
        return True

    def _standing(self, place: Place) -> Standing:
        return self._standings.get(place, _NEW)
