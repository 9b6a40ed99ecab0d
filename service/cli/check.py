"""`check`: whether gateway.yaml is usable, and what is wrong with it where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from service.config_file import BadConfig, Complaint, ConfigFile
from service.domain.keyring import Keyring
from service.domain.message import Traffic
from service.errors import ConfigurationError
from service.runtime import check_adapters
from service.settings import COUNTRIES, Environment, GatewayConfig


def check(
    file: Annotated[Path | None, typer.Argument(help="Default: SMS_GATEWAY_CONFIG, or ./gateway.yaml.")] = None,
) -> None:
    """Say whether gateway.yaml is usable, and if not, what is wrong in which line. Starts nothing."""
    environment = Environment.read(os.environ)
    path = file or environment.config
    try:
        checked = ConfigFile.load(path, os.environ)
        if unfit := [checked.complaint(where, what) for where, what in check_adapters(checked.config)]:
            raise BadConfig(str(path), unfit)
    except ConfigurationError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{path} is ok: {_counted(checked.config)}.")
    for warning in _warnings(checked):
        typer.echo(f"warning: {warning}", err=True)
    if environment.public_url is None:
        said = f"providers will be told to send receipts to {environment.base_url}"
        typer.echo(f"warning: SMS_GATEWAY_PUBLIC_URL is not set: {said}", err=True)
    if environment.secret_key is not None:
        typer.echo("Accounts that take one callback URL for all receipts:")
        keyring = Keyring(environment.secret_key)
        for name in checked.config.providers:
            typer.echo(f"  {name}  {environment.base_url}/v1/receipts/{name}/{keyring.account_token(name)}")


def _counted(config: GatewayConfig) -> str:
    counts = {"provider": len(config.providers), "sender": len(config.senders), "route": len(config.routes)}
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())


def _warnings(checked: ConfigFile) -> Iterator[Complaint]:
    config = checked.config
    routed = {route.traffic for route in config.routes}
    for name, sender in config.senders.items():
        if not {None, sender.traffic} & routed:
            what = f"no route takes {sender.traffic} traffic, so nothing can be sent from it"
            yield checked.complaint(("senders", name), what)
    used = {provider for route in config.routes for provider in route.providers} | {config.hlr.provider}
    for provider in config.providers:
        if provider not in used:
            yield checked.complaint(("providers", provider), "no route names it")
    for number in _unreachable(config):
        yield checked.complaint(("routes", number), "never taken: the routes before it take all that it would")


def _unreachable(config: GatewayConfig) -> Iterator[int]:
    taken: set[tuple[Traffic, str]] = set()
    for number, route in enumerate(config.routes):
        takes = set(product([route.traffic] if route.traffic else Traffic, route.countries or COUNTRIES))
        if takes <= taken:
            yield number
        taken |= takes
