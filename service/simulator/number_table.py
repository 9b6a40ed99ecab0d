"""What becomes of a number: its last four digits decide.

=========  ==========================================================================================
digits     behaviour
=========  ==========================================================================================
0100-0199  delivered
0200-0209  undelivered, error 27 (absent subscriber)
0210-0219  undelivered, error 1 (unknown subscriber); the HLR says invalid
0220-0229  accepted, but no receipt ever comes
0230-0239  delivered, with a slow receipt (30 s, a setting)
0240-0249  failed: the provider never got it out
0250-0259  refused at submit: 422 `invalid_number`
0260-0269  dead: the HLR says invalid, and a send all the same is undelivered with error 1
0270-0279  the HLR says absent (the phone is off); a send is delivered
0280-0289  ported to another network; delivered
0290-0299  roaming; delivered
0300-0309  refused at submit: 422 `recipient_opted_out`
others     delivered
=========  ==========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from service.domain.hlr import HlrStatus
from service.domain.receipt import MAP_ABSENT_SUBSCRIBER, MAP_UNKNOWN_SUBSCRIBER, ReceiptStatus


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the simulator treats a number.

    `refused` is the code of the 422 at submit. `receipt` is None where none ever comes; `error_code` and `reason` go
    with it. `hlr_error_code` is the GSM MAP error of a look-up.
    """

    refused: str | None = None
    receipt: ReceiptStatus | None = ReceiptStatus.DELIVERED
    error_code: int | None = 0
    reason: str | None = None
    slow: bool = False
    hlr: HlrStatus = HlrStatus.ACTIVE
    hlr_error_code: int = 0
    ported: bool = False
    roaming: bool = False


DELIVERED: Final = Behaviour()
_UNKNOWN: Final = Behaviour(
    receipt=ReceiptStatus.UNDELIVERED,
    error_code=MAP_UNKNOWN_SUBSCRIBER,
    reason="unknown_subscriber",
    hlr=HlrStatus.INVALID,
    hlr_error_code=MAP_UNKNOWN_SUBSCRIBER,
)

NUMBER_TABLE: Final[dict[range, Behaviour]] = {
    range(100, 200): DELIVERED,
    range(200, 210): Behaviour(
        receipt=ReceiptStatus.UNDELIVERED, error_code=MAP_ABSENT_SUBSCRIBER, reason="absent_subscriber"
    ),
    range(210, 220): _UNKNOWN,
    range(220, 230): Behaviour(receipt=None),
    range(230, 240): Behaviour(slow=True),
    range(240, 250): Behaviour(receipt=ReceiptStatus.FAILED, error_code=None, reason="provider_failed"),
    range(250, 260): Behaviour(refused="invalid_number"),
    range(260, 270): _UNKNOWN,
    range(270, 280): Behaviour(hlr=HlrStatus.ABSENT, hlr_error_code=MAP_ABSENT_SUBSCRIBER),
    range(280, 290): Behaviour(ported=True),
    range(290, 300): Behaviour(roaming=True),
    range(300, 310): Behaviour(refused="recipient_opted_out"),
}


def behaviour_of(number: str) -> Behaviour:
    """The behaviour of an E.164 number."""
    return _of_last_four(int(number[-4:]))


@cache
def _of_last_four(last_four: int) -> Behaviour:
    return next((behaviour for digits, behaviour in NUMBER_TABLE.items() if last_four in digits), DELIVERED)
