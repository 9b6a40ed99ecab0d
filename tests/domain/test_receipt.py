from __future__ import annotations

import pytest

from service.domain.receipt import NUMBER_IS_DEAD, SUBSCRIBERS_OWN, ReceiptStatus, reason_for


@pytest.mark.parametrize(
    ("status", "error_code", "reason"),
    [
        ("undelivered", 1, "unknown_subscriber"),
        ("failed", 1, "unknown_subscriber"),
        ("undelivered", 27, "absent_subscriber"),
        ("undelivered", 9, "carrier_failed"),
        ("undelivered", 0, "carrier_failed"),
        ("undelivered", None, "carrier_failed"),
        ("failed", None, "provider_failed"),
        ("delivered", 1, None),
        ("sent", None, None),
        ("unknown", 27, None),
    ],
)
def test_a_negative_receipt_has_a_reason_and_no_other_has(
    status: str, error_code: int | None, reason: str | None
) -> None:
    assert reason_for(status, error_code) == reason


def test_only_undelivered_and_failed_are_negative() -> None:
    assert {status.value for status in ReceiptStatus if status.negative} == {"undelivered", "failed"}


def test_a_carriers_own_errors_do_not_lie_with_the_subscriber() -> None:
    system_failure, data_missing, unexpected_data, facility_not_supported = 34, 35, 36, 21
    assert SUBSCRIBERS_OWN.isdisjoint({0, system_failure, data_missing, unexpected_data, facility_not_supported})
    assert NUMBER_IS_DEAD < SUBSCRIBERS_OWN
