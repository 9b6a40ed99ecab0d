"""What the commands that change clients and keys have in common: the store, who acts, and lists on the command line."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from getpass import getuser
from typing import Any, Final

import typer

from service.cli.store import with_any_database
from service.domain.keyring import Keyring
from service.domain.sender import kind
from service.environment import Environment
from service.errors import ConfigurationError
from service.settings import COUNTRIES
from service.storage.audit import Actor
from service.storage.database import Database

LONGEST_NAME: Final = 64
ALL: Final = "*"
"""Stands for every sender, every country."""
A_PAGE: Final = 500


@asynccontextmanager
async def open_database() -> AsyncIterator[tuple[Environment, Database]]:
    """The database of the environment, or the embedded one."""
    async with with_any_database(Environment.read(os.environ)) as environment:
        database = await Database.open(str(environment.database_url), connections=1)
        try:
            yield environment, database
        finally:
            await database.close()


async def read_pages(page: Callable[[Any], Awaitable[Sequence[Any]]], name: str) -> list[dict[str, Any]]:
    """All of a list, read `A_PAGE` rows at a time: each page from behind the last row's `name` on (the first: None)."""
    rows: list[dict[str, Any]] = []
    while True:
        found = await page(rows[-1][name] if rows else None)
        rows += map(dict, found)
        if len(found) < A_PAGE:
            return rows


def operator() -> Actor:
    """Who runs this command, for the audit log."""
    try:
        user = getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return Actor(f"cli:{user}")


def keyring_of(environment: Environment) -> Keyring:
    """What seals webhook secrets.

    Raises:
        ConfigurationError: there is no secret key.
    """
    if environment.secret_key is None:
        raise ConfigurationError("Set SMS_GATEWAY_SECRET_KEY to the gateway's: it encrypts webhook secrets.")
    return Keyring(environment.secret_key, environment.other_secret_key)


def read_client(name: str) -> str:
    """A client's name."""
    name = name.strip()
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise typer.BadParameter(f"a client's name has 1 to {LONGEST_NAME} visible characters")
    return name


def read_senders(text: str | None) -> list[str] | None:
    """`MyApp,MyAppOTP`; `*` is every sender, as an empty list."""
    senders = _read_list(text)
    if any(kind(sender) is None for sender in senders or ()):
        raise typer.BadParameter(f"write sender IDs, separated by commas, or '{ALL}' for every one")
    return senders


def read_countries(text: str | None) -> list[str] | None:
    """`DE,GB`; `*` is every country, as an empty list."""
    countries = _read_list(text)
    if not COUNTRIES.issuperset(countries or ()):
        raise typer.BadParameter(f"write ISO 3166-1 codes, separated by commas (DE,GB), or '{ALL}' for every country")
    return countries


def _read_list(text: str | None) -> list[str] | None:
    return None if text is None else [] if text == ALL else list(dict.fromkeys(text.split(",")))


def shown_time(at: datetime | None) -> str | None:
    """As the commands print it."""
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
