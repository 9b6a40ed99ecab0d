"""`/v1/admin`: clients and keys, for operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import actor, allowed
from service.api.admin_models import (
    ClientChangeRequest,
    ClientList,
    ClientReply,
    ClientRequest,
    ClientWithSecretReply,
    KeyList,
    KeyRequest,
    KeyRotationReply,
    KeyRotationRequest,
    NewKeyReply,
)
from service.api.admission import Admission
from service.api.context import api_of
from service.api.cursor import read_cursor, write_cursor
from service.api.hangup import WatchedRoute
from service.api.intake import read_fields
from service.api.models import Page
from service.api.openapi import body_of, refusals
from service.api.problems import invalid
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.domain.keyring import new_api_key, new_webhook_secret
from service.domain.pacing import Rate
from service.domain.sender import kind
from service.errors import FieldError, Problem
from service.settings import COUNTRIES
from service.storage.clients import ClientChange, ClientStore, KeyTerms, Principal

router = APIRouter(tags=["Operators"], route_class=WatchedRoute)

Operator = Annotated[Principal, allowed("operator", Admission.operating)]

UNCACHED: Final = {"Cache-Control": "no-store"}
_CLIENTS: Final = "clients"
_KEYS: Final = "keys"
_CHANGING: Final = (400, 401, 403, 404, 413, 415, 422, 503)


@router.get(
    "/v1/admin/clients",
    operation_id="listClients",
    summary="List clients",
    response_model=None,
    responses={200: {"model": ClientList}, **refusals(401, 403, 422, 503)},
)
async def list_clients(request: Request, _: Operator, query: Annotated[Page, Query()]) -> Response:
    """By name."""
    runtime = api_of(request).runtime
    after = read_cursor(runtime.keyring, _CLIENTS, query.cursor) if query.cursor is not None else ""
    found = await runtime.reads.clients.clients(after, query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    following = write_cursor(runtime.keyring, _CLIENTS, shown[-1]["name"]) if more else None
    return json_reply({"clients": [_client(dict(row)) for row in shown], "next_cursor": following})


@router.post(
    "/v1/admin/clients",
    operation_id="createClient",
    summary="Make a client",
    status_code=201,
    response_model=None,
    responses={201: {"model": ClientWithSecretReply}, **refusals(400, 401, 403, 409, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("ClientRequest")},
)
async def create_client(request: Request, caller: Operator) -> Response:
    """It has no key yet and may do everything. Its webhook secret is shown this once."""
    api = api_of(request)
    body = await read_fields(request, api, ClientRequest)
    if not body.name.isprintable() or body.name.strip() != body.name:
        raise invalid([FieldError("name", "invalid_name", "Give a name of visible characters.")])
    secret = new_webhook_secret()
    sealed = api.runtime.keyring.seal(secret)
    _, kept = await api.runtime.clients.ensure_client(body.name, sealed, actor(caller))
    if kept != sealed:
        raise Problem(409, "client_exists", "There is a client of this name already. Change it, or use another name.")
    shown = _client(await _find(api.runtime.clients, body.name))
    return json_reply(shown | {"webhook_secret": secret}, status=201, headers=UNCACHED)


@router.patch(
    "/v1/admin/clients/{client}",
    operation_id="updateClient",
    summary="Change what a client may do",
    response_model=None,
    responses={200: {"model": ClientReply}, **refusals(*_CHANGING)},
    openapi_extra={"requestBody": body_of("ClientChangeRequest")},
)
async def update_client(request: Request, client: str, caller: Operator) -> Response:
    """What is left out stays. It takes effect within two seconds."""
    api = api_of(request)
    body = await read_fields(request, api, ClientChangeRequest)
    _check_lists(body.senders, body.countries)
    change = ClientChange(
        require_idempotency_key=body.require_idempotency_key,
        special_rates=body.special_rates,
        senders=body.senders,
        countries=body.countries,
        limits={name: Rate(rate.per_s, rate.burst) if rate else None for name, rate in body.limits.items()},
    )
    if "\0" in client or not await api.runtime.clients.set_client(client, change, actor(caller)):
        raise Problem(404, "client_not_found", "There is no such client. Take a name of `GET /v1/admin/clients`.")
    return json_reply(_client(await _find(api.runtime.clients, client)))


@router.get(
    "/v1/admin/keys",
    operation_id="listKeys",
    summary="List keys",
    response_model=None,
    responses={200: {"model": KeyList}, **refusals(401, 403, 422, 503)},
)
async def list_keys(request: Request, _: Operator, query: Annotated[Page, Query()]) -> Response:
    """Every key ever made, oldest first, without its secret part."""
    runtime = api_of(request).runtime
    after = UUID(hex=read_cursor(runtime.keyring, _KEYS, query.cursor)) if query.cursor is not None else UUID(int=0)
    found = await runtime.reads.clients.keys(after, query.limit + 1)
    shown, more = found[: query.limit], len(found) > query.limit
    following = write_cursor(runtime.keyring, _KEYS, shown[-1]["id"].hex) if more else None
    return json_reply({"keys": [_key(dict(row)) for row in shown], "next_cursor": following})


@router.post(
    "/v1/admin/keys",
    operation_id="createKey",
    summary="Make a key",
    status_code=201,
    response_model=None,
    responses={201: {"model": NewKeyReply}, **refusals(400, 401, 403, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("KeyRequest")},
)
async def create_key(request: Request, caller: Operator) -> Response:
    """It works at once, and is shown this once."""
    api = api_of(request)
    body = await read_fields(request, api, KeyRequest)
    _check_lists(body.senders, body.countries)
    client_id = await api.runtime.clients.client_id(body.client)
    if client_id is None:
        detail = "There is no such client. Make it with `POST /v1/admin/clients`."
        raise invalid([FieldError("client", "unknown_client", detail)])
    key = new_api_key()
    terms = KeyTerms(list(dict.fromkeys(body.scopes)), body.senders, body.countries, _lasts(body.lasts_s))
    key_id = await api.runtime.clients.add_key(client_id, key, terms, actor(caller))
    return json_reply({"key_id": str(key_id), "key": key}, status=201, headers=UNCACHED)


@router.post(
    "/v1/admin/keys/{key_id}/rotate",
    operation_id="rotateKey",
    summary="Give a key a successor",
    response_model=None,
    responses={200: {"model": KeyRotationReply}, **refusals(*_CHANGING)},
    openapi_extra={"requestBody": body_of("KeyRotationRequest")},
)
async def rotate_key(request: Request, key_id: str, caller: Operator) -> Response:
    """The new key may do what the old one may, which ends after the overlap. It is shown this once."""
    api = api_of(request)
    body = await read_fields(request, api, KeyRotationRequest)
    key, found = new_api_key(), _key_id(key_id)
    made = found and await api.runtime.clients.rotate_key(
        found, key, overlap=timedelta(seconds=body.overlap_s), lasts=_lasts(body.lasts_s), by=actor(caller)
    )
    if not made:
        raise _no_key()
    reply = {
        "key_id": str(made.key_id),
        "key": key,
        "expires_at": utc_text_or_none(made.expires_at),
        "old_expires_at": utc_text(made.old_expires_at),
    }
    return json_reply(reply, headers=UNCACHED)


@router.delete(
    "/v1/admin/keys/{key_id}",
    operation_id="revokeKey",
    summary="Revoke a key",
    status_code=204,
    response_model=None,
    responses=refusals(401, 403, 404, 503),
)
async def revoke_key(request: Request, key_id: str, caller: Operator) -> Response:
    """It stops working within two seconds."""
    found = _key_id(key_id)
    if found is None or not await api_of(request).runtime.clients.revoke_key(found, actor(caller)):
        raise _no_key()
    return Response(status_code=204)


def _key_id(shown: str) -> UUID | None:
    try:
        return UUID(shown)
    except ValueError:
        return None


def _no_key() -> Problem:
    return Problem(404, "key_not_found", "There is no living key of this id. Take a `key_id` of `GET /v1/admin/keys`.")


def _lasts(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _check_lists(senders: Sequence[str] | None, countries: Sequence[str] | None) -> None:
    def errors() -> Iterator[FieldError]:
        if any(kind(sender) is None for sender in senders or ()):
            yield FieldError("senders", "invalid_sender", "Give sender IDs: alphanumeric, E.164 or short codes.")
        if not COUNTRIES.issuperset(countries or ()):
            yield FieldError("countries", "invalid_country", "Give ISO 3166-1 alpha-2 codes in capitals: DE, GB, US.")

    if found := list(errors()):
        raise invalid(found)


async def _find(clients: ClientStore, name: str) -> Mapping[str, Any]:
    row = await clients.shown_client(name)
    assert row is not None  # noqa: S101 - just made or changed, and clients are never deleted
    return dict(row)


def _client(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(row) | {"limits": orjson.loads(row["limits"]), "created_at": utc_text(row["created_at"])}


def _key(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name != "id" and not name.endswith("_at")}
    times = {name: utc_text_or_none(value) for name, value in row.items() if name.endswith("_at")}
    return {"key_id": str(row["id"])} | shown | times
