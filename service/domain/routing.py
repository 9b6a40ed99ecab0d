"""Which providers take a message, in which order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from service.domain.message import Traffic


class OnUnknown(StrEnum):
    """What follows when nobody can say whether a provider took a message."""

    RESEND = "resend"
    """Send it through the next provider: a duplicate is better than a loss."""
    HOLD = "hold"
    """Wait for a receipt; without one the message fails as `submit_unknown`."""


class HlrPolicy(StrEnum):
    """How much a route wants to know of a number before it spends money on it."""

    OFF = "off"
    CACHED = "cached"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Route:
    """Providers for one kind of message, best first. `traffic` and `countries` None match everything."""

    traffic: Traffic | None
    countries: frozenset[str] | None
    providers: tuple[str, ...]
    on_unknown: OnUnknown | None
    hlr: HlrPolicy
    hlr_fails_open: bool

    def matches(self, traffic: Traffic, country: str) -> bool:
        """Whether this route takes messages of that traffic to that country."""
        return self.traffic in {None, traffic} and (self.countries is None or country in self.countries)

    def resends(self, traffic: Traffic) -> bool:
        """Whether a message of unknown outcome goes to the next provider: by default only an OTP does."""
        if self.on_unknown is None:
            return traffic is Traffic.OTP
        return self.on_unknown is OnUnknown.RESEND


def pick(routes: Sequence[Route], traffic: Traffic, country: str) -> Route | None:
    """The first route that matches."""
    return next((route for route in routes if route.matches(traffic, country)), None)


_DRAWS: Final = 1 << 32


def draw(message_id: UUID) -> float:
    """The message's lot, from 0 to below 1: the last bits of its id, which are random. It never changes."""
    return message_id.int % _DRAWS / _DRAWS


def rank(providers: Sequence[str], lot: float, shares: Mapping[str, float], failed: Collection[str] = ()) -> list[str]:
    """The providers in the order in which a message tries them.

    First those whose share (0 to 1) holds the message's lot, and among them those that have not `failed` it yet; then
    those that are coming back; then those that stand back. All else is as configured, so where every provider is as
    bad as the others, the configured order stays.
    """
    return sorted(providers, key=lambda name: (lot >= shares[name], shares[name] == 0, name in failed))
