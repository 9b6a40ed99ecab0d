"""The reconciliation's own judgement, on made-up messages: what must be called a loss is called one, and no more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from tests.chaos.clients import Record
from tests.chaos.fates import ENOUGH, Case, complaint
from tests.chaos.stage import LedgerSend

_SENT_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
_VALID_S: Final = 30
_OVER: Final = _SENT_AT + timedelta(seconds=_VALID_S)
_DELIVERED, _ABSENT, _SILENT, _REFUSED = (f"+1202555{ending}" for ending in ("0100", "0200", "0220", "0250"))
_UNKNOWN, _ACCEPTED, _UNAVAILABLE, _REJECTED = ("unknown", "accepted", "unavailable", "rejected")


def _case(
    status: str,
    reason: str | None,
    *,
    to: str = _DELIVERED,
    traffic: str = "transactional",
    outcomes: tuple[str, ...] = (),
    news: tuple[str, ...] = (),
    ended_at: datetime = _OVER,
    healthy_at: datetime = _OVER,
    overtaken_at: datetime | None = None,
    cancelled: int | None = None,
    keyless: bool = False,
    clocks_right: bool = True,
) -> Case:
    """`news`: for each send that a provider accepted, how far its receipt is (`LedgerSend.news`)."""
    message: Any = {
        "status": status, "reason": reason, "recipient": to, "traffic": traffic,
        "created_at": _SENT_AT, "send_at": _SENT_AT, "ended_at": ended_at,
    }  # fmt: skip
    attempts: Any = [
        {"provider": "primary", "outcome": outcome, "reason": None, "calls": 1, "open": False, "started_at": _SENT_AT}
        for outcome in outcomes
    ]
    sends = [
        LedgerSend("id", to, "", _SENT_AT, one != "none", one in {"taken", "refused"}, one == "taken") for one in news
    ]
    return Case(
        message=message,
        record=Record("name", "shop", "/v1/send", "", {"validity_period": _VALID_S}, cancelled=cancelled),
        attempts=attempts,
        sends=[("primary", send) for send in sends],
        healthy_at=healthy_at,
        overtaken_at=overtaken_at,
        keyless=frozenset({"primary"} if keyless else ()),
        clocks_right=clocks_right,
    )


@pytest.mark.parametrize(
    "case",
    [
        _case("delivered", None, outcomes=(_ACCEPTED,), news=("taken",)),
        _case("undelivered", "absent_subscriber", to=_ABSENT, outcomes=(_ACCEPTED,), news=("taken",)),
        _case("failed", "invalid_number", to=_REFUSED, outcomes=(_REJECTED,)),
        _case("undelivered", "no_receipt", to=_SILENT, outcomes=(_ACCEPTED,), news=("none",)),
        _case("undelivered", "no_receipt", outcomes=(_ACCEPTED,), news=("none",)),
        _case("undelivered", "no_receipt", outcomes=(_ACCEPTED,), news=("refused",), clocks_right=False),
        _case("undelivered", "no_receipt", to=_ABSENT, outcomes=(_UNKNOWN, _ACCEPTED), news=("taken",)),
        _case("cancelled", None, cancelled=200),
        _case("failed", "expired", outcomes=(_UNAVAILABLE,)),
        _case("failed", "expired", overtaken_at=_SENT_AT + ENOUGH / 2),
        _case("failed", "submit_unknown", outcomes=(_UNKNOWN,)),
        _case("failed", "submit_unknown", outcomes=(_UNKNOWN,), healthy_at=_SENT_AT, keyless=True),
        _case("failed", "submit_unknown", outcomes=(_UNKNOWN,), healthy_at=_SENT_AT, traffic="otp"),
    ],
)
def test_an_end_that_the_number_or_a_fault_explains_is_no_loss(case: Case) -> None:
    assert complaint(case) is None


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        *(
            (_case("failed", reason, outcomes=(_UNAVAILABLE,)), "which nothing excuses")
            for reason in ("no_route", "refused_by_providers", "number_unreachable", "invalid_number")
        ),
        (_case("undelivered", "absent_subscriber", news=("taken",)), "which nothing excuses"),
        (_case("failed", "suppressed", outcomes=(_UNAVAILABLE,)), "no provider said that the recipient opted out"),
        (_case("delivered", None, outcomes=(_ACCEPTED,)), "no provider sent a receipt"),
        (_case("delivered", None, to=_ABSENT, news=("taken",)), "which nothing excuses"),
        (_case("failed", "invalid_number", to=_REFUSED), "no provider said so"),
        (_case("cancelled", None), "nobody asked"),
        (_case("failed", "expired", ended_at=_OVER - timedelta(seconds=9)), "0:00:09 before its validity was over"),
        (_case("failed", "expired", healthy_at=_SENT_AT), "nothing stood in its way"),
        (_case("failed", "expired", news=("none",)), "although a provider has it"),
        (_case("failed", "expired", overtaken_at=_OVER), "left lying"),
        (_case("failed", "submit_unknown", outcomes=(_UNAVAILABLE,)), "no attempt is on record as unknown"),
        (_case("failed", "submit_unknown", outcomes=(_UNKNOWN,), healthy_at=_SENT_AT), "could have been repeated"),
        (_case("undelivered", "no_receipt", outcomes=(_ACCEPTED,)), "no provider has it"),
        (_case("undelivered", "no_receipt", outcomes=(_ACCEPTED,), news=("refused",)), "had a receipt to send"),
    ],
)
def test_an_end_that_nothing_explains_is_a_loss(case: Case, sentence: str) -> None:
    assert sentence in str(complaint(case))
