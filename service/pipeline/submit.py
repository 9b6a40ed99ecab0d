"""Submit: pace, write the attempt, call, classify, fail over.

The outcome decides everything; nothing here knows which provider it talks to. The rule that matters most: an `Unknown`
sticks. Only the same key, or a receipt, can tell what became of that call, and until then no other provider gets the
message, unless its route says that a duplicate is better than a loss.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from uuid import UUID

from service.domain import outcome as outcomes
from service.domain.backoff import put_back_delay_s, repeat_delay_s
from service.domain.health import Place
from service.domain.ids import new_attempt_id, show
from service.domain.message import Traffic
from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.domain.routing import Route
from service.errors import CommitUnknown, LeaseLost, MaybeSent, NotSent, TargetRefused
from service.pipeline.gate import Call, Gate
from service.pipeline.health import Health, provider_is_down
from service.pipeline.pace import Busy
from service.providers.adapter import Submission
from service.runtime import Runtime
from service.storage.queue import Begin, Claimed, Move, Settlement, Tried

log = logging.getLogger(__name__)

_OTP_PATIENCE_S = 2.0
"""An OTP rather goes to the next provider than wait longer than this, all in all, for a busy one."""
_MAX_AWAY_S = 30.0
"""However long a message has waited for a place at a provider, it looks for one again after this time."""
_UNUSED_EVERY_S = 0.2
_UNUSED_ROOM = 8
"""How often, and for how many messages, providers count that no message comes to."""


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed message with its route; `claimed_s` is the monotonic time of the claim."""

    message: Claimed
    route: Route
    claimed_s: float

    @property
    def left_s(self) -> float:
        """What is left of the message's validity."""
        return self.claimed_s + self.message.remaining_s - time.monotonic()

    @property
    def patience_s(self) -> float:
        """How long it still waits for a busy provider before it goes to the next."""
        if self.message.traffic is not Traffic.OTP:
            return self.left_s
        return _OTP_PATIENCE_S - self.message.age_s - (time.monotonic() - self.claimed_s)

    @property
    def turn(self) -> tuple[Traffic, UUID, str, str]:
        """What a gate wants to know of it."""
        return self.message.traffic, self.message.client_id, self.message.sender, self.message.to

    def settle(self, move: Move, reason: str | None = None, *, delay_s: float = 0.0) -> Settlement:
        """A settlement of this message."""
        message = self.message
        return Settlement(message.id, message.worker_id, move, reason=reason, delay_s=delay_s, lane=message.traffic)


@dataclass(slots=True)
class _Tour:
    """What one round through the providers has found so far.

    `closed`: providers that get no new attempt of this message (refused it, or may have it). `spares`: providers that
    are only slow, which is better than to wait. `waiting`: it waits for a busy one rather than go on.
    """

    doubt: Tried | None
    closed: set[str] = field(default_factory=set)
    spares: set[str] = field(default_factory=set)
    waits_s: list[float] = field(default_factory=list)
    waiting: bool = False
    failed: str | None = None

    def wait(self, seconds: float, *, elsewhere: bool) -> None:
        self.waits_s.append(seconds)
        self.waiting = not elsewhere and self.spares <= self.closed


class Submit:
    """Takes a message through the providers of its route until one has it or none can."""

    def __init__(self, runtime: Runtime, now: Callable[[], float] = time.monotonic) -> None:
        self._queue = runtime.queue
        self._keyring = runtime.keyring
        self._http = runtime.provider_http
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._base_url = runtime.settings.environment.base_url
        self._otp_repeat_s = runtime.config.deliver.otp_repeat_s
        self._gates = {name: Gate(account, runtime, now) for name, account in runtime.providers.items()}
        self._unused_count_at_s = dict.fromkeys(Traffic, 0.0)
        self.health = Health(runtime, self._gates, now)

    async def __call__(self, work: Work) -> Settlement:
        """The settlement that ends this round. Attempts that led nowhere have been settled on the way.

        Raises:
            LeaseLost: the message is no longer this worker's.
            StoreError: PostgreSQL did not answer; recovery will find the message.
        """
        tour = _Tour(doubt=doubtful(work.message))
        if tour.doubt is not None and (settled := await self._resolve(work, tour.doubt, fresh=False)) is not None:
            return settled
        tour.closed = {tried.provider for tried in work.message.tried if tried.open or tried.outcome == "refused"}
        order = self.health.order(work.message, work.route)
        tour.spares = set(order.spares)
        # One that has just refused the sender is asked last, so that a campaign does not hammer it.
        sender, country = work.message.sender, work.message.country
        providers = sorted(order.providers, key=lambda name: self._gates[name].refuses(sender, country))
        if providers[0] != work.route.providers[0]:
            tour.failed = work.route.providers[0]
        for name in providers:
            tour.spares.discard(name)
            if name in tour.closed:
                continue
            if (settled := await self._try(work, name, tour)) is not None:
                return settled
            if tour.waiting:
                break
        return _nobody(work, tour)

    def room(self, traffic: Traffic) -> int:
        """How many more messages of that lane the providers together have places for.

        Places of those that no message comes to say little while others are in use: what is claimed for them is most
        likely for one of those, and where that is full it would only be put back. So they count a little, now and then.
        """
        gates = self._gates.values()
        room = sum(max(0, gate.room(traffic)) for gate in gates if gate.in_use(traffic))
        unused = sum(max(0, gate.room(traffic)) for gate in gates if not gate.in_use(traffic))
        if time.monotonic() >= self._unused_count_at_s[traffic] or not any(gate.in_use(traffic) for gate in gates):
            self._unused_count_at_s[traffic] = time.monotonic() + _UNUSED_EVERY_S
            room += min(_UNUSED_ROOM, unused)
        return room

    async def _try(self, work: Work, name: str, tour: _Tour) -> Settlement | None:
        """One provider's turn; None where the message goes on (or waits, as `tour` says)."""
        gate = self._gates[name]
        attempt_id = new_attempt_id(work.message.id)
        try:
            async with gate.turn(*work.turn) as call:
                self._count(work, tour.failed, name)
                outcome = await self._first_call(work, gate, call, attempt_id)
        except Busy as busy:
            if busy.down:
                tour.failed = name
            tour.wait(_retry_in_s(work, busy), elsewhere=busy.down or busy.retry_in_s > work.patience_s)
            return None
        if isinstance(outcome, Accepted | Rejected):
            return _final(work, gate, attempt_id, outcome)
        await self._queue.settle(_attempt(work, attempt_id, outcome))
        tour.failed = name
        match outcome:
            case Unknown():
                tour.closed.add(name)
                tour.doubt = Tried(attempt_id, name, open=True, outcome="unknown", calls=1)
                return await self._resolve(work, tour.doubt, fresh=True)
            case Refused():
                tour.closed.add(name)
            case Throttled():
                asked_s = outcome.retry_after_s or _backoff_s(work)
                wait_s = gate.pause(outcome.about, work.message.sender, work.message.to, asked_s)
                tour.wait(wait_s, elsewhere=max(asked_s, wait_s) > work.patience_s)
            case Unavailable():
                tour.waits_s.append(_backoff_s(work))
        return None

    async def _first_call(self, work: Work, gate: Gate, call: Call, attempt_id: UUID) -> Outcome:
        try:
            return await self._call(work, gate, call, attempt_id)
        except (LeaseLost, CommitUnknown):
            # The attempt may be on disk, but no call was made. Left open, it would be taken for one on its way.
            await self._queue.settle(_attempt(work, attempt_id, Unavailable("not_called")))
            raise

    def _count(self, work: Work, failed: str | None, name: str) -> None:
        """Count a failover, or how long the message took to its very first call."""
        if failed not in {None, name}:
            self._metrics.failovers.labels(failed, name).inc()
        elif not work.message.tried:
            taken_s = work.message.waited_s + time.monotonic() - work.claimed_s
            self._metrics.to_provider_s.labels(work.message.traffic.value).observe(taken_s)

    async def _resolve(self, work: Work, doubt: Tried, *, fresh: bool) -> Settlement | None:
        """Find out what became of an unknown submission; None: go on to the next provider.

        Where the provider knows idempotency keys, the call is repeated to it: once for an OTP, with backoff until
        expiry for all else. Otherwise the route decides.
        """
        gate = self._gates.get(doubt.provider)
        otp = work.message.traffic is Traffic.OTP
        if gate is not None and gate.account.adapter.capabilities.idempotency_key:
            if not otp:
                return await self._repeat_until_expiry(work, gate, doubt, fresh=fresh)
            if doubt.calls == 1:
                if fresh:
                    await asyncio.sleep(self._otp_repeat_s)
                if (settled := await self._repeat(work, gate, doubt)) is not None:
                    return settled
        if work.route.resends(work.message.traffic):
            log.warning(
                "unknown submission: resending through the next provider",
                extra={"message_id": show("msg", work.message.id), "provider": doubt.provider},
            )
            return None
        return work.settle(Move.HOLD, "submit_unknown")

    async def _repeat_until_expiry(self, work: Work, gate: Gate, doubt: Tried, *, fresh: bool) -> Settlement:
        if not fresh:
            try:
                if (settled := await self._repeat(work, gate, doubt)) is not None:
                    return settled
            except Busy as busy:
                return work.settle(Move.PUT_BACK, "submit_unknown", delay_s=_retry_in_s(work, busy))
        return work.settle(Move.PUT_BACK, "submit_unknown", delay_s=repeat_delay_s(doubt.calls, random.random()))  # noqa: S311 - jitter

    async def _repeat(self, work: Work, gate: Gate, doubt: Tried) -> Settlement | None:
        """Call again with the same key; None where that did not clear the doubt.

        Raises:
            Busy: not now (an OTP does not wait for that: it goes on).
        """
        try:
            async with gate.turn(*work.turn) as call:
                outcome = await self._call(work, gate, call, doubt.id)
        except Busy:
            if work.message.traffic is Traffic.OTP:
                return None
            raise
        if isinstance(outcome, Accepted | Rejected):
            return _final(work, gate, doubt.id, outcome)
        if isinstance(outcome, Throttled):
            asked_s = outcome.retry_after_s or _backoff_s(work)
            gate.pause(outcome.about, work.message.sender, work.message.to, asked_s)
        return None

    async def _call(self, work: Work, gate: Gate, call: Call, attempt_id: UUID) -> Outcome:
        """Write the attempt, then call. The call ends before the lease does."""
        message, account = work.message, gate.account
        asked_s = time.monotonic()
        begun = await self._queue.begin(Begin(attempt_id, message.id, account.name, message.worker_id, message.traffic))
        if begun is None:
            raise LeaseLost(str(message.id))
        per_message = account.adapter.capabilities.callback_per_message
        token = self._keyring.attempt_token(account.name, attempt_id)
        submission = Submission(
            to=message.to,
            sender=message.sender,
            text=message.text,
            traffic=message.traffic,
            validity_s=begun.validity_s,
            idempotency_key=f"{message.id.hex}:{account.name}",
            callback_url=f"{self._base_url}/v1/receipts/{account.name}/{token}" if per_message else None,
        )
        began_s = time.monotonic()
        call_s = begun.call_s - (began_s - asked_s)
        if call_s <= 0:
            raise LeaseLost(str(message.id))  # this process stood still: others may have taken over by now
        outcome = await self._exchange(gate, submission, attempt_id, min(account.settings.timeout_s, call_s))
        took_s = time.monotonic() - began_s
        self._metrics.submit_s.labels(account.name).observe(took_s)
        self._metrics.submits.labels(account.name, outcomes.name(outcome)).inc()
        down = provider_is_down(outcome)
        opened = call.end(
            success=not down,
            overloaded=down or (isinstance(outcome, Throttled) and outcome.about is About.ACCOUNT),
            took_s=took_s if isinstance(outcome, Accepted) else None,
        )
        place = Place(account.name, message.country, message.traffic.value)
        self.health.called(place, outcome, took_s, account.settings.timeout_s, opened=opened)
        if isinstance(outcome, Accepted):
            gate.took(message.sender, message.to)
        elif isinstance(outcome, Refused):
            if outcome.about is About.SENDER:
                gate.refuse(message.sender, message.country)
            extra = {"provider": account.name, "reason": outcome.reason, "code": outcome.code, "about": outcome.about}
            log.error("provider refused", extra=extra)
        return outcome

    async def _exchange(self, gate: Gate, submission: Submission, attempt_id: UUID, timeout_s: float) -> Outcome:
        adapter = gate.account.adapter
        request = adapter.send_request(submission)
        with self._tracing.submit(request, gate.account.name, attempt_id) as span:
            outcome: Outcome
            try:
                response = await self._http[gate.account.name].send(request, timeout_s=timeout_s)
            except (NotSent, TargetRefused) as error:
                span.fail(error)
                outcome = Unavailable(str(error))
            except MaybeSent as error:
                span.fail(error)
                outcome = Unknown(str(error))
            else:
                span.answered(response.status_code)
                outcome = adapter.send_outcome(response)
            span.note(outcome=outcomes.name(outcome))
        return outcome


def _nobody(work: Work, tour: _Tour) -> Settlement:
    """No provider took it in this round."""
    if tour.closed.issuperset(work.route.providers):
        if tour.doubt is not None:
            return work.settle(Move.HOLD, "submit_unknown")
        return work.settle(Move.FAIL, "refused_by_providers")
    if tour.doubt is not None:
        reason = "submit_unknown"
    else:
        reason = "provider_busy" if tour.waiting else "no_provider_available"
    return work.settle(Move.PUT_BACK, reason, delay_s=min(tour.waits_s, default=_backoff_s(work)))


def doubtful(message: Claimed) -> Tried | None:
    """The attempt whose fate nobody knows, if there is one: the latest."""
    return next((t for t in reversed(message.tried) if t.open and t.outcome in {None, "unknown"}), None)


def _attempt(work: Work, attempt_id: UUID, outcome: Outcome) -> Settlement:
    """The settlement of one attempt; the message stays with the worker."""
    return Settlement(
        message_id=work.message.id,
        worker_id=work.message.worker_id,
        move=Move.KEEP,
        attempt_id=attempt_id,
        outcome=outcomes.name(outcome),
        closes=not isinstance(outcome, Accepted | Unknown),
        reason=getattr(outcome, "reason", None),
        code=getattr(outcome, "code", None),
        lane=work.message.traffic,
    )


def _final(work: Work, gate: Gate, attempt_id: UUID, outcome: Accepted | Rejected) -> Settlement:
    """The settlement of an attempt that decides its message."""
    settled = _attempt(work, attempt_id, outcome)
    if isinstance(outcome, Accepted):
        by_id = not gate.account.adapter.capabilities.callback_per_message
        return replace(settled, move=Move.SENT, provider_message_id=outcome.provider_message_id, by_id=by_id)
    return replace(settled, move=Move.FAIL, error_code=outcome.error_code)


def _retry_in_s(work: Work, busy: Busy) -> float:
    """How long a message stays away from a busy provider: from one that is full a part of what it has waited already.

    So a long queue behind a slow provider is not claimed and put back all the time. An OTP looks again at once.
    """
    if not busy.full or work.message.traffic is Traffic.OTP:
        return busy.retry_in_s
    part = random.uniform(0.1, 0.25)  # noqa: S311 - jitter, not a secret
    return max(busy.retry_in_s, min(work.message.age_s * part, _MAX_AWAY_S))


def _backoff_s(work: Work) -> float:
    return put_back_delay_s(len(work.message.tried) + 1, random.random())  # noqa: S311 - jitter, not a secret
