"""`/v1/webhooks`: the endpoints that a client registers for its receipt webhooks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.access import actor, allowed, authorize
from service.api.admission import Admission
from service.api.context import Api, api_of
from service.api.hangup import WatchedRoute, while_connected
from service.api.intake import read_fields
from service.api.openapi import body_of, refusals
from service.api.problems import invalid
from service.api.replies import json_reply, utc_text, utc_text_or_none
from service.api.webhook_models import (
    EndpointChangeRequest,
    EndpointReply,
    EndpointRequest,
    EndpointsReply,
    EndpointWithSecretReply,
    RotateRequest,
    TrialReply,
)
from service.domain import ids
from service.domain.keyring import new_webhook_secret
from service.errors import FieldError, Problem, TargetRefused
from service.pipeline.trial import try_endpoint
from service.storage.clients import Principal
from service.storage.endpoints import MAX_ENDPOINTS, Endpoint, EndpointChange
from service.targets import TargetPolicy

router = APIRouter(tags=["Webhooks"], route_class=WatchedRoute)

Reader = Annotated[Principal, allowed("admin", Admission.reading)]
Writer = Annotated[Principal, allowed("admin", Admission.changing)]
WriterNow = Annotated[Principal, allowed("admin", Admission.changing_now)]

_UNCACHED: Final = {"Cache-Control": "no-store"}


@router.post(
    "/v1/webhooks",
    operation_id="createWebhook",
    summary="Register an endpoint",
    status_code=201,
    response_model=None,
    responses={201: {"model": EndpointWithSecretReply}, **refusals(400, 401, 403, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("EndpointRequest")},
)
async def create(request: Request, caller: Writer) -> Response:
    """Gets the webhooks of every message of this client that has no `callback_url`. The secret is shown this once."""
    api = api_of(request)
    body = await read_fields(request, api, EndpointRequest)
    _check_url(api.runtime.webhook_policy, body.url)
    secret = new_webhook_secret()
    sealed = api.runtime.keyring.seal(secret)
    async with api.admission.change_turns.turn(caller.client_id):
        endpoint = await api.runtime.endpoints.add(
            ids.new_id(), caller.client_id, body.url, sealed, body.events, by=actor(caller)
        )
    if endpoint is None:
        detail = f"A client has at most {MAX_ENDPOINTS} endpoints. Delete one, or change its URL."
        raise Problem(422, "too_many_endpoints", detail)
    return json_reply(_shown(endpoint) | {"secret": secret}, status=201, headers=_UNCACHED)


@router.get(
    "/v1/webhooks",
    operation_id="listWebhooks",
    summary="List the endpoints",
    response_model=None,
    responses={200: {"model": EndpointsReply}, **refusals(401, 403, 503)},
)
async def list_all(request: Request, caller: Reader) -> Response:
    """All of this client, oldest first. No secret is shown."""
    endpoints = await api_of(request).runtime.reads.endpoints.all(caller.client_id)
    return json_reply({"webhooks": [_shown(endpoint) for endpoint in endpoints]})


@router.get(
    "/v1/webhooks/{endpoint_id}",
    operation_id="getWebhook",
    summary="See an endpoint",
    response_model=None,
    responses={200: {"model": EndpointReply}, **refusals(401, 403, 404, 503)},
)
async def get(request: Request, endpoint_id: str, caller: Reader) -> Response:
    """The secret is not shown."""
    return json_reply(_shown(await find_endpoint(api_of(request), endpoint_id, caller)))


@router.patch(
    "/v1/webhooks/{endpoint_id}",
    operation_id="updateWebhook",
    summary="Change, disable or enable an endpoint",
    response_model=None,
    responses={200: {"model": EndpointReply}, **refusals(400, 401, 403, 404, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("EndpointChangeRequest")},
)
async def update(request: Request, endpoint_id: str, caller: Writer) -> Response:
    """What is left out stays. Webhooks that wait for their next try go to the new URL."""
    api = api_of(request)
    endpoint = await find_endpoint(api, endpoint_id, caller)
    body = await read_fields(request, api, EndpointChangeRequest)
    if body.url is not None:
        _check_url(api.runtime.webhook_policy, body.url)
    change = EndpointChange(body.url, "events" in body.model_fields_set, body.events, body.enabled)
    async with api.admission.change_turns.turn(caller.client_id):
        changed = await api.runtime.endpoints.update(endpoint.id, caller.client_id, change, by=actor(caller))
    return json_reply(_shown(_known(changed)))


@router.delete(
    "/v1/webhooks/{endpoint_id}",
    operation_id="deleteWebhook",
    summary="Delete an endpoint",
    status_code=204,
    response_model=None,
    responses=refusals(401, 403, 404, 503),
)
async def delete(request: Request, endpoint_id: str, caller: WriterNow) -> Response:
    """Ends what waits for it. Its webhooks cannot be replayed any more."""
    found = ids.read("whe", endpoint_id)
    if found is None or not await api_of(request).runtime.endpoints.delete(found, caller.client_id, by=actor(caller)):
        raise _unknown()
    return Response(status_code=204)


@router.post(
    "/v1/webhooks/{endpoint_id}/rotate",
    operation_id="rotateWebhookSecret",
    summary="Give an endpoint a new secret",
    response_model=None,
    responses={200: {"model": EndpointWithSecretReply}, **refusals(400, 401, 403, 404, 413, 415, 422, 503)},
    openapi_extra={"requestBody": body_of("RotateRequest")},
)
async def rotate(request: Request, endpoint_id: str, caller: Writer) -> Response:
    """Until the overlap ends both secrets sign. A second rotation within it ends the oldest secret at once."""
    api = api_of(request)
    endpoint = await find_endpoint(api, endpoint_id, caller)
    body = await read_fields(request, api, RotateRequest)
    secret = new_webhook_secret()
    sealed = api.runtime.keyring.seal(secret)
    async with api.admission.change_turns.turn(caller.client_id):
        rotated = await api.runtime.endpoints.rotate(
            endpoint.id, caller.client_id, sealed, body.overlap_s, by=actor(caller)
        )
    return json_reply(_shown(_known(rotated)) | {"secret": secret}, headers=_UNCACHED)


@router.post(
    "/v1/webhooks/{endpoint_id}/test",
    operation_id="testWebhook",
    summary="Send a test event to an endpoint",
    response_model=None,
    responses={200: {"model": TrialReply}, **refusals(401, 403, 404, 503)},
)
async def send_test(request: Request, endpoint_id: str) -> Response:
    """A signed `webhook.test`, sent now and once, also to a disabled endpoint. The answer says what came of it."""
    api = api_of(request)
    caller = await authorize(request, api, "admin")
    async with while_connected(request), api.admission.trying(caller.client_id):
        endpoint = await find_endpoint(api, endpoint_id, caller)
        return json_reply(asdict(await try_endpoint(api.runtime, endpoint)))


async def find_endpoint(api: Api, endpoint_id: str, caller: Principal) -> Endpoint:
    """The client's endpoint of that id.

    Raises:
        Problem: 404 where it has no such one.
    """
    found = ids.read("whe", endpoint_id)
    return _known(await api.runtime.reads.endpoints.one(found, caller.client_id) if found else None)


def _known(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise _unknown()
    return endpoint


def _unknown() -> Problem:
    detail = "This client has no such endpoint. Take an `endpoint_id` of `GET /v1/webhooks`."
    return Problem(404, "endpoint_not_found", detail)


def _check_url(policy: TargetPolicy, url: str) -> None:
    try:
        policy.check_url(url)
    except TargetRefused as refused:
        raise invalid([FieldError("url", "url_refused", f"Use another URL: {refused}.")]) from None


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "endpoint_id": ids.show("whe", endpoint.id),
        "url": endpoint.url,
        "events": endpoint.events,
        "enabled": endpoint.disabled_at is None,
        "disabled_at": utc_text_or_none(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_reason,
        "previous_secret_until": utc_text_or_none(endpoint.previous_secret_until),
        "created_at": utc_text(endpoint.created_at),
    }
