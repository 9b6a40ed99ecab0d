"""Every setting: the environment says where this process runs, `gateway.yaml` says how messages travel.

Nothing is read at import. `Environment.read` and `load_config` are called once, by the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.domain.message import Traffic
from service.domain.sender import kind
from service.errors import ConfigurationError

PREFIX = "SMS_GATEWAY_"
# What Kubernetes injects for a Service named sms-gateway. It also sets SMS_GATEWAY_PORT, to `tcp://...`.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")
_SECRET_KEY_LENGTH = 32


# A service that listens everywhere is reached here by what runs beside it.
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process is told by environment variables, all of them prefixed `SMS_GATEWAY_`.

    Each one can also be given as `<NAME>_FILE`, the path of a file that holds the value (for secrets).
    """

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("data")
    """Where `dev` and `all` keep the embedded PostgreSQL and the secrets that they made."""
    config: Path = Path("gateway.yaml")
    public_url: str | None = None
    """How providers reach this service: callback URLs begin with it. Default: http://host:port."""
    database_url: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    """At least 32 random bytes; encrypts webhook secrets and signs callback URLs. Must be the same everywhere."""
    bootstrap_key: str | None = field(default=None, repr=False)
    bootstrap_webhook_secret: str | None = field(default=None, repr=False)
    log_level: str = "INFO"
    connections: int = 20
    """PostgreSQL connections of this process at most."""
    drain_s: float = 25.0
    """How long a stop waits for calls that are on their way. Keep it below Kubernetes' grace period (30 s)."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Environment:
        """Read the variables.

        Raises:
            ConfigurationError: one is unknown, misses its file or is no number.
        """
        known = set(cls.__slots__)
        values: dict[str, Any] = {}
        for name, raw in environ.items():
            if not name.startswith(PREFIX) or _SERVICE_LINK.search(name):
                continue
            setting, value = name.removeprefix(PREFIX).lower(), raw
            if setting.endswith("_file"):
                setting, value = setting.removesuffix("_file"), _read_secret(name, raw)
            if setting not in known:
                raise ConfigurationError(f"{name} is not a setting of this service.")
            if value:
                values[setting] = _parse(name, setting, value)
        return cls(**values)

    @property
    def base_url(self) -> str:
        """How providers reach this service, without a slash at the end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        host = _REACHABLE.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{name}: the file cannot be read ({error.strerror}).") from error


def _parse(name: str, setting: str, value: str) -> str | int | float | Path:
    if setting in {"data_dir", "config"}:
        return Path(value)
    try:
        if setting in {"port", "connections"}:
            return int(value)
        if setting == "drain_s":
            return float(value)
    except ValueError as error:
        link = " Kubernetes set it for a Service of that name: use enableServiceLinks: false." if "://" in value else ""
        raise ConfigurationError(f"{name} must be a number.{link}") from error
    if setting == "secret_key" and len(value) < _SECRET_KEY_LENGTH:
        raise ConfigurationError(f"{name} must have at least 32 characters, e.g. from `openssl rand -hex 32`.")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Seconds = Annotated[float, Field(gt=0)]


class Provider(_Section):
    """One account at a provider."""

    adapter: str
    base_url: AnyHttpUrl
    api_key: str = Field(repr=False)
    webhook_secret: str | None = Field(default=None, repr=False)
    """What the provider signs its receipts with."""
    mps: float | None = Field(default=None, gt=0)
    """Messages a second that the provider allows. Absent: no pacing."""
    otp_reserve: float = Field(default=0.2, ge=0, lt=1)
    """The share of `mps` that only OTPs may use."""
    max_in_flight: int = Field(default=64, ge=1)
    timeout_s: Seconds = 10.0


class Sender(_Section):
    """A sender ID and the class of traffic that it is registered for."""

    traffic: Traffic


class Route(_Section):
    """Which providers take which messages, best first. The first route that matches is taken."""

    traffic: Traffic | None = None
    countries: tuple[str, ...] | None = None
    """ISO 3166 codes; absent: all."""
    providers: tuple[str, ...] = Field(min_length=1)
    on_unknown: Literal["resend", "hold"] | None = None
    """What follows when nobody can say whether a provider took the message. Default: `resend` for otp, else `hold`."""
    hlr: Literal["off", "cached", "required"] = "cached"
    """`cached` uses what is known; `required` asks, within `hlr.budget_s`."""
    hlr_fail: Literal["open", "closed"] = "open"
    """When a required look-up has no answer in time: send all the same, or put the message back."""

    @model_validator(mode="after")
    def _once_each(self) -> Route:
        if len(set(self.providers)) < len(self.providers):
            raise ValueError("a provider is named twice")
        return self


class Hlr(_Section):
    """Number look-ups."""

    provider: str | None = None
    """The account that answers them; its adapter must have look-ups. Absent: none."""
    budget_s: Seconds = 1.0
    """How long a send waits for one."""
    timeout_s: Seconds = 5.0
    positive_ttl_s: Seconds = 86_400.0
    negative_ttl_s: Seconds = 3_600.0
    """For `absent` (the phone may be back soon) and `invalid`."""


class Webhooks(_Section):
    """Where receipt webhooks may go."""

    allow_loopback: bool = False
    denied_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    timeout_s: Seconds = 15.0
    concurrency: int = Field(default=128, ge=1)
    per_target: int = Field(default=16, ge=1)


class Limits(_Section):
    """Bounds of one request, and how long things are kept."""

    max_segments: int = Field(default=10, ge=1, le=255)
    max_recipients: int = Field(default=10_000, ge=1, le=100_000)
    max_body_bytes: int = Field(default=2_000_000, ge=1_000)
    idempotency_hours: float = Field(default=72, gt=0)
    receipt_wait_hours: float = Field(default=72, gt=0)
    """How long after its validity a sent message waits for a receipt."""


class Deliver(_Section):
    """The worker. A lane's number is how many of its messages are worked on at once."""

    lanes: dict[Traffic, Annotated[int, Field(ge=1)]] = {
        Traffic.OTP: 128,
        Traffic.TRANSACTIONAL: 128,
        Traffic.MARKETING: 64,
    }
    poll_s: Seconds = 0.2
    """How often an idle lane looks for work."""
    lease_s: float = Field(default=15.0, ge=3)
    """After this time a dead worker's messages are taken over. A call to a provider ends a second before it."""
    otp_repeat_s: Annotated[float, Field(gt=0, le=2)] = 1.0
    """How long after an unknown submission an OTP is repeated, once."""


class GatewayConfig(_Section):
    """`gateway.yaml`."""

    providers: dict[Name, Provider] = Field(min_length=1)
    senders: dict[str, Sender] = Field(min_length=1)
    routes: tuple[Route, ...] = Field(min_length=1)
    hlr: Hlr = Hlr()
    webhooks: Webhooks = Webhooks()
    limits: Limits = Limits()
    deliver: Deliver = Deliver()

    @model_validator(mode="after")
    def _names_exist(self) -> GatewayConfig:
        for number, route in enumerate(self.routes):
            for provider in route.providers:
                if provider not in self.providers:
                    raise ValueError(f"routes[{number}] names the provider {provider!r}, which is not under providers")
        if self.hlr.provider is not None and self.hlr.provider not in self.providers:
            raise ValueError(f"hlr.provider {self.hlr.provider!r} is not under providers")
        for sender in self.senders:
            if kind(sender) is None:
                raise ValueError(f"sender {sender!r} is neither alphanumeric (1-11), nor E.164, nor a short code")
        return self


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything together."""

    environment: Environment
    config: GatewayConfig


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong in `gateway.yaml` and where. `line` counts from 1."""

    line: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.what}" if self.where else f"line {self.line}: {self.what}"


class BadConfig(ConfigurationError):
    """`gateway.yaml` is wrong; `complaints` says what and where."""

    def __init__(self, path: str, complaints: list[Complaint]) -> None:
        super().__init__("\n".join([f"{path} is not usable:", *(f"  {complaint}" for complaint in complaints)]))
        self.complaints = complaints


_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_config(path: Path, environ: Mapping[str, str]) -> GatewayConfig:
    """Read `gateway.yaml`. `${NAME}` in a value is replaced by the environment variable of that name.

    Raises:
        BadConfig: with every complaint and its line.
        ConfigurationError: there is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}): set SMS_GATEWAY_CONFIG to your gateway.yaml."
        ) from error
    return parse_config(text, environ, name=str(path))


def parse_config(text: str, environ: Mapping[str, str], *, name: str = "gateway.yaml") -> GatewayConfig:
    """The configuration in `text`; see `load_config`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadConfig(name, [Complaint(line, "", f"not YAML: {error.problem}")]) from error
    if root is None:
        raise BadConfig(name, [Complaint(1, "", "the file is empty")])
    complaints: list[Complaint] = []
    values = _plain(root, environ, complaints)
    if complaints:
        raise BadConfig(name, complaints)
    try:
        return GatewayConfig.model_validate(values)
    except ValidationError as error:
        raise BadConfig(name, [_complaint(root, details) for details in error.errors()]) from error


def _plain(node: yaml.Node, environ: Mapping[str, str], complaints: list[Complaint]) -> Any:
    """The node as plain Python, with variables replaced and repeated keys found (YAML takes the last in silence)."""
    if isinstance(node, yaml.MappingNode):
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key in values:
                complaints.append(Complaint(key_node.start_mark.line + 1, key, "is given twice"))
            values[key] = _plain(value_node, environ, complaints)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, environ, complaints) for child in node.value]
    value = yaml.SafeLoader("").construct_object(node)
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in environ:
            complaints.append(Complaint(node.start_mark.line + 1, "", f"the variable {match[1]} is not set"))
        return environ.get(match[1], "")

    return _VARIABLE.sub(variable, value)


def _complaint(root: yaml.Node, details: Any) -> Complaint:
    node, path = root, []
    for part in details["loc"]:
        child = _child(node, part)
        path.append(str(part))
        if child is None:
            break
        node = child
    what = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        what = "there is no such setting"
    return Complaint(node.start_mark.line + 1, ".".join(path), what)


def _child(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    return None
