"""The gateway's HTTP API, for the commands that talk to a gateway which runs elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Self

import httpx
import typer
from rich.markup import escape

from service.cli.secret_files import checked_api_key
from service.errors import ConfigurationError, GatewayError

Url = Annotated[str, typer.Option(help="Where the gateway is.", envvar="SMS_URL")]
ApiKey = Annotated[str, typer.Option(help="An API key of it.", envvar=["SMS_API_KEY", "SMSROUTE_API_KEY"])]
DEFAULT_URL: Final = "http://127.0.0.1:8080"

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0
_PATIENCE_S: Final = 10.0
_PATIENCE_WHEN_TOLD_S: Final = 600.0
"""How long in all to wait as `Retry-After` says, when a limit is exceeded."""

_LATER: Final = {429: _PATIENCE_WHEN_TOLD_S, 503: _PATIENCE_S}


def cell(value: object) -> str:
    """A value as a table shows it. What others wrote (a reference, say) gives no orders to the terminal or to rich."""
    text = "" if value is None else str(value)
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


class RequestRefused(GatewayError):
    """The gateway refused; `problem` is its answer (RFC 9457)."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        details = [f"{error['field']}: {error['detail']}" for error in problem.get("errors", [])]
        super().__init__(
            "\n  ".join([f"{status} {problem.get('code', '')}", *(details or [problem.get("detail", "")])])
        )
        self.status = status
        self.problem = problem


class GatewayUnreachable(GatewayError):
    """The gateway did not answer, or could not store anything, for as long as we tried."""


class Caller:
    """Calls one gateway. What failed on the way is repeated for 10 s; where a limit is exceeded we wait as told.

    That is safe: reads change nothing, and a `post` carries an idempotency key. A `change` is asked for once.

    Raises:
        ConfigurationError: the URL or the key is none.
    """

    def __init__(self, url: str, api_key: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        headers = {"Authorization": f"Bearer {checked_api_key('SMS_API_KEY', api_key)}"}
        self._http = httpx.Client(base_url=_checked(url), headers=headers, timeout=30)
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

    def change(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON; nothing for an answer without content. Raises as `get` does."""
        response = self._answer(method, path, body, {}, repeat=False)
        return {} if response.status_code == httpx.codes.NO_CONTENT else self._json(response)

    def upload_csv(self, path: str, text: str) -> dict[str, Any]:
        """The answer's JSON. A file that comes twice changes nothing more. Raises as `get` does."""
        return self._json(self._answer("POST", path, text, {"Content-Type": "text/csv; charset=utf-8"}))

    def _answer(
        self, method: str, path: str, body: dict[str, Any] | str | None, headers: dict[str, str], *, repeat: bool = True
    ) -> httpx.Response:
        """The first answer that is not "later"; without `repeat` the first answer."""
        waited_s, pause_s = 0.0, _FIRST_PAUSE_S
        content: dict[str, Any] = {"content": body.encode()} if isinstance(body, str) else {"json": body}
        while True:
            try:
                response = self._http.request(method, path, headers=headers, **content)
            except httpx.TransportError as error:
                trouble, told_s, patience_s = f"{type(error).__name__}: {error}", 0.0, _PATIENCE_S
            else:
                if response.status_code not in _LATER or not repeat:
                    return response
                trouble, told_s = f"HTTP {response.status_code}", _retry_after_s(response)
                patience_s = _LATER[response.status_code]
            pause_s = max(pause_s, told_s)
            if not repeat or waited_s + pause_s > patience_s:
                raise GatewayUnreachable(f"The gateway at {self._url} does not answer ({trouble}). Is it running?")
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


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"SMS_URL is no URL: {error}.") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ConfigurationError(f"SMS_URL must look like {DEFAULT_URL}.")
    return parsed


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
