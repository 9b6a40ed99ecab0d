"""What must become of a message, in memory and without SQL: the model that the gateway is held against.

It is told what happens at the edges (claims, calls, answers, receipts, time) and says what the message is then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from service.domain.outcome import Accepted, Outcome, Rejected, Unknown, name
from service.domain.receipt import reason_for

PROVIDERS = ("primary", "fallback")
VALIDITY_S = {"otp": 1_000.0, "transactional": 100_000.0, "marketing": 100_000.0}
RECEIPT_WAIT_S = 72 * 3_600.0
ENDED = {"delivered", "undelivered", "failed", "cancelled"}
OWN_GUESSES = {"no_receipt", "submit_unknown"}

State = tuple[str, str | None]
"""Status and, where it has ended, its reason."""


@dataclass(slots=True)
class Attempt:
    """One row of `attempts`, and what went over the wire for it."""

    provider: str
    key: str
    body: bytes
    calls: int = 1
    open: bool = True
    outcome: str | None = None
    receipts: set[str] = field(default_factory=set)

    @property
    def in_doubt(self) -> bool:
        return self.open and self.outcome in {None, "unknown"}


@dataclass(slots=True)
class Turn:
    """What a worker knew of a message when it claimed it, and what came of its last call."""

    worker: UUID
    was_accepted: bool
    was_in_doubt: bool
    was_suppressed: bool
    last: Outcome | None = None


@dataclass(slots=True)
class Message:
    """One message. `hooks` says how many webhooks an end is worth now; `events` has the ends, each so often."""

    id: UUID
    to: str
    traffic: str
    hooks: Callable[[], int]
    left_s: float
    status: str = "queued"
    reason: str | None = None
    turn: Turn | None = None
    attempts: dict[UUID, Attempt] = field(default_factory=dict)
    events: list[State] = field(default_factory=list)
    was_in_doubt: bool = False
    """An answer, or a crash, has left it open whether a provider has it."""

    @property
    def state(self) -> State:
        return self.status, self.reason if self.status in ENDED else None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def open(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts.values() if attempt.open]

    def _end(self, status: str, reason: str | None) -> None:
        self.status, self.reason, self.turn = status, reason, None
        self.events += [(status, reason)] * self.hooks()

    def cancel(self) -> bool:
        """Take it back; True where that was possible."""
        if self.status != "queued":
            return False
        self.status = "cancelled"
        return True

    def claim(self, worker: UUID, *, suppressed: bool) -> None:
        assert not self.ended, "an ended message is claimed"
        assert self.turn is None, "a message is claimed from under its worker"
        accepted = any(attempt.open and attempt.outcome == "accepted" for attempt in self.attempts.values())
        doubt = any(attempt.in_doubt for attempt in self.attempts.values())
        self.status, self.reason, self.turn = "sending", None, Turn(worker, accepted, doubt, suppressed)

    def call(self, worker: UUID, attempt_id: UUID, attempt: Attempt, *, keys: bool) -> None:
        """A provider is called: whether that is allowed is what this test is most about."""
        assert self.turn is not None, f"a call for a message that is {self.status} and nobody's"
        assert self.turn.worker == worker, "a call by a worker that no longer has the message"
        assert self.left_s > 0, "a stale message is sent"
        assert not self.turn.was_accepted, "sent again, though a provider has it"
        earlier = self.attempts.get(attempt_id)
        if earlier is not None:
            assert keys, "a call is repeated to a provider that would count it twice"
            assert earlier.open, "a call is repeated whose fate is known"
            assert (earlier.provider, earlier.key, earlier.body) == (attempt.provider, attempt.key, attempt.body)
            earlier.calls += 1
            return
        assert self.turn.was_in_doubt or not self.turn.was_suppressed, "sent to a suppressed number"
        if any(tried.in_doubt for tried in self.attempts.values()):
            assert self.traffic == "otp", "sent elsewhere while a provider may have it"
        for tried in self.attempts.values():
            assert tried.outcome != "rejected", "sent again after it was rejected"
            assert tried.provider != attempt.provider or not (tried.open or tried.outcome == "refused")
        self.attempts[attempt_id] = attempt

    def answer(self, attempt_id: UUID, worker: UUID, outcome: Outcome) -> None:
        """An answer to a call. One that is no verdict speaks of its own call only, so that of a repeat says nothing."""
        attempt = self.attempts[attempt_id]
        if self.turn is not None and self.turn.worker == worker:
            self.turn.last = outcome
        self.was_in_doubt |= isinstance(outcome, Unknown)
        final = isinstance(outcome, Accepted | Rejected)
        if (final or attempt.calls == 1) and attempt.outcome in {None, "unknown", name(outcome)}:
            attempt.outcome = name(outcome)
            attempt.open &= isinstance(outcome, Accepted | Unknown)

    def release(self, worker: UUID, *, suppressed: bool) -> set[State]:  # noqa: PLR0911 - one for each end of a turn
        """Its worker is done with it: the states that it may be in now. `settle` tells which it is.

        A number that was `suppressed` while the worker had the message may have stopped it or not.
        """
        if self.turn is None or self.turn.worker != worker:
            return {self.state}  # a receipt has ended it, or somebody else has it by now
        turn = self.turn
        if isinstance(turn.last, Accepted) or (turn.last is None and turn.was_accepted):
            return {("sent", None)}
        if isinstance(turn.last, Rejected):
            return {("sending", None)} if self.open() else {("failed", turn.last.reason)}
        if self.open():
            given_up = self.left_s <= -RECEIPT_WAIT_S
            return {("failed", "submit_unknown") if given_up else ("sending", None)}
        if self.left_s <= 0:
            return {("failed", "expired")}
        if turn.was_suppressed and not turn.was_in_doubt:
            return {("failed", "suppressed")}
        stopped = {("failed", "suppressed")} if suppressed and turn.last is None else set()
        refused = {attempt.provider for attempt in self.attempts.values() if attempt.outcome == "refused"}
        return stopped | ({("failed", "refused_by_providers")} if refused == set(PROVIDERS) else {("queued", None)})

    def settle(self, worker: UUID, state: State) -> None:
        if self.turn is None or self.turn.worker != worker:
            return
        self.turn, self.status = None, state[0]
        if self.ended:
            self._end(*state)
        if state == ("failed", "submit_unknown"):
            for attempt in self.attempts.values():
                attempt.open = False

    def taken_over(self, worker: UUID) -> None:
        """Its worker is dead: what was on its way may have arrived."""
        if self.turn is None or self.turn.worker != worker:
            return
        self.turn = None
        for attempt in self.attempts.values():
            if attempt.outcome is None:
                attempt.outcome, self.was_in_doubt = "unknown", True
        self.status = "sending" if self.open() else "queued"

    def receipt(self, attempt_id: UUID, said: str) -> None:
        """A provider reports on an attempt. The same again changes nothing, nor does a word that nobody knows."""
        attempt = self.attempts[attempt_id]
        if said in attempt.receipts:
            return
        attempt.receipts.add(said)
        if said == "unknown":
            return
        was_open, attempt.open = attempt.open, attempt.open and said == "sent"
        if attempt.outcome in {None, "unknown"}:
            attempt.outcome = "accepted"
        if said == "delivered":
            if not self.ended or self.reason in OWN_GUESSES:
                self._end("delivered", None)
        elif said == "sent":
            if self.status == "sending" and self.turn is None:
                self.status = "sent"
        elif was_open and not self.open() and self.status in {"sending", "sent"}:
            self._end(said, reason_for(said, None))

    def give_up_on_receipt(self) -> None:
        if self.status == "sent" and self.left_s <= -RECEIPT_WAIT_S:
            self._end("undelivered", "no_receipt")


@dataclass(slots=True)
class Keys:
    """The idempotency keys of a client: what each answered, to which body, and for how long it still will."""

    kept: dict[str, tuple[str, UUID, float]] = field(default_factory=dict)

    def earlier(self, key: str | None) -> tuple[str, UUID] | None:
        if key is None or key not in self.kept or self.kept[key][2] <= 0:
            return None
        return self.kept[key][:2]

    def keep(self, key: str | None, body: str, subject: UUID) -> None:
        if key is not None:
            self.kept[key] = (body, subject, RECEIPT_WAIT_S)

    def age(self, seconds: float) -> None:
        self.kept = {key: (body, subject, left_s - seconds) for key, (body, subject, left_s) in self.kept.items()}
