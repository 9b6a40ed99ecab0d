"""The sources of HLR look-ups. A new one is a file in this folder and a line in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from service.errors import ConfigurationError
from service.hlr.smsroute import SmsRouteHlr
from service.hlr.source import HlrAccount, HlrSource
from service.hlr.twilio import TwilioLookup

SOURCES: Final[dict[str, Callable[[HlrAccount], HlrSource]]] = {
    "smsroute": SmsRouteHlr,
    "twilio": TwilioLookup,
}


def build(source: str, account: HlrAccount) -> HlrSource:
    """The source of that name for `account`.

    Raises:
        ConfigurationError: no source has that name, or the account does not suit it.
    """
    if source not in SOURCES:
        raise ConfigurationError(
            f"HLR source {account.name}: unknown `adapter`; the known ones are {', '.join(sorted(SOURCES))}"
        )
    return SOURCES[source](account)
