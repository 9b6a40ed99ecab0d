"""`bulk`: one text to every number of a CSV file, over the HTTP API."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.caller import DEFAULT_URL, ApiKey, Caller, RequestRefused, Url
from service.domain.message import Traffic

GROUP: Final = 10_000
"""Recipients in one request: the gateway's default limit."""

_Rejected = list[tuple[str, str, str]]
"""Number, code, what is wrong with it."""


def bulk(
    file: Annotated[
        Path, typer.Argument(help="CSV with a column `to`, or with one column.", exists=True, dir_okay=False)
    ],
    *,
    sender: Annotated[str, typer.Option("--from", help="Sender ID, e.g. MyAppPromo.")],
    message: Annotated[str, typer.Option(help="The text.")],
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    traffic: Annotated[Traffic | None, typer.Option(help="Default: the sender's.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Gets the receipts' webhooks.")] = None,
    reference: Annotated[str | None, typer.Option(help="Your own id of the campaign.")] = None,
    rejected: Annotated[
        Path | None, typer.Option(help="Write the numbers that were rejected to this CSV file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Send one text to many. The same command again sends nothing twice, so it can be repeated when it broke off.

    Exit code 0: all were accepted, 1: some or all were rejected, 3: no answer.
    """
    optional = {"traffic": traffic, "callback_url": callback_url, "reference": reference}
    common = {"from": sender, "message": message} | {key: value for key, value in optional.items() if value}
    numbers = _numbers(file)
    unique = list(dict.fromkeys(numbers))
    refusals: _Rejected = [
        (number, "duplicate_recipient", "The file has it more than once; it is sent once.")
        for number, count in Counter(numbers).items()
        for _ in range(count - 1)
    ]
    accepted = 0
    with Caller(url, api_key) as caller, _progress() as progress:
        bar = progress.add_task("Sending", total=len(unique))
        for group in _groups(unique):
            count, refused = _send_group(caller, {**common, "recipients": group})
            accepted += count
            refusals += refused
            progress.advance(bar, len(group))
    _summarise(accepted, refusals, rejected, as_json=as_json)
    if refusals:
        raise typer.Exit(1)


def _numbers(file: Path) -> list[str]:
    """The numbers in the file, as they are written there."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "to" in header:
        column = header.index("to")
        numbers = [row[column].strip() for row in rows[1:] if len(row) > column]
    elif all(len(row) == 1 for row in rows):
        numbers = [row[0].strip() for row in rows]
    else:
        raise typer.BadParameter(f"{file} has several columns: name the one with the numbers `to` in its first line")
    numbers = [number for number in numbers if number]
    if not numbers:
        raise typer.BadParameter(f"{file} has no numbers")
    return numbers


def _groups(numbers: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(numbers), GROUP):
        yield numbers[start : start + GROUP]


def _send_group(caller: Caller, body: dict[str, Any]) -> tuple[int, _Rejected]:
    """Sends one request. Its key is made of its content, so that the same group is never sent twice."""
    key = "bulk-" + hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    try:
        answer, replayed = caller.post("/v1/send/bulk", body, key)
    except RequestRefused as error:
        if error.problem.get("code") != "no_valid_recipients":
            raise
        return 0, list(_refusals_of(body["recipients"], error.problem))
    if replayed:
        typer.echo(f"{answer['batch_id']} was sent before. Nothing new was sent.", err=True)
    errors = ((result["to"], result["error"]) for result in answer["results"] if "error" in result)
    return answer["accepted"], [(to, error["code"], error["detail"]) for to, error in errors]


def _refusals_of(numbers: list[str], problem: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What a group of bad numbers only is told: one error for each, with the field `recipients.<index>`."""
    errors = {error["field"]: error for error in problem["errors"]}
    for index, number in enumerate(numbers):
        error = errors.get(f"recipients.{index}", problem)
        yield number, error["code"], error["detail"]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _summarise(accepted: int, refusals: _Rejected, file: Path | None, *, as_json: bool) -> None:
    reasons = dict(Counter(code for _, code, _ in refusals).most_common())
    if as_json:
        typer.echo(json.dumps({"accepted": accepted, "rejected": len(refusals), "reasons": reasons}))
    else:
        typer.echo(f"accepted {accepted}, rejected {len(refusals)}")
        for code, count in reasons.items():
            typer.echo(f"  {code}: {count}")
    if file is not None:
        with file.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([("to", "code", "detail"), *refusals])
