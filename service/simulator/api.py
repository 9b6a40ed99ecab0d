"""The smsroute API: send, bulk and HLR, each request through the fault in force."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from service.domain import msisdn
from service.errors import FieldError, Problem
from service.simulator.accept import NOT_E164, Accepted, Acceptor
from service.simulator.bodies import BulkBody, SendBody
from service.simulator.faults import Fault, Faults
from service.simulator.hlr import look_up
from service.simulator.ledger import Answer, Ledger
from service.simulator.problems import Model, answer_problems, parse, read_json
from service.simulator.receipts import Receipts

_EARLY_RECEIPT_WITHIN_S: Final = 2.0
"""The longest that a send's answer waits for its early receipt to be acknowledged."""

_KEY: Final = re.compile(r"[!-~]{1,255}")
_HEALTH: Final = "/healthz"


class Api:
    """What answers on the simulator's port."""

    def __init__(
        self, *, name: str, api_key: str, faults: Faults, ledger: Ledger, acceptor: Acceptor, receipts: Receipts
    ) -> None:
        self._name = name
        self._credentials = f"Bearer {api_key}".encode()
        self._faults = faults
        self._ledger = ledger
        self._acceptor = acceptor
        self._receipts = receipts

    def application(self) -> web.Application:
        """The routes, behind the faults and the key."""
        application = web.Application(middlewares=[self._delay, answer_problems, self._misbehave, self._authenticate])
        application.router.add_get(_HEALTH, self._healthz)
        application.router.add_post("/v1/send", self._send)
        application.router.add_post("/v1/send/bulk", self._bulk)
        application.router.add_get("/v1/hlr/{number}", self._hlr)
        return application

    @web.middleware
    async def _delay(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.path != _HEALTH:
            await asyncio.sleep(self._faults.delay_s())
        return response

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The faults that leave the request untouched."""
        if request.path == _HEALTH:
            return await handler(request)
        if self._faults.hit(Fault.DOWN):
            # The port is shut, but a connection taken up just before can still bring a request.
            return _cut(request)
        if self._faults.hit(Fault.HANG):
            await asyncio.Event().wait()
        if self._faults.hit(Fault.THROTTLE):
            raise Problem(429, "rate_limited", "Wait as `Retry-After` says.", headers={"Retry-After": "1"})
        if self._faults.hit(Fault.ERROR):
            raise Problem(500, "internal_error", "Try again later.")
        return await handler(request)

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if request.path != _HEALTH and not hmac.compare_digest(given, self._credentials):
            raise Problem(
                401, "unauthorized", "Send `Authorization: Bearer <api key>`.", headers={"WWW-Authenticate": "Bearer"}
            )
        return await handler(request)

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _send(self, request: web.Request) -> web.Response:
        return await self._submit(request, SendBody, self._acceptor.single)

    async def _bulk(self, request: web.Request) -> web.Response:
        return await self._submit(request, BulkBody, self._acceptor.bulk)

    async def _submit(
        self, request: web.Request, model: type[Model], accept: Callable[[Model, str | None, bool], Accepted]
    ) -> web.Response:
        raw, decoded = await read_json(request)
        body = parse(model, raw)
        key, fingerprint = _idempotency_key(request), _fingerprint(decoded)
        kept = self._ledger.answer(request.path, key) if key else None
        if kept:
            if kept.fingerprint != fingerprint:
                raise Problem(422, "idempotency_key_reused", "Give another body a key of its own.")
            if self._faults.hit(Fault.DROP_AFTER_ACCEPT):
                return _cut(request)
            self._receipts.begin(self._ledger.waiting(kept))
            return self._answer(kept.text, replayed=True)

        early = self._faults.hit(Fault.EARLY_RECEIPT)
        accepted = accept(body, key, early)
        text = orjson.dumps(accepted.answer, option=orjson.OPT_UTC_Z).decode()
        self._ledger.accept(accepted.sends, Answer(request.path, key, fingerprint, text) if key else None)
        if self._faults.hit(Fault.DROP_AFTER_ACCEPT):
            return _cut(request)
        receipts = self._receipts.begin(accepted.sends)
        if early and receipts:
            await asyncio.wait(receipts, timeout=_EARLY_RECEIPT_WITHIN_S)
        return self._answer(text)

    def _answer(self, text: str, *, replayed: bool = False) -> web.Response:
        """The 200, or what the fault makes of it."""
        if self._faults.hit(Fault.GARBAGE):
            text = text[: len(text) // 2]
        headers = {"Idempotency-Replayed": "true"} if replayed else None
        return web.Response(text=text, content_type="application/json", headers=headers)

    async def _hlr(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        code = msisdn.check_syntax(number)
        if code:
            raise Problem(422, code, NOT_E164, errors=(FieldError("number", code, NOT_E164),))
        if self._faults.hit(Fault.HLR_DOWN):
            raise Problem(503, "hlr_unavailable", "Try again later.", headers={"Retry-After": "1"})
        return _json(look_up(number, self._name))


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and _KEY.fullmatch(key) is None:
        raise Problem(422, "invalid_idempotency_key", "Use 1 to 255 visible ASCII characters.")
    return key


def _fingerprint(decoded: object) -> str:
    """The same for the same JSON, whatever its spacing and key order."""
    return hashlib.sha256(orjson.dumps(decoded, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _cut(request: web.Request) -> web.Response:
    """Reset the connection. The response returned goes nowhere."""
    if request.transport:
        request.transport.abort()
    return web.Response()


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body, option=orjson.OPT_UTC_Z), content_type="application/json")
