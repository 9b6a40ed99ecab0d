"""`check --connect`: whether each provider takes our credentials. Nothing is sent and nothing spent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from service.domain.outcome import Refused, Throttled
from service.errors import HttpError
from service.http import Transport
from service.providers.adapter import Doubt
from service.runtime import ProviderAccount
from service.targets import TargetPolicy

_TIMEOUT_S: Final = 10.0

_ADVICE: Final[Mapping[str, str]] = {
    "credentials": "Correct `api_key`; if it is right, ask the provider whether it takes calls from this address.",
    "forbidden": "Ask the provider to let this `api_key` send.",
    "funds": "The credentials work, but there is no money. Top the account up.",
    "suspended": "The account is suspended. Ask the provider why.",
    "configuration": "Correct `base_url`: what answers there is not this provider's API.",
}
_NO_ADVICE: Final = "Look whether `base_url` and `adapter` are right; if they are, try again later."


async def troubles(accounts: Iterable[ProviderAccount]) -> dict[str, str | None]:
    """Ask all of them at once. By account: what is wrong and what to do; None when its credentials work."""
    transport = Transport(TargetPolicy.trusting())
    try:
        asked = {account.name: asyncio.create_task(_trouble(account, transport)) for account in accounts}
        return {name: await task for name, task in asked.items()}
    finally:
        await transport.aclose()


async def _trouble(account: ProviderAccount, transport: Transport) -> str | None:
    try:
        response = await transport.send(account.adapter.credentials_request(), timeout_s=_TIMEOUT_S)
    except HttpError as error:
        return f"{error}. Look whether `base_url` is right and can be reached from here."
    verdict = account.adapter.credentials_verdict(response)
    return None if verdict is None else f"HTTP {response.status_code}, {_said(verdict)}"


def _said(verdict: Doubt) -> str:
    match verdict:
        case Throttled():
            return "throttled. Try again later."
        case Refused(reason=reason, code=code):
            named = f"{reason} ({code})" if code and code != reason else reason
            return f"{named}. {_ADVICE.get(reason, _NO_ADVICE)}"
        case _:
            return f"{verdict.reason}. {_NO_ADVICE}"
