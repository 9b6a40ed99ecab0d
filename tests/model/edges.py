"""What surrounds the gateway in the model test: providers that are told what to answer, and webhook targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

import httpx
import orjson

from service.domain.ids import read
from service.domain.outcome import OPTED_OUT, Accepted, Outcome, Refused, Rejected, Throttled, Unavailable, Unknown
from service.http import Transport
from service.targets import TargetPolicy


class Kind(StrEnum):
    """How a provider takes a call. What it `HAS` it will report on."""

    ACCEPTED = "accepted"
    LOST = "lost"
    """Accepted, but the answer does not arrive."""
    BROKEN = "broken"
    """Not accepted, but the answer does not say so."""
    LIED = "lied"
    """Accepted, but the answer says that it surely was not."""
    REJECTED = "rejected"
    OPTED_OUT = "opted_out"
    REFUSED = "refused"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    HANGS = "hangs"
    """Answers when it is told to."""


_HAS: Final = {Kind.ACCEPTED, Kind.LOST, Kind.LIED}
_VERDICTS: Final = {Kind.REJECTED, Kind.OPTED_OUT}
_OUTCOMES: Final[dict[Kind, Outcome]] = {
    Kind.LOST: Unknown("read timeout"),
    Kind.BROKEN: Unknown("http_500"),
    Kind.LIED: Unavailable("no connection"),
    Kind.REJECTED: Rejected("invalid_number"),
    Kind.OPTED_OUT: Rejected(OPTED_OUT),
    Kind.REFUSED: Refused("sender_not_registered"),
    Kind.THROTTLED: Throttled(20.0),
    Kind.UNAVAILABLE: Unavailable("no connection"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a provider takes a call, and which receipts are quicker than its answer."""

    kind: Kind = Kind.ACCEPTED
    early: tuple[str, ...] = ()


@dataclass(slots=True)
class Providers:
    """What the providers have. With `keys` they count a repeat once and stand by what they said of a key."""

    keys: bool
    ledger: dict[UUID, dict[str, UUID]] = field(default_factory=dict)
    """For each message what was accepted of it, and the attempt whose URL its receipts go to."""
    lies: set[str] = field(default_factory=set)
    _verdicts: dict[str, Kind] = field(default_factory=dict)

    def take(self, message_id: UUID, attempt_id: UUID, key: str, kind: Kind) -> Outcome:
        """The answer to a call."""
        entry, accepted = key if self.keys else str(attempt_id), self.ledger.setdefault(message_id, {})
        if entry in accepted and kind in _VERDICTS:
            kind = Kind.ACCEPTED
        elif kind in _HAS:
            kind = self._verdicts.get(entry, kind)
        if kind in _HAS:
            accepted.setdefault(entry, attempt_id)
        if kind in _VERDICTS:
            self._verdicts[entry] = kind
        if kind is Kind.LIED:
            self.lies.add(entry)
        return Accepted(f"p-{entry}") if kind is Kind.ACCEPTED else _OUTCOMES[kind]

    def sends(self, message_id: UUID) -> int:
        """How often the phone may ring for it: by the provider's fault aside."""
        return len(self.ledger.get(message_id, {}).keys() - self.lies)

    def has(self, message_id: UUID, attempt_id: UUID) -> bool:
        return attempt_id in self.ledger.get(message_id, {}).values()


class Hooks(Transport):
    """Answers webhooks with one status for each host. Whoever said 2xx or 410 must not hear of it again."""

    def __init__(self) -> None:
        super().__init__(TargetPolicy.trusting())
        self.statuses: dict[str, int] = {}
        self.acknowledged: dict[UUID, tuple[UUID, str]] = {}
        """The message and the status that each webhook told of."""
        self.gone: set[UUID] = set()

    async def send(self, request: httpx.Request, *, timeout_s: float, **_: float) -> httpx.Response:  # noqa: ARG002
        webhook_id = read("whd", request.headers["webhook-id"])
        body = orjson.loads(request.content)
        message_id = read("msg", body["message_id"])
        assert webhook_id is not None
        assert message_id is not None
        assert webhook_id not in self.acknowledged.keys() | self.gone
        status = self.statuses.get(request.url.host, 204)
        if status < 300:
            self.acknowledged[webhook_id] = (message_id, body["status"])
        elif status == 410:
            self.gone.add(webhook_id)
        return httpx.Response(status, request=request)
