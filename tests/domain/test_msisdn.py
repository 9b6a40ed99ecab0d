from __future__ import annotations

from collections.abc import Iterator

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from phonenumbers import PhoneNumber, PhoneNumberType, ValidationResult

from service.domain import msisdn
from service.domain.msisdn import check_syntax, country, has_special_rate, is_valid, line_type, mask

_codes = sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)
_e164 = st.builds(
    lambda code, national: f"+{code}{national}"[:16],
    st.sampled_from(_codes),
    st.text("0123456789", min_size=6, max_size=14),
)


def _library_number(number: str) -> PhoneNumber:
    """The number as it stands: `phonenumbers.parse` would drop trunk prefixes from it."""
    code = next(number[1:end] for end in (2, 3, 4) if int(number[1:end]) in _codes)
    national = number[1 + len(code) :]
    zeros = len(national) - len(str(int(national)))
    return PhoneNumber(int(code), int(national), italian_leading_zero=zeros > 0, number_of_leading_zeros=zeros or None)


@pytest.mark.parametrize(
    "number",
    ["+15555550100", "+15555550101", "+447700900123", "+390612345678", "+4915112345678", "+80012345678", "+29042345"],
)
def test_possible_numbers_pass_even_when_reserved_for_examples(number: str) -> None:
    assert check_syntax(number) is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("", "number_missing_plus"),
        ("555-555-0100", "number_missing_plus"),
        ("(555) 555-0100", "number_missing_plus"),
        ("0015555550100", "number_missing_plus"),
        ("15555550100", "number_missing_plus"),
        ("+1 5555550100", "number_bad_characters"),
        ("+1-555-555-0100", "number_bad_characters"),
        ("++15555550100", "number_bad_characters"),
        ("+15555550100\n", "number_bad_characters"),
        ("+1555555010\u0660", "number_bad_characters"),
        ("+155555501\uff10\uff10", "number_bad_characters"),
        ("+1555555010\x00", "number_bad_characters"),
        ("+0015555550100", "number_unknown_country_code"),
        ("+9995555550100", "number_unknown_country_code"),
        ("+", "number_too_short"),
        ("+155555", "number_too_short"),
        ("+1555555010", "number_too_short"),
        ("+15550100", "number_too_short"),
        ("+155555501000", "number_too_long"),
        ("+1555555010000000", "number_too_long"),
        ("+33123456789012", "number_too_long"),
    ],
)
def test_a_bad_number_is_refused_with_the_rule_that_broke(number: str, code: str) -> None:
    assert check_syntax(number) == code


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("+479123456", "number_too_short"),  # Norway: 5 or 8 digits, mobiles have 8
        ("+4179123456789", "number_too_long"),  # Switzerland: 9 or 12 digits, mobiles have 9
    ],
)
def test_a_length_in_a_gap_is_judged_by_mobile_numbers(number: str, code: str) -> None:
    assert check_syntax(number) == code


@given(_e164)
@example("+78002000500")
@example("+7800200050012")
@example("+44020712345")
def test_the_verdict_agrees_with_the_library(number: str) -> None:
    reason = phonenumbers.is_possible_number_with_reason(_library_number(number))
    if len(number) - 1 < 7 or reason in {ValidationResult.TOO_SHORT, ValidationResult.IS_POSSIBLE_LOCAL_ONLY}:
        assert check_syntax(number) == "number_too_short"
    elif reason == ValidationResult.IS_POSSIBLE:
        assert check_syntax(number) is None
    elif reason == ValidationResult.TOO_LONG:
        assert check_syntax(number) == "number_too_long"
    else:
        assert check_syntax(number) in {"number_too_short", "number_too_long"}


@given(st.integers(min_value=0, max_value=999))
def test_a_country_code_exists_when_the_library_knows_it(prefix: int) -> None:
    digits = f"{prefix:03}"
    known = any(int(digits[:end]) in _codes for end in (1, 2, 3) if not digits.startswith("0"))
    assert (check_syntax(f"+{digits}55501000") != "number_unknown_country_code") is known


@given(st.text(max_size=20))
def test_any_text_gets_a_verdict_and_a_mask(text: str) -> None:
    check_syntax(text)
    country(text)
    assert len(mask(text)) == len(text)


@pytest.mark.parametrize(
    ("number", "region"),
    [
        ("+15555550100", "US"),
        ("+12125550100", "US"),
        ("+18005550100", "US"),
        ("+14165550100", "CA"),
        ("+18765550100", "JM"),
        ("+447700900123", "GB"),
        ("+447781123456", "GG"),
        ("+79161234567", "RU"),
        ("+77012345678", "KZ"),
        ("+390612345678", "IT"),
        ("+390669812345", "VA"),
        ("+33612345678", "FR"),
        ("+80012345678", "001"),
        ("+9995555550100", "ZZ"),
        ("", "ZZ"),
    ],
)
def test_the_country_is_the_region_of_the_range_or_the_main_region(number: str, region: str) -> None:
    assert country(number) == region


@given(st.integers(min_value=2_000_000_000, max_value=9_999_999_999))
def test_under_plus_1_the_area_code_gives_the_region_that_the_library_gives(national: int) -> None:
    region = phonenumbers.region_code_for_number(PhoneNumber(1, national))
    if region is not None:
        assert country(f"+1{national}") == region


def test_valid_means_a_range_that_is_assigned() -> None:
    assert is_valid("+447911123456")
    assert is_valid("+390612345678")
    assert not is_valid("+447700900123")
    assert not is_valid("+15555550100")


def test_a_trunk_zero_is_not_repaired() -> None:
    assert not is_valid("+4901511234567")
    assert check_syntax("+4407700900123") == "number_too_long"


def test_the_line_type_is_named_or_none() -> None:
    assert line_type("+33612345678") == "mobile"
    assert line_type("+390612345678") == "fixed_line"
    assert line_type("+12125551234") == "fixed_line_or_mobile"
    assert line_type("+15555550100") is None


@pytest.mark.parametrize(
    ("number", "masked"),
    [
        ("+15555550100", "+1555*****00"),
        ("+447700900123", "+4477******23"),
        ("+1234567", "+*****67"),
        ("1234567", "*****67"),
        ("123456", "******"),
        ("", ""),
    ],
)
def test_a_masked_number_hides_at_least_five_characters(number: str, masked: str) -> None:
    assert mask(number) == masked


def test_the_plan_is_built_once() -> None:
    assert msisdn.numbering_plan() is msisdn.numbering_plan()


def _examples() -> Iterator[str]:
    """A number of every region and every type that the library knows."""
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items():
        for region in regions:
            for kind in PhoneNumberType.values():
                found = (
                    phonenumbers.example_number_for_non_geo_entity(code)
                    if region == msisdn.WORLD_REGION
                    else phonenumbers.example_number_for_type(region, kind)
                )
                if found is not None:
                    yield phonenumbers.format_number(found, phonenumbers.PhoneNumberFormat.E164)


def test_special_rates_are_those_of_the_library() -> None:
    seen = set()
    for number in filter(lambda it: check_syntax(it) is None, _examples()):
        kind = phonenumbers.number_type(_library_number(number))
        special = kind in {PhoneNumberType.PREMIUM_RATE, PhoneNumberType.SHARED_COST} or country(number) == "001"
        assert has_special_rate(number) is special, number
        seen.add((country(number), special))
    assert len(seen) > 300


@pytest.mark.parametrize(
    ("number", "special"),
    [
        ("+19002345678", True),
        ("+449012345678", True),
        ("+88216123456", True),
        ("+80012345678", True),
        ("+15555550100", False),
        ("+447700900123", False),
        ("+29042345", False),
    ],
)
def test_some_ranges_pay_their_holder(number: str, special: bool) -> None:
    assert has_special_rate(number) is special
