"""`check`: whether gateway.yaml is usable, and what is wrong with it where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from service.domain.keyring import Keyring
from service.errors import ConfigurationError
from service.runtime import check_adapters
from service.settings import Environment, GatewayConfig, load_config


def check(
    file: Annotated[Path | None, typer.Argument(help="Default: SMS_GATEWAY_CONFIG, or ./gateway.yaml.")] = None,
) -> None:
    """Say whether gateway.yaml is usable, and if not, what is wrong in which line. Starts nothing."""
    environment = Environment.read(os.environ)
    path = file or environment.config
    try:
        config = load_config(path, os.environ)
        check_adapters(config)
    except ConfigurationError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{path} is ok: {_counted(config)}.")
    for warning in _warnings(config, environment):
        typer.echo(f"warning: {warning}", err=True)
    if environment.secret_key is not None:
        typer.echo("Accounts that take one callback URL for all receipts:")
        keyring = Keyring(environment.secret_key)
        for name in config.providers:
            typer.echo(f"  {name}  {environment.base_url}/v1/receipts/{name}/{keyring.account_token(name)}")


def _counted(config: GatewayConfig) -> str:
    counts = {"provider": len(config.providers), "sender": len(config.senders), "route": len(config.routes)}
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())


def _warnings(config: GatewayConfig, environment: Environment) -> Iterator[str]:
    routed = {route.traffic for route in config.routes}
    for name, sender in config.senders.items():
        if not {None, sender.traffic} & routed:
            yield f"sender {name}: no route takes {sender.traffic} traffic, so nothing can be sent from it"
    used = {provider for route in config.routes for provider in route.providers} | {config.hlr.provider}
    for provider in config.providers:
        if provider not in used:
            yield f"provider {provider}: no route names it"
    if environment.public_url is None:
        yield f"SMS_GATEWAY_PUBLIC_URL is not set: providers will be told to send receipts to {environment.base_url}"
