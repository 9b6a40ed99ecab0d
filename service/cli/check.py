"""`check`: whether gateway.yaml is usable, and what is wrong with it where."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.connect import troubles
from service.cli.keys import AsJson
from service.config_file import BadConfig, Complaint, ConfigFile
from service.domain.keyring import Keyring
from service.domain.message import Traffic
from service.environment import Environment
from service.errors import ConfigurationError
from service.runtime import accounts_of, check_adapters
from service.settings import COUNTRIES, GatewayConfig


def check(
    file: Annotated[Path | None, typer.Argument(help="Default: SMS_GATEWAY_CONFIG, or ./gateway.yaml.")] = None,
    *,
    connect: Annotated[
        bool, typer.Option("--connect", help="Ask each provider too whether the credentials work. Spends nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether gateway.yaml is usable, and if not, what is wrong in which line. Starts nothing.

    Exit code 0: usable (with --connect: all credentials work), 1: not.
    """
    environment = Environment.read(os.environ)
    path = file or environment.config
    try:
        checked = _usable(path)
    except ConfigurationError as error:
        typer.echo(json.dumps(_refusal(path, error), indent=2) if as_json else error, err=not as_json)
        raise typer.Exit(1) from error
    found: dict[str, Any] = {
        "file": str(path),
        "usable": True,
        "warnings": [str(warning) for warning in _warnings(checked, environment)],
        "callback_urls": dict(_callback_urls(checked.config, environment)),
    }
    if connect:
        found["connect"] = asyncio.run(troubles(accounts_of(checked.config).values()))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _show(found, checked.config)
    if any(found.get("connect", {}).values()):
        raise typer.Exit(1)


def _usable(path: Path) -> ConfigFile:
    checked = ConfigFile.load(path, os.environ)
    if unfit := [checked.complaint(where, what) for where, what in check_adapters(checked.config)]:
        raise BadConfig(str(path), unfit)
    return checked


def _refusal(path: Path, error: ConfigurationError) -> dict[str, Any]:
    complaints = [asdict(complaint) for complaint in error.complaints] if isinstance(error, BadConfig) else []
    return {"file": str(path), "usable": False, "detail": str(error), "complaints": complaints}


def _show(found: dict[str, Any], config: GatewayConfig) -> None:
    typer.echo(f"{found['file']} is ok: {_counted(config)}.")
    for warning in found["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    if found["callback_urls"]:
        typer.echo("Accounts that take one callback URL for all receipts:")
    for name, url in found["callback_urls"].items():
        typer.echo(f"  {name}  {url}")
    if "connect" in found:
        typer.echo("Credentials:")
    for name, trouble in found.get("connect", {}).items():
        typer.echo(f"  {name}  {trouble or 'ok'}")


def _callback_urls(config: GatewayConfig, environment: Environment) -> Iterator[tuple[str, str]]:
    if environment.secret_key is not None:
        keyring = Keyring(environment.secret_key)
        for name in config.providers:
            yield name, f"{environment.base_url}/v1/receipts/{name}/{keyring.account_token(name)}"


def _counted(config: GatewayConfig) -> str:
    counts = {"provider": len(config.providers), "sender": len(config.senders), "route": len(config.routes)}
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())


def _warnings(checked: ConfigFile, environment: Environment) -> Iterator[Complaint | str]:
    yield from _useless(checked)
    if environment.public_url is None:
        said = f"providers will be told to send receipts to {environment.base_url}"
        yield f"SMS_GATEWAY_PUBLIC_URL is not set: {said}"


def _useless(checked: ConfigFile) -> Iterator[Complaint]:
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
