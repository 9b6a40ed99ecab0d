"""Health and metrics, for Kubernetes and Prometheus. Not for the internet."""

from __future__ import annotations

import logging

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.api.context import api_of
from service.api.models import HealthReply
from service.api.openapi import refusals
from service.api.replies import json_reply
from service.errors import Problem
from service.pulse import STUCK_S

log = logging.getLogger(__name__)
router = APIRouter(tags=["Operations"])

_OK = {"status": "ok"}
_SCRAPED = '# TYPE messages_refused_total counter\nmessages_refused_total{code="unknown_sender"} 3.0\n'


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Is it alive",
    response_model=None,
    responses={200: {"model": HealthReply}, **refusals(503)},
)
async def healthz(request: Request) -> Response:
    """The process answers, and no loop of its worker hangs. PostgreSQL is not asked: a restart does not mend it."""
    if stuck := api_of(request).runtime.pulse.stuck():
        log.error("a loop of the worker hangs", extra={"loops": stuck})
        raise Problem(
            503, "worker_stuck", f"It hangs for over {STUCK_S:.0f} s: {', '.join(stuck)}. Restart the process."
        )
    return json_reply(_OK)


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can it work",
    response_model=None,
    responses={200: {"model": HealthReply}, **refusals(503)},
)
async def readyz(request: Request) -> Response:
    """The database answers within a second and can store, and its schema is the one of this version or a later one."""
    await api_of(request).readiness.check()
    return json_reply(_OK)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    response_model=None,
    responses={200: {"content": {"text/plain": {"example": _SCRAPED}}}},
)
async def metrics(request: Request) -> Response:
    """In the text format of Prometheus."""
    return Response(generate_latest(api_of(request).runtime.metrics.registry), media_type=CONTENT_TYPE_LATEST)
