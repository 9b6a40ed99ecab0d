"""The providers. A new one is a file in this folder, a line in `ADAPTERS` and a case in `tests/providers/cases`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from service.errors import ConfigurationError
from service.providers.adapter import Account, Adapter
from service.providers.kannel import Kannel
from service.providers.smsroute import SmsRoute
from service.providers.twilio import Twilio

ADAPTERS: Final[dict[str, Callable[[Account], Adapter]]] = {
    "smsroute": SmsRoute,
    "twilio": Twilio,
    "kannel": Kannel,
}


def build(adapter: str, account: Account) -> Adapter:
    """The adapter of that name for `account`.

    Raises:
        ConfigurationError: no adapter has that name, or the account does not suit it.
    """
    if adapter not in ADAPTERS:
        raise ConfigurationError(
            f"provider account {account.name}: unknown `adapter`; the known ones are {', '.join(sorted(ADAPTERS))}"
        )
    return ADAPTERS[adapter](account)
