"""`/v1/receipts/{account}/{token}`: where providers report. The only path that faces the internet."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.context import Api, api_of
from service.api.intake import RawRoute, read_body
from service.api.openapi import refusals
from service.providers.adapter import Callback

router = APIRouter(tags=["Providers"], route_class=RawRoute)

_MAX_BYTES = 64 * 1024


@router.get(
    "/v1/receipts/{account}/{token}",
    operation_id="receiveByGet",
    summary="Take a receipt of a provider that reports by GET",
    status_code=204,
    response_model=None,
    responses=refusals(403, 404, 413, 422, 503),
)
@router.post(
    "/v1/receipts/{account}/{token}",
    operation_id="receive",
    summary="Take a provider's receipts",
    status_code=204,
    response_model=None,
    responses=refusals(403, 404, 413, 422, 503),
)
async def receive(request: Request, account: str, token: str) -> Response:
    """The token proves that the URL is one of ours; the provider's own signature is verified besides."""
    api = api_of(request)
    attempt_id = api.receive.attempt_of(account, token)
    with api.admission.receipts.of(account):
        await _receive(request, api, account, attempt_id)
    return Response(status_code=204)


async def _receive(request: Request, api: Api, account: str, attempt_id: UUID | None) -> None:
    body = await read_body(request, _MAX_BYTES)
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    callback = Callback(
        body=body,
        headers=dict(request.headers),
        query=dict(request.query_params),
        url=f"{api.runtime.settings.environment.base_url}{path}{'?' + query if query else ''}",
    )
    await api.receive.callback(account, attempt_id, callback)
