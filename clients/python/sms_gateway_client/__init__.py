"""A client of the SMS gateway: `SmsGateway`, `AsyncSmsGateway`, `verify_webhook`.

The two clients have the same methods. What they say over HTTP is in `core` and `exchange`, which do no I/O.
"""

from __future__ import annotations

from sms_gateway_client.asynchronous import AsyncSmsGateway
from sms_gateway_client.core import MessageFilters, MessageOptions
from sms_gateway_client.errors import (
    Conflict,
    Forbidden,
    ForgedWebhook,
    InvalidRequest,
    NoAnswer,
    NotEnded,
    NotFound,
    RateLimited,
    Refused,
    SmsGatewayError,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from sms_gateway_client.models import (
    Attempt,
    Batch,
    BulkProgress,
    BulkResult,
    FieldProblem,
    Hlr,
    HlrStatus,
    Message,
    MessageList,
    MessageStatus,
    MessageSummary,
    Preview,
    ProviderReceipt,
    RecipientResult,
    Sent,
    Traffic,
)
from sms_gateway_client.synchronous import SmsGateway
from sms_gateway_client.webhooks import Receipt, WebhookTest, verify_webhook

__all__ = [
    "AsyncSmsGateway",
    "Attempt",
    "Batch",
    "BulkProgress",
    "BulkResult",
    "Conflict",
    "FieldProblem",
    "Forbidden",
    "ForgedWebhook",
    "Hlr",
    "HlrStatus",
    "InvalidRequest",
    "Message",
    "MessageFilters",
    "MessageList",
    "MessageOptions",
    "MessageStatus",
    "MessageSummary",
    "NoAnswer",
    "NotEnded",
    "NotFound",
    "Preview",
    "ProviderReceipt",
    "RateLimited",
    "Receipt",
    "RecipientResult",
    "Refused",
    "Sent",
    "SmsGateway",
    "SmsGatewayError",
    "Traffic",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "WebhookTest",
    "verify_webhook",
]
