"""The faults that can be switched on, one at a time."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Fault(StrEnum):
    """What goes wrong. All but `down`, `hang`, `throttle`, `error` and `hlr_down` leave the message accepted."""

    NONE = "none"
    DOWN = "down"
    """Connections are refused, and open ones are cut."""
    HANG = "hang"
    """No answer ever comes; nothing is accepted."""
    THROTTLE = "throttle"
    """429 with `Retry-After: 1`; nothing is accepted."""
    ERROR = "error"
    """500; nothing is accepted."""
    DROP_AFTER_ACCEPT = "drop_after_accept"
    """Accepted, then the connection is cut without an answer. The receipt waits until a repeat with the same key is
    answered, so that nothing but the repeat can tell what became of the send."""
    GARBAGE = "garbage"
    """Accepted, then a 200 that cannot be parsed."""
    DUPLICATE_RECEIPT = "duplicate_receipt"
    """The receipt comes twice."""
    EARLY_RECEIPT = "early_receipt"
    """The receipt comes before the answer to the send."""
    NO_RECEIPT = "no_receipt"
    """The receipt never comes."""
    HLR_DOWN = "hlr_down"
    """Look-ups answer 503; sends work."""


class FaultPlan(BaseModel):
    """The body of `PUT /faults`. A restart forgets it.

    `rate` is the share of requests that the fault hits; `down` hits all or none, so it takes no rate.
    `latency_s` delays every answer, with or without a fault; `jitter_s` by up to as much more, drawn for each.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    fault: Fault
    rate: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    latency_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    jitter_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _down_hits_all(self) -> Self:
        if self.fault is Fault.DOWN and self.rate != 1:
            raise ValueError("`down` closes the port for everyone: leave out `rate`, or make it 1")
        return self


NO_FAULT: Final = FaultPlan(fault=Fault.NONE)


class Faults:
    """The plan in force."""

    def __init__(self) -> None:
        self.plan = NO_FAULT

    def delay_s(self) -> float:
        """Draw how long this answer takes."""
        return self.plan.latency_s + self.plan.jitter_s * random.random()  # noqa: S311 - a draw, not a secret

    def hit(self, fault: Fault) -> bool:
        """Draw whether this request meets `fault`. Ask once a request."""
        return self.plan.fault is fault and random.random() < self.plan.rate  # noqa: S311 - a draw, not a secret
