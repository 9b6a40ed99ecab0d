"""The gateway's HTTP API, for the commands that talk to a gateway which runs elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Self

import httpx
import typer

from service.errors import GatewayError

Url = Annotated[str, typer.Option(help="Where the gateway is.", envvar="SMS_URL")]
ApiKey = Annotated[str, typer.Option(help="An API key of it.", envvar=["SMS_API_KEY", "SMSROUTE_API_KEY"])]
DEFAULT_URL: Final = "http://127.0.0.1:8080"

_PATIENCE_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 5.0


class RequestRefused(GatewayError):
    """The gateway refused; `problem` is its answer (RFC 9457)."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        fields = [f"\n  {error.get('field')}: {error.get('detail')}" for error in problem.get("errors", [])]
        super().__init__(f"{status} {problem.get('code', '')}: {problem.get('detail', '')}{''.join(fields)}")
        self.status = status
        self.problem = problem


class GatewayUnreachable(GatewayError):
    """The gateway did not answer, or could not store anything, for as long as we tried."""


class Caller:
    """Calls one gateway. A request that failed on the way is repeated for half a minute.

    That is safe: reads change nothing, and everything else carries an idempotency key.
    """

    def __init__(self, url: str, api_key: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=30)
        self._url = url
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """The answer's JSON.

        Raises:
            RequestRefused: by the gateway.
            GatewayUnreachable: no usable answer came.
        """
        return self._json(self._answer("GET", path, None, {}))

    def post(self, path: str, body: dict[str, Any], idempotency_key: str) -> tuple[dict[str, Any], bool]:
        """The answer's JSON, and whether it is that of an earlier request with this key. Raises as `get` does."""
        response = self._answer("POST", path, body, {"Idempotency-Key": idempotency_key})
        return self._json(response), response.headers.get("Idempotency-Replayed") == "true"

    def _answer(self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]) -> httpx.Response:
        """The first answer that is worth having: not a broken connection, not "later"."""
        waited_s, pause_s = 0.0, 0.2
        while True:
            try:
                response = self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                trouble, told_s = f"{type(error).__name__}: {error}", 0.0
            except httpx.InvalidURL as error:
                raise GatewayUnreachable(f"{self._url} is not a URL: {error}") from error
            else:
                if response.status_code not in {429, 503}:
                    return response
                trouble, told_s = f"HTTP {response.status_code}", _retry_after_s(response)
            pause_s = max(pause_s, told_s)
            if waited_s + pause_s > _PATIENCE_S:
                raise GatewayUnreachable(f"The gateway at {self._url} does not answer ({trouble}): is it running?")
            self._sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = response.json()
        except ValueError as error:
            raise GatewayUnreachable(
                f"What answers at {self._url} is not a gateway (HTTP {response.status_code}, not JSON)."
            ) from error
        if not response.is_success:
            raise RequestRefused(response.status_code, answer)
        return answer


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
