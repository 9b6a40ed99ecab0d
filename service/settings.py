"""What `gateway.yaml` says: how messages travel. `service.config_file` reads it.

Where a process runs is told by its environment: `service.environment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.domain.message import Traffic
from service.domain.scope import Scope
from service.domain.sender import kind
from service.environment import Environment

COUNTRIES = SUPPORTED_REGIONS | {"001"}
"""ISO 3166-1 alpha-2, as libphonenumber knows them; "001" for calling codes of no country (satellite, +800)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _contradiction(where: tuple[str | int, ...], what: str) -> PydanticCustomError:
    """What is wrong between two settings. `where`, the one to correct, counts from the section that finds it."""
    return PydanticCustomError("contradiction", "{what}", {"what": what, "where": where})


def _country(code: object) -> object:
    if code is False:
        raise ValueError('YAML reads NO as "false": write "NO", in quotes')
    if not isinstance(code, str) or code not in COUNTRIES:
        raise ValueError("is no country: use two capital letters (ISO 3166-1 alpha-2), e.g. DE, GB, US")
    return code


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Country = Annotated[str, BeforeValidator(_country)]
Money = Annotated[float, Field(ge=0, le=1_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=365 * 24, allow_inf_nan=False)]
NoHours = Annotated[float, Field(ge=0, le=365 * 24, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class Provider(_Section):
    """One account at a provider."""

    adapter: str
    """Which API it speaks: `smsroute`, `twilio`, `kannel`."""
    base_url: AnyHttpUrl
    """Where that API is."""
    api_key: str = Field(repr=False)
    """Its credentials, in the form that the adapter asks for. Take them from the environment: `${ACME_API_KEY}`."""
    webhook_secret: str | None = Field(default=None, repr=False)
    """What the provider signs its receipts with, if it does."""
    mps: float | None = Field(default=None, ge=0.001, le=100_000, allow_inf_nan=False)
    """Messages a second that the provider allows. Absent: no pacing."""
    otp_reserve: float = Field(default=0.2, ge=0, lt=1, allow_inf_nan=False)
    """The share of `mps`, and of calls in flight, that only OTPs may use."""
    max_in_flight: Count = 512
    """Calls to it at once, of each worker, at most. How many it gets adapts by itself: see
    [concurrency](how-it-works.md#concurrency)."""
    timeout_s: Seconds = 10.0
    """How long a call may take. After it the outcome is unknown, so give it time: see
    [six outcomes](how-it-works.md#six-outcomes)."""
    cost: Money = 0.0
    """What a message costs, for the metric of money saved. In any currency, as long as it is the same everywhere."""


class Sender(_Section):
    """A sender ID and the class of traffic that it is registered for."""

    traffic: Traffic
    """What it is registered for. A send that says otherwise is refused."""
    mps: float | None = Field(default=None, ge=0.001, le=100_000, allow_inf_nan=False)
    """Messages a second that carriers allow under this sender at each provider (long codes: about 1). Absent: any."""


class Route(_Section):
    """Which providers take which messages, best first. The first route that matches is taken."""

    traffic: Traffic | None = None
    """Absent: all."""
    countries: tuple[Country, ...] | None = Field(default=None, min_length=1)
    """ISO 3166-1 alpha-2, in capitals (Norway in quotes: `"NO"`); `"001"` is for numbers of no country. Absent: all."""
    providers: tuple[str, ...] = Field(min_length=1)
    """Names from `providers`, best first."""
    on_unknown: Literal["resend", "hold"] | None = None
    """What follows when nobody can say whether a provider took the message. Default: `resend` for otp, else `hold`."""
    hlr: Literal["off", "cached", "required"] = "cached"
    """`off`: not looked at. `cached` uses what is known; `required` asks, within `hlr.budget_s`."""
    hlr_fail: Literal["open", "closed"] = "open"
    """When a required look-up has no answer in time: send all the same, or put the message back."""

    @model_validator(mode="after")
    def _once_each(self) -> Route:
        if len(set(self.providers)) < len(self.providers):
            raise _contradiction(("providers",), "a provider is named twice")
        return self


class Hlr(_Section):
    """Number look-ups."""

    provider: str | None = None
    """The account that answers them; its adapter must have look-ups. Absent: none."""
    budget_s: Seconds = 1.0
    """How long a send waits for one."""
    timeout_s: Seconds = 5.0
    """How long a look-up may take."""
    positive_ttl_s: Seconds = 86_400.0
    """How long `active` is believed."""
    negative_ttl_s: Seconds = 3_600.0
    """How long `absent` (the phone may be back soon) and `invalid` are believed."""
    cost: Money = 0.0
    """What a look-up costs."""


class Webhooks(_Section):
    """Where receipt webhooks may go."""

    allow_loopback: bool = False
    """Whether they may go to this very machine. For trying things out."""
    denied_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that they must not go to, e.g. `10.1.0.0/16`."""
    timeout_s: Seconds = 15.0
    """How long a receiver may take to acknowledge."""
    concurrency: Count = 1024
    """Webhooks on their way at once, of each worker."""
    per_target: Count = 256
    """The same to one endpoint, or one origin of `callback_url`s, at most. How many it gets adapts by itself."""


_LOCAL = {"localhost", "127.0.0.1", "::1"}


def secure_url(url: str) -> str:
    """`url`, over which keys may be fetched.

    Raises:
        ValueError: whoever is on the way could replace them: it is neither https nor on this machine.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and (parts.scheme, parts.hostname in _LOCAL) != ("http", True):
        raise ValueError("must begin with https://")
    return url


class Subject(_Section):
    """What a token's subject may do, and as which client."""

    client: str = Field(min_length=1, max_length=64)
    """The client that it speaks for."""
    scopes: tuple[Scope, ...] = Field(min_length=1)
    """What it may do: `send`, `hlr`, `read`, `admin`, `operator`."""


class Issuer(_Section):
    """Who issues tokens (OIDC), e.g. a Kubernetes cluster to its service accounts."""

    issuer: Annotated[str, AfterValidator(secure_url)]
    """As the claim `iss` says it, to the letter."""
    audience: str = Field(min_length=1)
    """What the claim `aud` must hold, so that tokens for others are no use here."""
    jwks_url: Annotated[AnyHttpUrl, AfterValidator(lambda url: AnyHttpUrl(secure_url(str(url))))] | None = None
    """Where the keys are. Default: as `/.well-known/openid-configuration` under the issuer says."""
    ca_file: Path | None = None
    """The certificate authority of these URLs, as PEM. Default: those of the system."""
    token_file: Path | None = None
    """A token to fetch the keys with, where they are not public (Kubernetes' API server). It is read anew each time."""
    subjects: dict[str, Subject] = Field(min_length=1)
    """By the claim `sub`. Whoever is not named may not call."""


class Auth(_Section):
    """Who may call with a token rather than an API key."""

    issuers: tuple[Issuer, ...] = ()
    """Who issues them: see below."""

    @model_validator(mode="after")
    def _once_each(self) -> Auth:
        if len({issuer.issuer for issuer in self.issuers}) < len(self.issuers):
            raise _contradiction(("issuers",), "an issuer is named twice")
        return self


class RateLimit(_Section):
    """`per_s` on average, `burst` at once after a rest."""

    per_s: float = Field(gt=0, le=1_000_000, allow_inf_nan=False)
    """On average: sends, recipients of bulks, or look-ups."""
    burst: int = Field(ge=1, le=1_000_000)
    """At once. A bulk with more recipients is refused with 422."""


class Limits(_Section):
    """Bounds of one request, and how long things are kept."""

    max_segments: int = Field(default=10, ge=1, le=255)
    """Of one text."""
    max_recipients: Count = 10_000
    """Of one bulk."""
    max_body_bytes: int = Field(default=2_000_000, ge=1_000, le=1_000_000_000)
    """Of one request."""
    idempotency_hours: Hours = 72.0
    """How long an `Idempotency-Key` is remembered."""
    receipt_wait_hours: Hours = 72.0
    """How long after its validity a sent message waits for a receipt."""
    rates: dict[Literal["send", "bulk", "hlr"], RateLimit] = {}
    """What each client may ask for, unless it has limits of its own (`sms-gateway clients set`). Absent: no limit."""


class Deliver(_Section):
    """The worker. A lane's number bounds how many of its messages are worked on at once."""

    lanes: dict[Traffic, Count] = {
        Traffic.OTP: 512,
        Traffic.TRANSACTIONAL: 1024,
        Traffic.MARKETING: 1024,
    }
    """Messages of each class that are worked on at once, in each worker, at most. Fewer are, by what providers take."""
    poll_s: float = Field(default=0.2, ge=0.001, le=60, allow_inf_nan=False)
    """How often an idle lane looks for work."""
    lease_s: float = Field(default=13.0, ge=3, le=3_600, allow_inf_nan=False)
    """After this time, and two seconds at most to notice, a dead worker's messages are taken over. A call to a provider
    ends a second before it."""
    otp_repeat_s: float = Field(default=1.0, gt=0, le=2, allow_inf_nan=False)
    """How long after an unknown submission an OTP is repeated, once."""


class Health(_Section):
    """When a provider stands back behind the next one of its route, and how it comes back."""

    min_samples: int = Field(default=40, ge=10, le=10_000)
    """How many of the newest calls (or receipts) decide, in each country and class of traffic."""
    hold_s: float = Field(default=10.0, ge=10, le=3_600, allow_inf_nan=False)
    """How long it stands back at least; twice as long at each relapse, up to 5 minutes. With less than two buckets of
    samples, its probes would be judged by what was seen before."""
    ramp_s: Seconds = 60.0
    """How long its share takes from a tenth to all, once probes have shown that it works."""


class TextHours(_Section):
    """How long a text stays after its message's end. 0: it goes in the very statement that ends the message."""

    otp: NoHours = 0.0
    """Of one-time passwords."""
    transactional: NoHours = 168.0
    """Of transactional messages."""
    marketing: NoHours = 168.0
    """Of marketing messages."""


class Retention(_Section):
    """How long messages are kept once they have ended."""

    text_hours: TextHours = TextHours()
    """How long the text stays: see below."""
    rows_days: int = Field(default=90, ge=1, le=3_650)
    """How long messages, attempts, receipts, batches and webhooks stay; they go by whole months (UTC) of creation."""

    @property
    def text_at_once(self) -> tuple[str, ...]:
        """The traffic whose texts go at once."""
        return tuple(traffic for traffic, hours in self.text_hours if hours == 0)


class GatewayConfig(_Section):
    """`gateway.yaml`."""

    providers: dict[Name, Provider] = Field(min_length=1)
    """Accounts by name: 1 to 32 of `a-z`, `0-9`, `_` and `-`. Logs and metrics show it."""
    senders: dict[str, Sender] = Field(min_length=1)
    """Sender IDs: alphanumeric (1 to 11 characters), E.164, or short codes. E.164 and digits in quotes."""
    routes: tuple[Route, ...] = Field(min_length=1)
    """A list. The first that matches is taken."""
    hlr: Hlr = Hlr()
    """Number look-ups."""
    webhooks: Webhooks = Webhooks()
    """Where receipt webhooks may go, and how fast."""
    auth: Auth = Auth()
    """Who may call with a token rather than an API key."""
    limits: Limits = Limits()
    """Bounds of one request and of each client."""
    deliver: Deliver = Deliver()
    """The worker."""
    health: Health = Health()
    """When a provider stands back: see [health](how-it-works.md#health)."""
    retention: Retention = Retention()
    """How long things are kept: see [retention](retention.md)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> GatewayConfig:
        if self.limits.idempotency_hours >= self.retention.rows_days * 24:
            raise _contradiction(("retention", "rows_days"), "must be longer than limits.idempotency_hours")
        for number, route in enumerate(self.routes):
            for place, provider in enumerate(route.providers):
                if provider not in self.providers:
                    raise _contradiction(
                        ("routes", number, "providers", place), f"there is no {provider!r} under providers"
                    )
            if route.hlr == "required" and self.hlr.provider is None:
                raise _contradiction(("routes", number, "hlr"), "needs hlr.provider, the account that answers look-ups")
        if self.hlr.provider is not None and self.hlr.provider not in self.providers:
            raise _contradiction(("hlr", "provider"), f"there is no {self.hlr.provider!r} under providers")
        for sender in self.senders:
            if kind(sender) is None:
                raise _contradiction(("senders", sender), "is neither alphanumeric (1-11), nor E.164, nor a short code")
        return self


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything together."""

    environment: Environment
    config: GatewayConfig
