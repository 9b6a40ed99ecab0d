"""The control port: set the fault, read the ledger. It stays up whatever the fault."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from service.simulator.faults import FaultPlan, Faults
from service.simulator.ledger import Ledger, Send
from service.simulator.problems import answer_problems, parse, read_json


class Control:
    """`apply` puts a plan into force, and returns when it is."""

    def __init__(self, faults: Faults, ledger: Ledger, apply: Callable[[FaultPlan], Awaitable[None]]) -> None:
        self._faults = faults
        self._ledger = ledger
        self._apply = apply

    def application(self) -> web.Application:
        """`GET` and `PUT /faults`, `GET /ledger?to=`, `GET /healthz`."""
        application = web.Application(middlewares=[answer_problems])
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/faults", self._show_fault)
        application.router.add_put("/faults", self._set_fault)
        application.router.add_get("/ledger", self._show_ledger)
        return application

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _show_fault(self, _: web.Request) -> web.Response:
        return web.json_response(text=self._faults.plan.model_dump_json())

    async def _set_fault(self, request: web.Request) -> web.Response:
        raw, _ = await read_json(request)
        await self._apply(parse(FaultPlan, raw))
        return await self._show_fault(request)

    async def _show_ledger(self, request: web.Request) -> web.Response:
        to = request.query.get("to")
        sends = [_entry(send) for send in self._ledger.sends if to is None or send.to == to]
        body = orjson.dumps({"sends": sends}, option=orjson.OPT_UTC_Z)
        return web.Response(body=body, content_type="application/json")


def _entry(send: Send) -> dict[str, object]:
    return {
        "message_id": send.message_id,
        "to": send.to,
        "from": send.sender,
        "idempotency_key": send.idempotency_key,
        "at": send.at,
    }
