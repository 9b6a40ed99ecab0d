"""`send` and `lookup`: one message, one number, over the HTTP API."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from service.cli.caller import DEFAULT_URL, ApiKey, Caller, Url, cell
from service.domain.message import MessageStatus, Traffic

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0


def send(
    to: Annotated[str, typer.Argument(help="Recipient in E.164, e.g. +15555550100.")],
    text: Annotated[str, typer.Argument(help="The message.")],
    *,
    api_key: ApiKey,
    sender: Annotated[str, typer.Option("--from", help="Sender ID, e.g. MyApp.")],
    url: Url = DEFAULT_URL,
    traffic: Annotated[Traffic | None, typer.Option(help="Default: the sender's.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Gets the receipt's webhook.")] = None,
    reference: Annotated[str | None, typer.Option(help="Your own id of the message.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A second command with the same key and message sends nothing.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the message until it ended.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object: the reply, or the watched message.")
    ] = False,
) -> None:
    """Send one message. Exit code 0: accepted (with --watch: delivered), 1: refused or not delivered, 3: no answer."""
    optional = {"traffic": traffic, "callback_url": callback_url, "reference": reference}
    body = {"to": to, "from": sender, "message": text} | {key: value for key, value in optional.items() if value}
    with Caller(url, api_key) as caller:
        answer, replayed = caller.post("/v1/send", body, idempotency_key or secrets.token_urlsafe(16))
        if not (watch and as_json):
            typer.echo(json.dumps(answer, indent=2))
        if replayed:
            typer.echo("This was sent before with the same key. Nothing new was sent.", err=True)
        if watch and not _delivered(caller, answer["message_id"], as_json=as_json):
            raise typer.Exit(1)


def lookup(
    number: Annotated[str, typer.Argument(help="A number in E.164, e.g. +15555550100.")],
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    max_age: Annotated[int | None, typer.Option(help="Seconds. 0 asks the provider anew.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Look a number up (HLR): does it exist, on which network."""
    query = "" if max_age is None else f"?max_age={max_age}"
    with Caller(url, api_key) as caller:
        found = caller.get(f"/v1/hlr/{quote(number, safe='')}{query}")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, show_header=False)
    for name, value in found.items():
        table.add_row(name, "unknown" if value is None else cell(value))
    Console().print(table)


def _delivered(caller: Caller, message_id: str, *, as_json: bool) -> bool:
    """Prints what becomes of the message until it ended; as JSON only how it ended."""
    seen: set[str] = set()
    for message in _states(lambda: caller.get(f"/v1/messages/{message_id}")):
        for line in _lines(message):
            if not as_json and line not in seen:
                typer.echo(line)
                seen.add(line)
    if as_json:
        typer.echo(json.dumps(message, indent=2))
    return bool(message["status"] == MessageStatus.DELIVERED)


def _states(read: Callable[[], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    pause_s = _FIRST_PAUSE_S
    while True:
        message = read()
        yield message
        if MessageStatus(message["status"]).terminal:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _lines(message: dict[str, Any]) -> Iterator[str]:
    for number, attempt in enumerate(message["attempts"], 1):
        if attempt["outcome"]:
            yield _joined(f"  attempt {number}: {attempt['provider']}: {attempt['outcome']}", attempt["reason"])
    yield _joined(message["status"], message["reason"])


def _joined(what: str, why: str | None) -> str:
    return f"{what} ({why})" if why else what
