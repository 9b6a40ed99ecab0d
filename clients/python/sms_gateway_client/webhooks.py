"""Receipt webhooks: signed as Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from sms_gateway_client.errors import ForgedWebhook, UnexpectedAnswer
from sms_gateway_client.reading import Unreadable, read

_TEST = "webhook.test"
WebhookType: TypeAlias = Literal["message.delivered", "message.undelivered", "message.failed"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """How a message ended. `webhook_id` is the same whenever this comes again: drop what you have seen.

    `error_code` is the GSM MAP error: 0 the provider says none, None nothing said. `delivered_at` is None unless
    it was delivered.
    """

    webhook_id: str
    type: WebhookType
    message_id: str
    status: Literal["delivered", "undelivered", "failed"]
    delivered_at: datetime | None
    error_code: int | None
    reason: str | None
    to: str
    sender: str = field(metadata={"json": "from"})
    reference: str | None
    batch_id: str | None
    segments: int


@dataclass(frozen=True, slots=True)
class WebhookTest:
    """The event of `POST /v1/webhooks/{endpoint_id}/test`: acknowledge it, nothing happened."""

    webhook_id: str
    type: Literal["webhook.test"]
    endpoint_id: str
    created_at: datetime


def verify_webhook(body: bytes, headers: Mapping[str, str], secret: str) -> Receipt | WebhookTest:
    """What a webhook tells, once its signature is verified.

    Args:
        body: as it arrived, byte by byte: not parsed and written again.
        headers: of the request, in any case.
        secret: `whsec_...`, the client's or the registered endpoint's.

    Raises:
        ForgedWebhook: it is not from the gateway, or more than five minutes old. Answer 400.
        UnexpectedAnswer: it is genuine, but this version of the client does not understand it.
        ValueError: `secret` is none.
    """
    webhook = _webhook(secret)
    named = {name.lower(): value for name, value in headers.items()}
    try:
        webhook.verify(body, named, json_parse=False)
    except (WebhookVerificationError, ValueError) as error:  # a ValueError: headers or a body that nobody signs
        raise ForgedWebhook("The webhook is not signed with this secret, or is more than five minutes old.") from error
    try:
        event = json.loads(body)
        event = {**event, "webhook_id": named["webhook-id"]}
        return read(WebhookTest, event) if event.get("type") == _TEST else read(Receipt, event)
    except (ValueError, TypeError, Unreadable) as error:
        raise UnexpectedAnswer(f"The webhook is genuine, but not understood: {error}.") from error


def _webhook(secret: str) -> Webhook:
    try:
        return Webhook(secret if secret.startswith("whsec_") else "")
    except (EmptyWebhookSecretError, ValueError) as error:
        raise ValueError("The webhook secret must be like whsec_..., in base64.") from error
