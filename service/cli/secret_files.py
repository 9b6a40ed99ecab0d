"""Secrets that the command line makes, keeps in files that only their owner reads, and checks."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from service.errors import ConfigurationError

_PREFIX = "whsec_"


def new_secret_key() -> str:
    """A value for SMS_GATEWAY_SECRET_KEY."""
    return secrets.token_hex(32)


def kept(path: Path, make: Callable[[], str]) -> str:
    """The secret in the file at `path`. Where there is none, a new one is made and kept there (mode 0600).

    Raises:
        ConfigurationError: the file can be neither read nor written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, make())
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"The secret in {path} cannot be kept ({error.strerror}). Use another data folder (SMS_GATEWAY_DATA_DIR)."
        ) from error


def _write(path: Path, secret: str) -> None:
    """Writes the file whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def checked_api_key(name: str, api_key: str) -> str:
    """`api_key`, which was given as `name`.

    Raises:
        ConfigurationError: it could not stand in an `Authorization` header.
    """
    if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ConfigurationError(f"{name} must consist of visible ASCII characters without spaces.")
    return api_key


def checked_webhook_secret(name: str, secret: str) -> str:
    """`secret`, which was given as `name`.

    Raises:
        ConfigurationError: it is not a Standard Webhooks secret.
    """
    try:
        usable = secret.startswith(_PREFIX) and base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        usable = False
    if not usable:
        raise ConfigurationError(
            f"{name} must be `{_PREFIX}` followed by base64, e.g. {_PREFIX}$(openssl rand -base64 32)."
        )
    return secret
