from __future__ import annotations

import pytest

from service.domain.sender import kind


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("MyApp", "alphanumeric"),
        ("MyAppPromo1", "alphanumeric"),
        ("A", "alphanumeric"),
        ("3M Zürich", "alphanumeric"),
        ("+Plus", "alphanumeric"),
        ("+15555550100", "msisdn"),
        ("123", "short_code"),
        ("12345678", "short_code"),
    ],
)
def test_each_kind_of_sender_is_recognised(sender: str, expected: str) -> None:
    assert kind(sender) == expected


@pytest.mark.parametrize(
    "sender",
    [
        "",
        "MyAppPromo12",  # twelve characters
        "Price12345€",  # eleven, but twelve septets
        "Приложение",  # not GSM-7
        "My`App",
        "My\nApp",
        "12",
        "123456789",
        "555-0100",
        "\u0661\u0662\u0663",  # digits, not ASCII
        "12345\n",
        "+123",
        "+1 5555550100",
    ],
)
def test_what_is_no_sender_is_refused(sender: str) -> None:
    assert kind(sender) is None
