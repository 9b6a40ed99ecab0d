"""What came of one call to a provider. The worker branches on these six, never on a provider.

The point of the design is `Unknown`: a read timeout is not a failure. Treating it as one and sending through the
next provider is how gateways send twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

OPTED_OUT: Final = "opted_out"
"""The reason of a `Rejected` whose recipient wants no more messages. The number is suppressed from then on."""


class About(StrEnum):
    """Of what else an outcome speaks: which other messages can expect the same from this account now."""

    ACCOUNT = "account"
    """All of them."""
    SENDER = "sender"
    RECIPIENT = "recipient"
    PAIR = "pair"
    """Those of this sender to this recipient."""
    BRAND = "brand"
    """Those of this brand or campaign (10DLC), of which the gateway knows only the sender."""
    MESSAGE = "message"
    """None that we know of."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has the message. `provider_message_id` is None where the provider gives none (Kannel)."""

    provider_message_id: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Final for this message (bad number, content, opted out): no other provider is tried.

    `reason` is the gateway's machine code, `code` the provider's own, `error_code` the GSM MAP error if known.
    """

    reason: str
    code: str | None = None
    error_code: int | None = None
    about: About = About.MESSAGE


@dataclass(frozen=True, slots=True)
class Refused:
    """Final for this provider (credentials, funds, unregistered sender): the next provider is tried, with an alarm.

    About the account: nothing goes through it until the operator acts. About a sender: others go through as ever.
    """

    reason: str
    code: str | None = None
    about: About = About.MESSAGE


@dataclass(frozen=True, slots=True)
class Throttled:
    """Provably not processed because of the rate. `retry_after_s` is what the provider asked for, if it did.

    Only what it is about is paused.
    """

    retry_after_s: float | None = None
    about: About = About.ACCOUNT


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Surely not accepted: refused connection, DNS, TLS, or a code that proves it. Always about the account."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been accepted: read timeout, reset after the body went out, 5xx, unreadable 2xx, crash.

    Always about the account: where it does this often, its breaker opens.
    """

    reason: str


Outcome = Accepted | Rejected | Refused | Throttled | Unavailable | Unknown

NAMES: dict[type[Outcome], str] = {
    Accepted: "accepted",
    Rejected: "rejected",
    Refused: "refused",
    Throttled: "throttled",
    Unavailable: "unavailable",
    Unknown: "unknown",
}


def name(outcome: Outcome) -> str:
    """The outcome's name as stored, shown and counted."""
    return NAMES[type(outcome)]
