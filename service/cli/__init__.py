"""The command line: `sms-gateway`. Each command has a file here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from service import __version__
from service.app import openapi_document
from service.cli import (
    audit,
    bulk,
    check,
    clients,
    dev,
    keys,
    messages,
    modes,
    providers,
    purge,
    send,
    simulator,
    suppressions,
    webhooks,
)
from service.cli.caller import GatewayUnreachable
from service.cli.config_docs import config_docs
from service.errors import ConfigurationError, GatewayError

app = typer.Typer(
    help="A self-hosted SMS gateway.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    """A self-hosted SMS gateway."""


_RUN, _PREPARE, _USE = "Run", "Prepare", "Use"
for panel, name, command in (
    (_RUN, "dev", dev.dev),
    (_RUN, "all", modes.all_),
    (_RUN, "serve", modes.serve),
    (_RUN, "worker", modes.worker),
    (_RUN, "simulator", simulator.simulator),
    (_PREPARE, "check", check.check),
    (_PREPARE, "migrate", modes.migrate),
    (_PREPARE, "purge", purge.purge),
    (_USE, "send", send.send),
    (_USE, "bulk", bulk.bulk),
    (_USE, "lookup", send.lookup),
):
    app.command(name, rich_help_panel=panel)(command)
app.command("config-docs", hidden=True)(config_docs)  # for those who work on the gateway
app.add_typer(keys.keys, name="keys", rich_help_panel=_PREPARE)
app.add_typer(clients.clients, name="clients", rich_help_panel=_PREPARE)
app.add_typer(providers.providers, name="providers", rich_help_panel=_PREPARE)
app.add_typer(audit.audit, name="audit", rich_help_panel=_PREPARE)
app.add_typer(messages.messages, name="messages", rich_help_panel=_USE)
app.add_typer(webhooks.webhooks, name="webhooks", rich_help_panel=_USE)
app.add_typer(suppressions.suppressions, name="suppressions", rich_help_panel=_USE)


@app.command(rich_help_panel=_USE)
def openapi(
    write: Annotated[Path | None, typer.Option(help="Write it to this file rather than to standard output.")] = None,
) -> None:
    """Print the OpenAPI document of the HTTP API."""
    text = json.dumps(openapi_document(), indent=2) + "\n"
    if write is None:
        typer.echo(text, nl=False)
    else:
        write.write_text(text, encoding="utf-8")


def main() -> None:
    """The console script. Exit codes: 1 refused or failed, 2 wrong use or setting, 3 the gateway does not answer."""
    try:
        app()
    except GatewayError as error:
        typer.echo(error, err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 3 if isinstance(error, GatewayUnreachable) else 1)
