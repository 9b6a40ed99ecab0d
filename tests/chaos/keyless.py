"""A provider that knows no idempotency keys: smsroute without them. `launcher.py` puts it into the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import httpx

from service.hlr import SOURCES
from service.providers import ADAPTERS
from service.providers.adapter import Submission
from service.providers.smsroute import SmsRoute

NAME: Final = "keyless"
"""What `gateway.yaml` calls it."""


class Keyless(SmsRoute):
    """Counts every call as a message of its own, so a call of unknown outcome must not be repeated."""

    capabilities = replace(SmsRoute.capabilities, idempotency_key=False)

    def send_request(self, submission: Submission) -> httpx.Request:
        """The same call without its key."""
        request = super().send_request(submission)
        del request.headers["Idempotency-Key"]
        return request


def make_known() -> None:
    """Put it into this process's tables, beside the adapters of the service."""
    ADAPTERS[NAME] = Keyless
    SOURCES[NAME] = SOURCES["smsroute"]
