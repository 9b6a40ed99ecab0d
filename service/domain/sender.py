"""The three kinds of sender ID (`from`)."""

from __future__ import annotations

import re
from typing import Final, Literal

from service.domain import msisdn
from service.domain.segments import measure

SenderKind = Literal["alphanumeric", "msisdn", "short_code"]

_SHORT_CODE: Final = re.compile(r"[0-9]{3,8}")
# 3GPP TS 23.040, 9.1.2.5: an address has room for 10 octets, which is 11 septets.
_ADDRESS_SEPTETS: Final = 11


def kind(sender: str) -> SenderKind | None:
    """Tell the kind of a sender ID, or None when it is none.

    "msisdn": E.164. "short_code": 3 to 8 digits. "alphanumeric": 1 to 11 GSM-7 characters with at least one letter;
    one of the extension table counts as two, as it does on the air.
    """
    if sender.startswith("+") and msisdn.check_syntax(sender) is None:
        return "msisdn"
    if _SHORT_CODE.fullmatch(sender):
        return "short_code"
    return "alphanumeric" if _is_alphanumeric(sender) else None


def _is_alphanumeric(sender: str) -> bool:
    # The length is looked at first: a sender of a megabyte is not worth measuring.
    if len(sender) > _ADDRESS_SEPTETS or not sender.isprintable() or not any(map(str.isalpha, sender)):
        return False
    size = measure(sender)
    return size.encoding == "gsm-7" and size.units <= _ADDRESS_SEPTETS
