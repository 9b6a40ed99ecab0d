"""`messages`: what became of them, over the HTTP API."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.table import Table

from service.cli.caller import DEFAULT_URL, ApiKey, Caller, Url, cell
from service.cli.keys import AsJson
from service.domain.message import MessageStatus, Traffic

_WIDTH: Final = 150
"""What the tables need. On a narrower terminal their lines wrap, which is better than ids that are cut."""

MessageId = Annotated[str, typer.Argument(help="As a send shows it.", metavar="MESSAGE_ID")]
Cursor = Annotated[str | None, typer.Option(help="Where the next page begins, as the page before said.")]
Limit = Annotated[int, typer.Option(help="How many at most.", min=1, max=500)]

messages = typer.Typer(help="List, show and cancel messages.", no_args_is_help=True)


@messages.command("list")
def list_(
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    status: Annotated[MessageStatus | None, typer.Option(help="Where they stand.")] = None,
    to: Annotated[str | None, typer.Option(help="Recipient in E.164.")] = None,
    sender: Annotated[str | None, typer.Option("--from", help="Sender ID.")] = None,
    traffic: Annotated[Traffic | None, typer.Option(help="Class of traffic.")] = None,
    batch_id: Annotated[str | None, typer.Option(help="As a bulk shows it.")] = None,
    reference: Annotated[str | None, typer.Option(help="Your own id.")] = None,
    created_after: Annotated[str | None, typer.Option(help="E.g. 2026-01-31T09:30:00Z. Default: 24 h back.")] = None,
    created_before: Annotated[str | None, typer.Option(help="The same. Default: no end.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List messages, newest first; without a time those of the last 24 hours."""
    query = {
        "status": status,
        "to": to,
        "from": sender,
        "traffic": traffic,
        "batch_id": batch_id,
        "reference": reference,
        "created_after": created_after,
        "created_before": created_before,
        "limit": limit,
        "cursor": cursor,
    }
    with Caller(url, api_key) as caller:
        page = caller.get("/v1/messages?" + urlencode({name: value for name, value in query.items() if value}))
    if as_json:
        typer.echo(json.dumps(page, indent=2))
        return
    table = Table("id", "status", "reason", "to", "from", "traffic", "segments", "created", box=None)
    for one in page["messages"]:
        names = ("message_id", "status", "reason", "to", "from", "traffic", "segments", "created_at")
        table.add_row(*(cell(one[name]) for name in names))
    _print(table)
    say_more(page)


@messages.command()
def show(message_id: MessageId, *, api_key: ApiKey, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a message with every attempt and receipt. Its text is not shown."""
    with Caller(url, api_key) as caller:
        message = caller.get(f"/v1/messages/{quote(message_id, safe='')}")
    if as_json:
        typer.echo(json.dumps(message, indent=2))
        return
    fields = Table(box=None, show_header=False)
    for name, value in message.items():
        if name not in {"attempts", "receipts"}:
            fields.add_row(name, cell(value))
    _print(fields)
    _print_rows("attempts", ("started_at", "provider", "calls", "outcome", "reason", "code", "open"), message)
    _print_rows("receipts", ("received_at", "provider", "status", "error_code", "provider_code"), message)


@messages.command()
def cancel(message_id: MessageId, *, api_key: ApiKey, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Take a message back. Exit code 0: it will not be sent, 1: it is too late, 3: no answer."""
    with Caller(url, api_key) as caller:
        message = caller.change("POST", f"/v1/messages/{quote(message_id, safe='')}/cancel")
    typer.echo(json.dumps(message, indent=2) if as_json else "Cancelled.")


def say_more(page: dict[str, Any]) -> None:
    """How to get the next page, if there is one."""
    if page["next_cursor"]:
        typer.echo(f"There are more: --cursor {page['next_cursor']}", err=True)


def _print_rows(what: str, columns: tuple[str, ...], message: dict[str, Any]) -> None:
    if message[what]:
        table = Table(*columns, title=what, title_justify="left", box=None)
        for row in message[what]:
            table.add_row(*(cell(row[column]) for column in columns))
        _print(table)


def _print(table: Table) -> None:
    Console(width=max(_WIDTH, Console().width)).print(table)
