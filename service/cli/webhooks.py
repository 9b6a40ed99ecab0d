"""`webhooks`: where a client's receipts go, over the HTTP API."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from service.cli.caller import DEFAULT_URL, ApiKey, Caller, Url, cell
from service.cli.keys import AsJson

_WIDTH: Final = 120
"""What the tables need. On a narrower terminal their lines wrap, which is better than ids that are cut."""

EndpointId = Annotated[str, typer.Argument(help="As `webhooks list` shows it.", metavar="ENDPOINT_ID")]
Events = Annotated[list[str] | None, typer.Option("--event", help="E.g. message.failed; repeatable. Default: all.")]

webhooks = typer.Typer(help="Register webhook endpoints and replay what went to them.", no_args_is_help=True)


@webhooks.command()
def create(
    target: Annotated[str, typer.Argument(help="Where the webhooks go.", metavar="TARGET_URL")],
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    event: Events = None,
    as_json: AsJson = False,
) -> None:
    """Register an endpoint. Its secret is printed once and cannot be shown again."""
    _print_secret(_change(url, api_key, "POST", "", {"url": target, "events": event or None}), as_json=as_json)


@webhooks.command("list")
def list_(*, api_key: ApiKey, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the client's endpoints."""
    found = _get(url, api_key, "")["webhooks"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("id", "url", "events", "state", "created", box=None)
    for one in found:
        state = "enabled" if one["enabled"] else f"disabled: {one['disabled_reason']}"
        events = "\n".join(one["events"] or ["all"])
        table.add_row(one["endpoint_id"], cell(one["url"]), events, state, one["created_at"][:10])
    _print(table)


@webhooks.command()
def update(
    endpoint_id: EndpointId,
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    target: Annotated[str | None, typer.Option("--to", help="The new URL.")] = None,
    event: Events = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Disabling ends what waits.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change an endpoint. What is not given stays."""
    given = {"url": target, "events": event or None, "enabled": enabled}
    changes = {name: value for name, value in given.items() if value is not None}
    changed = _change(url, api_key, "PATCH", f"/{endpoint_id}", changes)
    if as_json:
        typer.echo(json.dumps(changed, indent=2))
    else:
        typer.echo("Enabled." if changed["enabled"] else "Disabled.")


@webhooks.command()
def delete(endpoint_id: EndpointId, *, api_key: ApiKey, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Delete an endpoint and end what waits for it."""
    _change(url, api_key, "DELETE", f"/{endpoint_id}")
    typer.echo(json.dumps({"deleted": endpoint_id}) if as_json else "Deleted.")


@webhooks.command()
def rotate(
    endpoint_id: EndpointId,
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    overlap_s: Annotated[int, typer.Option(help="Seconds for which the old secret signs too.", min=0)] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new secret. It is printed once and cannot be shown again."""
    _print_secret(_change(url, api_key, "POST", f"/{endpoint_id}/rotate", {"overlap_s": overlap_s}), as_json=as_json)


@webhooks.command()
def deliveries(
    endpoint_id: EndpointId,
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead.")] = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where the last list ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what went to an endpoint, newest first."""
    given = {"state": state, "limit": limit, "cursor": cursor}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    page = _get(url, api_key, f"/{endpoint_id}/deliveries?{query}")
    if as_json:
        typer.echo(json.dumps(page, indent=2))
        return
    table = Table("id", "type", "state", "tries", "last answer", "created", box=None)
    for one in page["deliveries"]:
        answer = one["error"] or one["http_status"] or ""
        row = (one["webhook_id"], one["type"], one["state"], one["attempts"], answer, one["created_at"])
        table.add_row(*map(cell, row))
    _print(table)
    if page["next_cursor"]:
        typer.echo(f"There are more: --cursor {page['next_cursor']}", err=True)


@webhooks.command()
def replay(
    shown_id: Annotated[str, typer.Argument(help="A webhook (whd_...), or an endpoint with a range.", metavar="ID")],
    *,
    api_key: ApiKey,
    url: Url = DEFAULT_URL,
    since: Annotated[str | None, typer.Option("--from", help="E.g. 2026-01-31T09:30:00Z.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to, and without, this time.")] = None,
    state: Annotated[str, typer.Option(help="What of the range: dead or delivered.")] = "dead",
    as_json: AsJson = False,
) -> None:
    """Send a webhook again, or those of an endpoint in a time range. They keep their ids."""
    if shown_id.startswith("whd_"):
        answer = _change(url, api_key, "POST", f"/deliveries/{shown_id}/replay")
    elif since is None or until is None:
        raise typer.BadParameter("for an endpoint give --from and --to")
    else:
        body = {"from": since, "to": until, "state": state}
        answer = _change(url, api_key, "POST", f"/{shown_id}/replay", body)
    typer.echo(json.dumps(answer) if as_json else f"{answer['replayed']} will be sent again.")


@webhooks.command("test")
def try_(endpoint_id: EndpointId, *, api_key: ApiKey, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Send a test event. Exit code 0: the endpoint acknowledged it, 1: it did not, 3: no answer of the gateway."""
    answer = _change(url, api_key, "POST", f"/{endpoint_id}/test")
    said = "acknowledged" if answer["delivered"] else "not acknowledged"
    typer.echo(json.dumps(answer) if as_json else f"{said} ({answer['error'] or answer['http_status']})")
    if not answer["delivered"]:
        raise typer.Exit(1)


def _get(url: str, api_key: str, path: str) -> dict[str, Any]:
    with Caller(url, api_key) as caller:
        return caller.get(f"/v1/webhooks{path}")


def _change(url: str, api_key: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    with Caller(url, api_key) as caller:
        return caller.change(method, f"/v1/webhooks{path}", body)


def _print_secret(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(f"endpoint id     {answer['endpoint_id']}")
    typer.echo(f"webhook secret  {answer['secret']}")


def _print(table: Table) -> None:
    Console(width=max(_WIDTH, Console().width)).print(table)
