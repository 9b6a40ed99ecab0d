"""The JSON of `/v1/webhooks`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ConfigDict, Field

from service.api.models import Reply, Strict, Time

DAY_S: Final = 86_400
MAX_OVERLAP_S: Final = 7 * DAY_S

_ENDPOINT: Final = "whe_0190f6c2a1b47c3d8e5f60718293a4b5"
_WEBHOOK: Final = "whd_0190f6c3b2c57d4e9f60718293a4b5c6"
_SHOWN: Final[dict[str, Any]] = {
    "endpoint_id": _ENDPOINT,
    "url": "https://shop.example.com/receipts",
    "events": None,
    "enabled": True,
    "disabled_at": None,
    "disabled_reason": None,
    "previous_secret_until": None,
    "created_at": "2026-01-31T09:30:00.123Z",
}
_SECRET: Final = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"  # noqa: S105 - the example of Standard Webhooks


def _example(fields: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class WebhookEvent(StrEnum):
    """What a message became."""

    DELIVERED = "message.delivered"
    UNDELIVERED = "message.undelivered"
    FAILED = "message.failed"


class DeliveryState(StrEnum):
    """`pending`: it is tried or waits for its next try. `dead`: no try is left, or its endpoint wants none."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class EndedState(StrEnum):
    """What a range is replayed of."""

    DEAD = "dead"
    DELIVERED = "delivered"


Url = Annotated[
    str, Field(max_length=2048, description="Where webhooks go: http or https, within the rules of the gateway.")
]
Events = Annotated[
    list[WebhookEvent],
    Field(min_length=1, description="Which webhooks it gets. Null: all."),
    AfterValidator(lambda events: list(dict.fromkeys(events))),
]


class EndpointRequest(Strict):
    """A new endpoint."""

    model_config = _example({"url": "https://shop.example.com/receipts", "events": ["message.delivered"]})

    url: Url
    events: Events | None = None


class EndpointChangeRequest(Strict):
    """What is to change of an endpoint. What is left out stays."""

    model_config = _example({"enabled": True})

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = Field(
        default=None, description="False ends what waits for the endpoint, as dead. True lets new webhooks go to it."
    )


class RotateRequest(Strict):
    """How the old secret ends."""

    model_config = _example({"overlap_s": DAY_S})

    overlap_s: Annotated[int, Field(ge=0, le=MAX_OVERLAP_S)] = Field(
        default=DAY_S, description="Seconds for which the old secret signs too. 0: it has leaked."
    )


class ReplayRequest(Strict):
    """Which of an endpoint's webhooks are sent again."""

    model_config = _example({"from": "2026-01-31T09:00:00Z", "to": "2026-01-31T10:00:00Z"})

    since: Time = Field(alias="from", description="Webhooks that were made at this time or later,")
    until: Time = Field(alias="to", description="and before this one.")
    state: EndedState = EndedState.DEAD


class EndpointReply(Reply):
    """An endpoint. `previous_secret_until`: until then a rotated secret signs too."""

    model_config = _example(_SHOWN)

    endpoint_id: str = Field(pattern="^whe_[0-9a-f]{32}$")
    url: str
    events: list[WebhookEvent] | None
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    previous_secret_until: datetime | None
    created_at: datetime


class EndpointWithSecretReply(EndpointReply):
    """An endpoint with the secret that signs its webhooks, which is shown this once."""

    model_config = _example(_SHOWN | {"secret": _SECRET})

    secret: str = Field(pattern="^whsec_")


class EndpointsReply(Reply):
    """A client's endpoints, oldest first."""

    model_config = _example({"webhooks": [_SHOWN]})

    webhooks: list[EndpointReply]


class DeliveryReply(Reply):
    """One webhook to an endpoint. `webhook_id` is what the header `webhook-id` says, on every try the same."""

    webhook_id: str = Field(pattern="^whd_[0-9a-f]{32}$")
    message_id: str = Field(pattern="^msg_[0-9a-f]{32}$")
    type: WebhookEvent
    state: DeliveryState
    attempts: int = Field(description="Since it was made, or last replayed.")
    http_status: int | None = Field(description="What the endpoint answered last.")
    error: str | None = Field(description="Why the last try failed.")
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None


class DeliveriesReply(Reply):
    """An endpoint's webhooks, newest first. `next_cursor` null: there are no more."""

    model_config = _example(
        {
            "deliveries": [
                {
                    "webhook_id": _WEBHOOK,
                    "message_id": "msg_0190f6c2d3e87f60a1b2c3d4e5f60718",
                    "type": "message.delivered",
                    "state": "dead",
                    "attempts": 10,
                    "http_status": 500,
                    "error": "http_500",
                    "created_at": "2026-01-31T09:30:00.123Z",
                    "next_attempt_at": None,
                    "ended_at": "2026-02-02T07:42:30.456Z",
                }
            ],
            "next_cursor": None,
        }
    )

    deliveries: list[DeliveryReply]
    next_cursor: str | None


class ReplayReply(Reply):
    """How many webhooks are sent again. They keep their `webhook-id` and are signed anew."""

    model_config = _example({"replayed": 118})

    replayed: int


class TrialReply(Reply):
    """What the endpoint answered to the test event."""

    model_config = _example({"webhook_id": _WEBHOOK, "delivered": False, "http_status": 404, "error": "http_404"})

    webhook_id: str = Field(pattern="^whd_[0-9a-f]{32}$")
    delivered: bool
    http_status: int | None
    error: str | None


REQUESTS: Final = (EndpointRequest, EndpointChangeRequest, RotateRequest, ReplayRequest)
