"""The JSON of `/v1/admin`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from service.api.models import Parameters, Reply, Strict, Text
from service.api.webhook_models import DAY_S, MAX_OVERLAP_S
from service.domain.scope import Scope

_KEY: Final = "0190f6c2-a1b4-7c3d-8e5f-60718293a4b5"
_AT: Final = "2026-01-31T09:30:00.123Z"
_CLIENT: Final[dict[str, Any]] = {
    "name": "shop",
    "require_idempotency_key": False,
    "special_rates": False,
    "senders": ["MyApp"],
    "countries": None,
    "limits": {"send": {"per_s": 50.0, "burst": 25}},
    "created_at": _AT,
}
_SHOWN_KEY: Final[dict[str, Any]] = {
    "key_id": _KEY,
    "client": "shop",
    "hint": "sk_Nhb8wq1",
    "scopes": ["send", "read"],
    "senders": None,
    "countries": ["DE", "AT"],
    "created_at": _AT,
    "expires_at": None,
    "last_used_at": None,
    "revoked_at": None,
}
_PROVIDER: Final[dict[str, Any]] = {
    "provider": "primary",
    "under_way": 0,
    "paused": {"reason": "maintenance", "by": f"key:{_KEY}", "since": _AT},
}


def _example(fields: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


ClientName = Annotated[Text, Field(min_length=1, max_length=64, description="A client's name.")]
Senders = Annotated[list[str], Field(max_length=1_000, description="Sender IDs, and none but these.")]
Countries = Annotated[list[str], Field(max_length=300, description="ISO 3166-1 alpha-2, and none but these.")]
Lasts = Annotated[int, Field(ge=1, le=36_500 * DAY_S, description="Seconds until it ends. Null: for good.")]


class ClientRequest(Strict):
    """A new client."""

    model_config = _example({"name": "shop"})

    name: ClientName


class RateFields(Strict):
    """`per_s` on average, `burst` at once after a rest."""

    per_s: float = Field(gt=0, le=1_000_000, allow_inf_nan=False)
    burst: int = Field(ge=1, le=1_000_000)


class ClientChangeRequest(Strict):
    """What is to change of a client. What is left out stays; an empty list of senders or countries means all."""

    model_config = _example({"countries": ["DE", "AT"], "limits": {"send": {"per_s": 50, "burst": 25}}})

    require_idempotency_key: bool | None = None
    special_rates: bool | None = Field(
        default=None, description="Whether it may send to premium-rate, shared-cost and satellite numbers."
    )
    senders: Senders | None = None
    countries: Countries | None = None
    limits: dict[Literal["send", "bulk", "hlr"], RateFields | None] = Field(
        default={}, description="Its own limits over those of gateway.yaml. Null: that of gateway.yaml again."
    )


class KeyRequest(Strict):
    """A new key. Senders and countries narrow what its client may do."""

    model_config = _example({"client": "shop", "scopes": ["send", "read"], "lasts_s": 90 * DAY_S})

    client: ClientName
    scopes: list[Scope] = Field(min_length=1, max_length=10)
    senders: Annotated[Senders, Field(min_length=1)] | None = None
    countries: Annotated[Countries, Field(min_length=1)] | None = None
    lasts_s: Lasts | None = None


class KeyRotationRequest(Strict):
    """How the old key ends, and how long the new one lasts."""

    model_config = _example({"overlap_s": DAY_S})

    overlap_s: Annotated[int, Field(ge=0, le=MAX_OVERLAP_S)] = Field(
        default=DAY_S, description="Seconds for which the old key works too. 0: it has leaked."
    )
    lasts_s: Lasts | None = Field(default=None, description="Null: as long as the old one was made for.")


class PauseRequest(Strict):
    """Why a provider gets no messages."""

    model_config = _example({"reason": "maintenance"})

    reason: Text = Field(min_length=1, max_length=200)


class AuditQuery(Parameters):
    """Which part of the log."""

    limit: Annotated[int, Field(ge=1, le=500, description="How many at most.")] = 50
    cursor: Annotated[str | None, Field(description="`next_cursor` of the page before.")] = None


class RateReply(Reply):
    """`per_s` on average, `burst` at once after a rest."""

    per_s: float
    burst: int


class ClientReply(Reply):
    """A client, and what it may do. Senders and countries null: all."""

    model_config = _example(_CLIENT)

    name: str
    require_idempotency_key: bool
    special_rates: bool
    senders: list[str] | None
    countries: list[str] | None
    limits: dict[str, RateReply]
    created_at: datetime


class ClientWithSecretReply(ClientReply):
    """A client with the secret that signs its webhooks, which is shown this once."""

    model_config = _example(_CLIENT | {"webhook_secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"})

    webhook_secret: str


class ClientList(Reply):
    """Clients, by name."""

    model_config = _example({"clients": [_CLIENT], "next_cursor": None})

    clients: list[ClientReply]
    next_cursor: str | None = Field(description="Where the next page begins. Null: this was the last.")


class KeyReply(Reply):
    """A key without its secret part; `hint` is how it begins. `last_used_at` is right to a minute."""

    model_config = _example(_SHOWN_KEY)

    key_id: str
    client: str
    hint: str
    scopes: list[str]
    senders: list[str] | None
    countries: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKeyReply(Reply):
    """A key, which is shown this once."""

    model_config = _example({"key_id": _KEY, "key": "sk_Nhb8wq1m5nq0Yt4vJc6pRz8sLk3dWx7uEa2fGb9hTiQ"})

    key_id: str
    key: str


class KeyRotationReply(NewKeyReply):
    """The new key, which is shown this once, and when each of both ends."""

    model_config = _example(
        {
            "key_id": _KEY,
            "key": "sk_Nhb8wq1m5nq0Yt4vJc6pRz8sLk3dWx7uEa2fGb9hTiQ",
            "expires_at": None,
            "old_expires_at": _AT,
        }
    )

    expires_at: datetime | None
    old_expires_at: datetime


class KeyList(Reply):
    """Keys, oldest first."""

    model_config = _example({"keys": [_SHOWN_KEY], "next_cursor": None})

    keys: list[KeyReply]
    next_cursor: str | None = Field(description="Where the next page begins. Null: this was the last.")


class PauseReply(Reply):
    """Why a provider gets no messages, by whom, since when."""

    reason: str
    by: str
    since: datetime


class ProviderReply(Reply):
    """A provider of `gateway.yaml`. `under_way`: how many calls to it are being made."""

    model_config = _example(_PROVIDER)

    provider: str
    under_way: int
    paused: PauseReply | None


class ProviderList(Reply):
    """Every provider of `gateway.yaml`."""

    model_config = _example({"providers": [_PROVIDER]})

    providers: list[ProviderReply]


class ActReply(Reply):
    """An act of an operator. `who`: `cli:`, `key:` or `token:` and a name."""

    at: datetime
    who: str
    action: str
    object: str
    details: dict[str, Any]
    request_id: str | None


class AuditReply(Reply):
    """What operators did, newest first."""

    model_config = _example(
        {
            "acts": [
                {
                    "at": _AT,
                    "who": "cli:ada",
                    "action": "provider.pause",
                    "object": "provider:primary",
                    "details": {"reason": "maintenance"},
                    "request_id": None,
                }
            ],
            "next_cursor": None,
        }
    )

    acts: list[ActReply]
    next_cursor: str | None


REQUESTS: Final = (ClientRequest, ClientChangeRequest, KeyRequest, KeyRotationRequest, PauseRequest)
