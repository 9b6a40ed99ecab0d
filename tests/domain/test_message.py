from __future__ import annotations

from itertools import product

import pytest

from service.domain.message import DEFAULT_VALIDITY, OWN_GUESSES, MessageStatus, Traffic, may_become

TERMINAL = {"delivered", "undelivered", "failed", "cancelled"}
LEGAL = {
    "queued": {"sending", "delivered", "failed", "cancelled"},
    "sending": {"queued", "sent", "delivered", "undelivered", "failed"},
    "sent": {"delivered", "undelivered", "failed"},
}


def test_the_states_that_end_a_message_are_terminal() -> None:
    assert {status for status in MessageStatus if status.terminal} == TERMINAL


@pytest.mark.parametrize(("old", "new"), list(product(MessageStatus, MessageStatus)))
def test_only_the_transitions_of_the_design_are_legal(old: MessageStatus, new: MessageStatus) -> None:
    assert may_become(old, new) is (new in LEGAL.get(old, set()))


@pytest.mark.parametrize(("old", "new"), list(product(sorted(TERMINAL), MessageStatus)))
@pytest.mark.parametrize("reason", sorted(OWN_GUESSES))
def test_a_guess_of_our_own_is_corrected_by_delivered_and_by_nothing_else(
    old: str, new: MessageStatus, reason: str
) -> None:
    assert may_become(MessageStatus(old), new, reason=reason) is (new is MessageStatus.DELIVERED)


def test_what_somebody_else_said_is_not_corrected() -> None:
    assert not may_become(MessageStatus.UNDELIVERED, MessageStatus.DELIVERED, reason="absent_subscriber")


def test_every_class_of_traffic_has_a_default_validity() -> None:
    assert {traffic: validity.total_seconds() for traffic, validity in DEFAULT_VALIDITY.items()} == {
        Traffic.OTP: 300,
        Traffic.TRANSACTIONAL: 86_400,
        Traffic.MARKETING: 43_200,
    }
