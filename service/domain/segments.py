"""How a text is coded and how many segments it takes (3GPP TS 23.038 alphabets, TS 23.040 concatenation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Encoding = Literal["gsm-7", "ucs-2"]

GSM_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""The default alphabet (TS 23.038, 6.2.1) without its escape code, which is no character of its own."""

GSM_EXTENSION: Final = frozenset("\f^{}\\[~]|€")
"""The extension table (6.2.1.1): an escape and a code, so two septets each."""

_GSM: Final = GSM_BASIC | GSM_EXTENSION

# A concatenated segment gives six octets to its user data header: seven septets, or three UCS-2 units.
_GSM_SINGLE: Final = 160
_GSM_PART: Final = 153
_UCS2_SINGLE: Final = 70
_UCS2_PART: Final = 67


@dataclass(frozen=True, slots=True)
class Measure:
    """The size of a text. `units` are septets in GSM-7 and 16-bit units in UCS-2."""

    encoding: Encoding
    units: int
    segments: int


def measure(text: str) -> Measure:
    """Code the text as GSM-7 where it can be, else as UCS-2, and count. An empty text is one segment."""
    if GSM_BASIC.issuperset(text):
        septets = len(text)
        return Measure("gsm-7", septets, 1 if septets <= _GSM_SINGLE else -(-septets // _GSM_PART))
    if _GSM.issuperset(text):
        widths = [2 if character in GSM_EXTENSION else 1 for character in text]
        return _pack("gsm-7", widths, _GSM_SINGLE, _GSM_PART)
    widths = [2 if character > "\uffff" else 1 for character in text]
    return _pack("ucs-2", widths, _UCS2_SINGLE, _UCS2_PART)


def _pack(encoding: Encoding, widths: list[int], single: int, part: int) -> Measure:
    """Fill segments with characters, none of them split: an escape or a surrogate pair moves on whole."""
    units = sum(widths)
    segments, used = 1, 0
    if units > single:
        for width in widths:
            used += width
            if used > part:
                segments, used = segments + 1, width
    return Measure(encoding, units, segments)


def ucs2_characters(text: str) -> tuple[str, ...]:
    """The characters that force UCS-2, each once, in order of appearance. Empty when the text fits GSM-7."""
    return tuple(dict.fromkeys(character for character in text if character not in _GSM))
