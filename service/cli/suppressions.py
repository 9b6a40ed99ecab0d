"""`suppressions`: numbers that a client must not send to, over the HTTP API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlencode

import typer
from rich.console import Console
from rich.table import Table

from service.cli.caller import DEFAULT_URL, ApiKey, Caller, Url, cell
from service.cli.keys import AsJson
from service.cli.messages import Cursor, Limit, say_more

Number = Annotated[str, typer.Argument(help="A number in E.164, e.g. +15555550100.")]

suppressions = typer.Typer(help="List, add, remove and import suppressed numbers.", no_args_is_help=True)


@suppressions.command("list")
def list_(
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    number: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: AsJson = False,
) -> None:
    """List the client's suppressed numbers, in their order."""
    query = {"number": number, "limit": limit, "cursor": cursor}
    with Caller(url, api_key) as caller:
        page = caller.get("/v1/suppressions?" + urlencode({name: value for name, value in query.items() if value}))
    if as_json:
        typer.echo(json.dumps(page, indent=2))
        return
    table = Table("number", "reason", "source", "since", box=None)
    for one in page["suppressions"]:
        table.add_row(one["number"], cell(one["reason"]), one["source"], one["created_at"])
    Console().print(table)
    say_more(page)


@suppressions.command()
def add(
    number: Number,
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    reason: Annotated[str | None, typer.Option(help="Why, in your own words.")] = None,
    as_json: AsJson = False,
) -> None:
    """Suppress a number: messages to it fail from now on."""
    body = {"number": number} | ({"reason": reason} if reason else {})
    with Caller(url, api_key) as caller:
        added = caller.change("POST", "/v1/suppressions", body)
    typer.echo(json.dumps(added, indent=2) if as_json else "Suppressed.")


@suppressions.command()
def remove(number: Number, *, api_key: ApiKey, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send to a number again. Exit code 0: done, 1: it is not on the list, 3: no answer."""
    with Caller(url, api_key) as caller:
        caller.change("DELETE", f"/v1/suppressions/{quote(number, safe='')}")
    typer.echo(json.dumps({"removed": number}) if as_json else "Removed.")


@suppressions.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="CSV with a column `number`, or with one column.", exists=True, dir_okay=False)
    ],
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Suppress the numbers of a file. Exit code 0: all are on the list, 1: some or all were bad, 3: no answer."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not UTF-8") from error
    with Caller(url, api_key) as caller:
        answer = caller.upload_csv("/v1/suppressions/import", text)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(f"added {answer['added']}, known {answer['known']}, rejected {answer['rejected']}")
        for row in answer["errors"]:
            typer.echo(f"  line {row['line']}: {row['code']}", err=True)
    if answer["errors"]:
        raise typer.Exit(1)
