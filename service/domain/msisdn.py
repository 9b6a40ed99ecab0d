"""Phone numbers in E.164: `+`, country code, national number, nothing else. A bad number is refused, never repaired.

The facts (which country codes exist, which lengths are possible) are libphonenumber's. They are copied into one table
at first use, because asking the library takes 24 us a number and the table less than one. The library's `parse` is not
used at all: it repairs (it drops trunk prefixes, for one).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final, cast

import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumber, PhoneNumberDesc, PhoneNumberType
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

MISSING_PLUS: Final = "number_missing_plus"
BAD_CHARACTERS: Final = "number_bad_characters"
UNKNOWN_COUNTRY_CODE: Final = "number_unknown_country_code"
TOO_SHORT: Final = "number_too_short"
TOO_LONG: Final = "number_too_long"

UNKNOWN_REGION: Final = "ZZ"
WORLD_REGION: Final = "001"

_MIN_DIGITS: Final = 7
_MAX_DIGITS: Final = 15
_E164: Final = re.compile(r"\+[0-9]{7,15}")
_DIGITS: Final = re.compile(r"[0-9]*")
_NANP: Final = "1"


@dataclass(frozen=True, slots=True)
class CallingCode:
    """What a country calling code says of its numbers.

    `verdicts[n]` is the verdict on a number of `n` characters, the plus included: None where that length is possible.
    `special_rates` matches the national part of a number at a premium or shared rate.
    """

    digits: str
    main_region: str
    shared: bool
    verdicts: tuple[str | None, ...]
    special_rates: re.Pattern[str] | None


@cache
def numbering_plan() -> dict[str, CallingCode]:
    """Every calling code, under each group of three digits that numbers of it can begin with. Built once, in 60 ms."""
    plan: dict[str, CallingCode] = {}
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        digits = str(code)
        # Regions that share a code share its lengths too: the library keeps them all with the main region. It types
        # its metadata as optional, but has them for every code that it lists.
        metadata = cast("PhoneMetadata", PhoneMetadata.metadata_for_region_or_calling_code(code, regions[0]))
        verdicts, special_rates = _verdicts(digits, metadata), _special_rates(code, regions)
        entry = CallingCode(digits, regions[0], len(regions) > 1, verdicts, special_rates)
        free = 3 - len(digits)
        plan |= {f"{digits}{rest:0{free}}" if free else digits: entry for rest in range(10**free)}
    return plan


def _verdicts(digits: str, metadata: PhoneMetadata) -> tuple[str | None, ...]:
    general = cast("PhoneNumberDesc", metadata.general_desc)
    possible = general.possible_length
    # Lengths in a gap ("8 or 10 digits") are judged by the mobile numbers, for these are what people meant to write.
    mobile = metadata.mobile.possible_length if metadata.mobile else possible

    def verdict(length: int) -> str | None:
        if length in possible:
            return None
        short = length in general.possible_length_local_only or length < max(possible[0], mobile[-1])
        return TOO_SHORT if short else TOO_LONG

    before_national = 1 + len(digits)
    return tuple(verdict(characters - before_national) for characters in range(1 + _MAX_DIGITS + 1))


def _special_rates(code: int, regions: Sequence[str]) -> re.Pattern[str] | None:
    """Premium and shared rates of every region that shares the code."""
    if regions[0] == WORLD_REGION:
        return re.compile(".*")
    plans = [cast("PhoneMetadata", PhoneMetadata.metadata_for_region_or_calling_code(code, each)) for each in regions]
    kinds = (kind for plan in plans for kind in (plan.premium_rate, plan.shared_cost))
    patterns = dict.fromkeys(kind.national_number_pattern for kind in kinds if kind and kind.national_number_pattern)
    return re.compile("|".join(patterns)) if patterns else None


def check_syntax(number: str) -> str | None:
    """Judge a number as E.164 (ITU-T E.164: 7 to 15 digits), by its country code and its length.

    Returns:
        None when it may be sent to, else the code of the rule that broke. Possible is enough: whether the number is
        in service is for the HLR to say, and numbers reserved for examples pass.
    """
    if _E164.fullmatch(number) is None:
        return _malformed(number)
    calling_code = numbering_plan().get(number[1:4])
    if calling_code is None:
        return UNKNOWN_COUNTRY_CODE
    return calling_code.verdicts[len(number)]


def _malformed(number: str) -> str:
    if not number.startswith("+"):
        return MISSING_PLUS
    if _DIGITS.fullmatch(number, 1) is None:
        return BAD_CHARACTERS
    return TOO_SHORT if len(number) - 1 < _MIN_DIGITS else TOO_LONG


def country(number: str) -> str:
    """The ISO 3166-1 region of a number that `check_syntax` accepts ("US", "GB").

    Where regions share a calling code and the number is valid in none of them (it is reserved for examples, or newer
    than the metadata), the main region of that code. "001" for calling codes of no country (satellite, +800);
    "ZZ" for what is not E.164.
    """
    calling_code = numbering_plan().get(number[1:4])
    if calling_code is None:
        return UNKNOWN_REGION
    if not calling_code.shared:
        return calling_code.main_region
    if calling_code.digits == _NANP:
        # Under +1 the area code alone tells the country, so a few hundred answers serve all numbers.
        number = f"{number[:5]}2345678"
    return _region(number) or calling_code.main_region


@lru_cache(maxsize=4096)
def _region(number: str) -> str | None:
    return phonenumbers.region_code_for_number(_as_library(number))


def has_special_rate(number: str) -> bool:
    """Whether the range is one that pays its holder: premium-rate, shared-cost, or of no country (satellite, +979).

    `number` is one that `check_syntax` accepts. The patterns are libphonenumber's, tried as such: asking the library
    for the type takes 40 times as long.
    """
    calling_code = numbering_plan()[number[1:4]]
    rates = calling_code.special_rates
    return rates is not None and rates.fullmatch(number, 1 + len(calling_code.digits)) is not None


def is_valid(number: str) -> bool:
    """Whether libphonenumber knows the range as assigned. An opt-in policy: its metadata lags behind the networks.

    `number` is one that `check_syntax` accepts.
    """
    return phonenumbers.is_valid_number(_as_library(number))


def line_type(number: str) -> str | None:
    """The kind of line by its range ("mobile", "fixed_line", "fixed_line_or_mobile", "voip", ...), None if not known.

    `number` is one that `check_syntax` accepts.
    """
    kind = phonenumbers.number_type(_as_library(number))
    return None if kind == PhoneNumberType.UNKNOWN else PhoneNumberType.to_string(kind).lower()


def _as_library(number: str) -> PhoneNumber:
    code = numbering_plan()[number[1:4]].digits
    national = number[1 + len(code) :]
    zeros = len(national) - len(str(int(national)))
    return PhoneNumber(
        country_code=int(code),
        national_number=int(national),
        italian_leading_zero=zeros > 0,
        number_of_leading_zeros=zeros or None,
    )


def mask(number: str) -> str:
    """The number for logs, with at least five characters hidden: "+15555550100" becomes "+1555*****00".

    Takes any text, so that what failed the check can be logged too.
    """
    shown_first = max(0, min(5, len(number) - 7))
    shown_last = 2 if len(number) >= _MIN_DIGITS else 0
    hidden = len(number) - shown_first - shown_last
    return f"{number[:shown_first]}{'*' * hidden}{number[len(number) - shown_last :]}"
