"""The bodies of `/v1/send` and `/v1/send/bulk`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from yarl import URL

from service.domain import msisdn
from service.domain.segments import Measure, measure

MAX_SEGMENTS: Final = 10
MAX_RECIPIENTS: Final = 10_000

UNREGISTERED: Final = frozenset({"Unregistered", "NotListed"})
"""Senders that this provider refuses. The first is too long for a sender ID; a gateway lets the second through."""

NO_FUNDS: Final = "NoFunds"
"""A send from this sender finds the account empty."""

_SHORT_CODE: Final = re.compile(r"[0-9]{3,8}")
_ALPHANUMERIC: Final = re.compile(r"(?=.*[A-Za-z]).{1,11}", re.DOTALL)


def _check_sender(sender: str) -> str:
    alphanumeric = _ALPHANUMERIC.fullmatch(sender) and measure(sender).encoding == "gsm-7"
    if sender in UNREGISTERED or alphanumeric or _SHORT_CODE.fullmatch(sender) or msisdn.check_syntax(sender) is None:
        return sender
    raise PydanticCustomError(
        "invalid_sender", "Use 1 to 11 GSM characters with a letter among them, an E.164 number, or a short code."
    )


def _check_message(message: str) -> str:
    if measure(message).segments > MAX_SEGMENTS:
        raise PydanticCustomError("message_too_long", "Shorten the message to 10 segments.")
    return message


def _check_callback_url(url: str) -> str:
    try:
        target = URL(url)
        usable = target.scheme in {"http", "https"} and target.host
    except ValueError:
        usable = None
    if not usable:
        raise PydanticCustomError("invalid_url", "Give an absolute http or https URL.")
    return url


class Body(BaseModel):
    """What both have in common. `validity_period` is in seconds; accepted, and changes nothing here."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sender: Annotated[str, AfterValidator(_check_sender)] = Field(alias="from")
    message: Annotated[str, Field(min_length=1), AfterValidator(_check_message)]
    traffic: Literal["otp", "transactional", "marketing"] = "transactional"
    callback_url: Annotated[str, AfterValidator(_check_callback_url)] | None = None
    reference: Annotated[str, Field(max_length=128)] | None = None
    send_at: AwareDatetime | None = None
    validity_period: Annotated[int, Field(ge=1)] | None = None

    @property
    def measure(self) -> Measure:
        """The size of the message."""
        return measure(self.message)


class SendBody(Body):
    """The body of `/v1/send`. `to` is judged apart, because its error has a code of its own."""

    to: str


class BulkBody(Body):
    """The body of `/v1/send/bulk`."""

    recipients: Annotated[list[str], Field(min_length=1, max_length=MAX_RECIPIENTS)]
