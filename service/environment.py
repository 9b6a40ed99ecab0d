"""What the environment says: where this process runs. How messages travel says `service.settings`.

Nothing is read at import. `Environment.read` is called once, by the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.domain.message import Traffic
from service.errors import ConfigurationError

PREFIX = "SMS_GATEWAY_"
# What Kubernetes injects for a Service named sms-gateway. It also sets SMS_GATEWAY_PORT, to `tcp://...`.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")
_SECRET_KEY_LENGTH = 32
NUMBERS = {
    "port": (int, 1, 65_535),
    "connections": (int, 2, 1_000),
    "statement_cache": (int, 0, 10_000),
    "drain_s": (float, 0, 3_600),
}
"""Their type, and what they may be: from, to."""
WEBHOOKS = "webhooks"
WORK = (*(lane.value for lane in Traffic), WEBHOOKS)
_BARE_URL = re.compile(r"https?://([0-9A-Za-z][\w.-]*|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[\w./~%-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Environment:
    """What the process is told by environment variables, all of them prefixed `SMS_GATEWAY_`.

    Each one can also be given as `<NAME>_FILE`, the path of a file that holds the value (for secrets).
    """

    host: str = "127.0.0.1"
    """The address to listen on. In a container: `0.0.0.0`."""
    port: int = 8080
    """The port to listen on. `worker` serves `/healthz`, `/readyz` and `/metrics` there."""
    data_dir: Path = Path("data")
    """Where `dev` and `all` keep the embedded PostgreSQL and the secrets that they made."""
    config: Path = Path("gateway.yaml")
    """The file of the second half of this page."""
    public_url: str | None = None
    """How providers reach this service: callback URLs begin with it. Default: `http://host:port`."""
    database_url: str | None = field(default=None, repr=False)
    """`postgresql://...`, version 16 or newer. Without it `dev` and `all` start their own; the others do not start."""
    listen_url: str | None = field(default=None, repr=False)
    """The same database past any pooler, for LISTEN. Default: that URL. Through a pooler `worker` only polls."""
    secret_key: str | None = field(default=None, repr=False)
    """At least 32 characters (`openssl rand -hex 32`); encrypts webhook secrets and signs callback URLs. Must be the
    same everywhere."""
    other_secret_key: str | None = field(default=None, repr=False)
    """While `secret_key` is changed: the one that comes, then the one that went. What it encrypted and signed holds."""
    bootstrap_key: str | None = field(default=None, repr=False)
    """The API key of `dev`. Default: made at the first start, and kept."""
    bootstrap_webhook_secret: str | None = field(default=None, repr=False)
    """The signing secret of `dev`. Default: as above."""
    log_level: str = "INFO"
    """`DEBUG`, `INFO`, `WARNING` or `ERROR`. Default of `dev`: `WARNING`."""
    connections: int = 20
    """PostgreSQL connections of this process at most. Where it answers callers, a quarter is for what they read."""
    statement_cache: int = 100
    """Prepared statements that each connection keeps. 0 behind PgBouncer."""
    drain_s: float = 25.0
    """How long a stop waits, in all, for calls that are on their way. Keep it below Kubernetes' grace period (30 s).
    Where a worker runs, requests get at most 5 s of it."""
    work: tuple[str, ...] = WORK
    """What this `worker` does, with commas between: lanes of `otp`, `transactional`, `marketing`; `webhooks`."""
    otlp_endpoint: str | None = None
    """Where [traces](observability.md#traces) go: an OTLP/HTTP collector, e.g. `http://collector:4318`. Default: there
    are none."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Environment:
        """Read the variables.

        Raises:
            ConfigurationError: one is unknown, misses its file or has a value that cannot be.
        """
        known = set(cls.__slots__)
        values: dict[str, Any] = {}
        for name, raw in environ.items():
            if not name.startswith(PREFIX) or _SERVICE_LINK.search(name):
                continue
            setting, value = name.removeprefix(PREFIX).lower(), raw
            if setting.endswith("_file"):
                setting, value = setting.removesuffix("_file"), read_secret(name, raw)
            if setting not in known:
                raise ConfigurationError(f"{name} is not a setting of this service.")
            if value:
                values[setting] = _parse(name, setting, value)
        return cls(**values)

    @property
    def connections_for_reads(self) -> int:
        """How many of `connections` are for what callers read."""
        return max(1, self.connections // 4)

    @property
    def base_url(self) -> str:
        """How providers reach this service, without a slash at the end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        return f"http://{reachable(self.host)}:{self.port}"


def reachable(host: str) -> str:
    """`host` as it stands in a URL. For a server that listens on every address: loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only compared
    return f"[{host}]" if ":" in host else host


def read_secret(name: str, path: str) -> str:
    """The content of the file at `path`, which the variable `name` holds, without white space around it.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{name}: the file cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name}: the file is not UTF-8.") from error


def _parse(name: str, setting: str, value: str) -> str | int | float | Path | tuple[str, ...]:
    if setting in {"data_dir", "config"}:
        return Path(value)
    if setting in NUMBERS:
        return _number(name, value, *NUMBERS[setting])
    if setting == "work":
        return _work(name, value)
    if setting in {"public_url", "otlp_endpoint"} and not _BARE_URL.fullmatch(value):
        raise ConfigurationError(
            f"{name} must be like https://sms.example.com or http://10.0.0.7:8080, without a query."
        )
    if setting in {"secret_key", "other_secret_key"} and len(value) < _SECRET_KEY_LENGTH:
        raise ConfigurationError(f"{name} must have at least 32 characters, e.g. from `openssl rand -hex 32`.")
    return value


def _work(name: str, value: str) -> tuple[str, ...]:
    asked = {word.strip() for word in value.split(",")}
    if not asked <= set(WORK):
        raise ConfigurationError(f"{name} must be a list of {', '.join(WORK)}, with commas between.")
    return tuple(word for word in WORK if word in asked)


def _number(name: str, value: str, kind: type[int | float], least: int, most: int) -> int | float:
    try:
        number = kind(value)
    except ValueError as error:
        link = " Kubernetes set it for a Service of that name: use enableServiceLinks: false." if "://" in value else ""
        raise ConfigurationError(f"{name} must be a number.{link}") from error
    if not least <= number <= most:  # so that it is told of a NaN as well
        raise ConfigurationError(f"{name} must be from {least} to {most}.")
    return number
