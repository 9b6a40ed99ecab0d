"""Reading a request: its bounded body, its JSON, its idempotency key."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import orjson
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.api.context import Api
from service.api.headers import header
from service.api.patience import Begun
from service.api.problems import answer, answer_store_error, field_errors, invalid
from service.api.slots import Share
from service.errors import FieldError, Problem, StoreError
from service.settings import Limits
from service.storage.clients import Principal
from service.storage.messages import Key

Model = TypeVar("Model", bound=BaseModel)

_JSON_TYPE: Final = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json\s*(?:;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)
_CSV_TYPE: Final = re.compile(r"text/csv\s*(?:;\s*(?:charset=\"?utf-8\"?|header=\w+)\s*)*", re.IGNORECASE)
# A connection that is dead in the middle must not hold its place for long. Callers write a small body in one piece.
_BODY_WITHIN_S: Final = 3.0
_BYTES_PER_S: Final = 100_000
"""What a body gets more time for, where it does come."""
_SPREAD: Final = 0.2
_LARGE_BODY_WITHIN_S: Final = 20.0
_SMALL_BODY_BYTES: Final = 64 * 1024
_LARGE_BYTES: Final = 64 * 1024
# 100,000 recipients and a text of commas. A million empty objects in 2 MB would hold the event loop for 100 ms.
_MOST_VALUES: Final = 150_000
_KEY: Final = re.compile(r"[!-~]{1,255}")


class RawRoute(APIRoute):
    """A route whose handler takes the bare request and the parts of its path: FastAPI documents it, no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self.endpoint(request, **request.path_params)
        except Problem as error:
            response = answer(request, error)
        except StoreError as error:
            response = answer_store_error(request, error)
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Body(Generic[Model]):
    """A JSON body, checked and as plain values."""

    fields: Model
    plain: Any


async def read_body(
    request: Request, max_bytes: int, awaited: Share | None = None, *, within_s: float = _BODY_WITHIN_S
) -> bytes:
    """The whole body. It has `within_s`, and a second more for each 100 kB that came, 20 s at most.

    `awaited` is the place that it takes as soon as it has to be waited for.

    Raises:
        Problem: 413 when it is larger, whether it says so beforehand or not; 400 when it does not come whole in time;
            429 or 503 where there is no place.
    """
    declared = header(request.scope, b"content-length") or ""
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    first = Begun(request.receive())
    if awaited is None or not first.waits:
        return await _rest_of_body(request, first, max_bytes, within_s)
    try:
        awaited.__enter__()
    except Problem:
        first.close()
        raise
    try:
        return await _rest_of_body(request, first, max_bytes, within_s)
    finally:
        awaited.__exit__()


async def _rest_of_body(request: Request, receiving: Begun[Message], max_bytes: int, within_s: float) -> bytes:
    # Up to a fifth more: those who sent half requests together are not all answered together.
    began_s = asyncio.get_running_loop().time() + within_s * _SPREAD * random.random()  # noqa: S311 - not a secret
    body = bytearray()
    while True:
        allowed_s = min(within_s + len(body) / _BYTES_PER_S, _LARGE_BODY_WITHIN_S)
        try:
            message = await receiving.by(began_s + allowed_s)
        except TimeoutError:
            raise _incomplete(f"The body did not come whole within {allowed_s:.3g} s. Send it at once.") from None
        if message["type"] == "http.disconnect":
            raise _incomplete("The connection ended within the body. Send it whole.")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)
        receiving = Begun(request.receive())


def _incomplete(detail: str) -> Problem:
    return Problem(400, "incomplete_body", detail)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "body_too_large", f"Send at most {max_bytes} bytes; split a bulk into smaller ones.")


async def read_csv(request: Request, max_bytes: int) -> str:
    """The body as text.

    Raises:
        Problem: 415 by its type, 413 by its size, 400 when it is not UTF-8.
    """
    if _CSV_TYPE.fullmatch(header(request.scope, b"content-type") or "") is None:
        raise Problem(415, "not_csv_type", "Send CSV with `Content-Type: text/csv`.")
    try:
        return (await read_body(request, max_bytes)).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(400, "not_csv", "Send CSV in UTF-8.") from None


async def read_json(request: Request, model: type[Model], max_bytes: int, awaited: Share | None = None) -> Body[Model]:
    """The body as `model`. Raises as `read_json_body` and `parse_json` do."""
    return await parse_json(await read_json_body(request, max_bytes, awaited), model)


async def read_json_body(request: Request, max_bytes: int, awaited: Share | None = None) -> bytes:
    """The body of a request that says it is JSON.

    Raises:
        Problem: 415 by its type, else as `read_body` does.
    """
    given = header(request.scope, b"content-type") or ""
    if given != "application/json" and _JSON_TYPE.fullmatch(given) is None:
        raise Problem(415, "not_json_type", "Send JSON with `Content-Type: application/json`.")
    return await read_body(request, max_bytes, awaited)


async def parse_json(raw: bytes, model: type[Model]) -> Body[Model]:
    """A body as `model`.

    Raises:
        Problem: 413 when it holds too many values, 400 when it is not JSON, 422 when it does not fit the model.
    """
    if len(raw) > _LARGE_BYTES:
        if raw.count(b",") > _MOST_VALUES:
            raise Problem(413, "body_too_large", "The body holds too many values. Split a bulk into smaller ones.")
        await asyncio.sleep(0)
    try:
        # orjson takes what JSON is and no more: no NaN, lone surrogate, BOM or bytes that are not UTF-8.
        plain = orjson.loads(raw)
        return Body(model.model_validate_json(raw), plain)
    except orjson.JSONDecodeError:
        raise _not_json() from None
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        if details[0]["type"] == "json_invalid":  # nested deeper than any body of ours
            raise _not_json() from None
        raise invalid(field_errors(details)) from None


async def read_fields(request: Request, api: Api, model: type[Model]) -> Model:
    """The body as `model`, within the limit of `gateway.yaml`. Raises as `read_json` does."""
    return (await read_json(request, model, small_body_bytes(api.runtime.config.limits))).fields


def small_body_bytes(limits: Limits) -> int:
    """What a body about one message may have: as many may be read at once as requests are let in.

    A segment has at most 153 characters (3GPP TS 23.040), and JSON may write each with six bytes.
    """
    return min(limits.max_body_bytes, _SMALL_BODY_BYTES + 1_024 * limits.max_segments)


def _not_json() -> Problem:
    return Problem(400, "not_json", "Send one JSON object in UTF-8, without a byte order mark.")


def read_key(request: Request, api: Api, principal: Principal, endpoint: str, plain: Any) -> Key | None:
    """The idempotency key with the hash of the body, which is the same whatever its spacing and key order.

    Raises:
        Problem: 422 when it is malformed, or missing and the client must send one.
    """
    given = header(request.scope, b"idempotency-key")
    if given is None:
        if principal.require_idempotency_key:
            raise _bad_key("idempotency_key_required", "Send the header `Idempotency-Key`: this client must.")
        return None
    if _KEY.fullmatch(given) is None:
        raise _bad_key("idempotency_key_invalid", "Use 1 to 255 visible ASCII characters in `Idempotency-Key`.")
    canonical = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)
    return Key(principal.client_id, endpoint, given, api.runtime.keyring.body_hmac(canonical))


def _bad_key(code: str, detail: str) -> Problem:
    return invalid([FieldError("Idempotency-Key", code, detail)])
