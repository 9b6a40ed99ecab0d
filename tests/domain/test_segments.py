from __future__ import annotations

import pytest
import smsutil  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from service.domain.segments import GSM_BASIC, GSM_EXTENSION, Measure, measure, ucs2_characters

# The escape code is no character, and smsutil takes it for one; it also calls an empty text UCS-2.
_gsm_text = st.text(st.sampled_from(sorted(GSM_BASIC | GSM_EXTENSION)), min_size=1, max_size=700)
_any_text = st.text(st.characters(exclude_characters="\x1b", exclude_categories=["Cs"]), min_size=1, max_size=320)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Measure("gsm-7", 0, 1)),
        ("Your verification code is 481902.", Measure("gsm-7", 33, 1)),
        ("a" * 160, Measure("gsm-7", 160, 1)),
        ("a" * 161, Measure("gsm-7", 161, 2)),
        ("a" * 306, Measure("gsm-7", 306, 2)),
        ("a" * 307, Measure("gsm-7", 307, 3)),
        ("€" * 80, Measure("gsm-7", 160, 1)),
        ("€" * 81, Measure("gsm-7", 162, 2)),
        ("ж" * 70, Measure("ucs-2", 70, 1)),
        ("ж" * 71, Measure("ucs-2", 71, 2)),
        ("ж" * 135, Measure("ucs-2", 135, 3)),
        ("😀" * 35, Measure("ucs-2", 70, 1)),
        ("😀" * 36, Measure("ucs-2", 72, 2)),
    ],
)
def test_texts_at_the_limits_take_the_segments_of_the_standard(text: str, expected: Measure) -> None:
    assert measure(text) == expected


def test_an_escaped_character_is_not_split_between_two_segments() -> None:
    assert measure("a" * 152 + "€" + "a" * 151) == Measure("gsm-7", 305, 2)
    assert measure("a" * 152 + "€" + "a" * 152) == Measure("gsm-7", 306, 3)


def test_a_surrogate_pair_is_not_split_between_two_segments() -> None:
    assert measure("ж" * 66 + "😀" + "ж" * 65) == Measure("ucs-2", 133, 2)
    assert measure("ж" * 66 + "😀" + "ж" * 66) == Measure("ucs-2", 134, 3)


@pytest.mark.parametrize("character", ["`", "\t", "\x1b", "\x00", "ç", "ž", "\ud800"])
def test_a_character_outside_the_alphabet_forces_ucs2(character: str) -> None:
    assert measure(f"code {character}").encoding == "ucs-2"
    assert ucs2_characters(f"code {character}") == (character,)


def test_the_characters_that_force_ucs2_come_once_and_in_order() -> None:
    assert ucs2_characters("“Ждём”, жж 10 €") == ("“", "Ж", "д", "ё", "м", "”", "ж")
    assert ucs2_characters("Plain text, 10 € {ok}") == ()


@given(_gsm_text)
def test_gsm_texts_agree_with_smsutil(text: str) -> None:
    split = smsutil.split(text)
    assert measure(text) == Measure("gsm-7", split.total_bytes, len(split.parts))


@given(_any_text)
def test_any_text_agrees_with_smsutil(text: str) -> None:
    split = smsutil.split(text)
    if split.encoding == "gsm0338":
        assert measure(text) == Measure("gsm-7", split.total_bytes, len(split.parts))
    else:
        assert measure(text) == Measure("ucs-2", split.total_bytes // 2, len(split.parts))
        assert ucs2_characters(text)
