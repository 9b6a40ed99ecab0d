"""Tokens of OIDC issuers (RFC 7519, signed) beside API keys, as Kubernetes gives its service accounts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import jwt
import orjson
from jwt.types import Options

from service.errors import Problem
from service.http import Transport
from service.settings import Issuer, secure_url

log = logging.getLogger(__name__)

# Only asymmetric ones: with HS256 among them, a public key would be a secret that everybody knows.
_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
_OPTIONS: Final[Options] = {"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True}
_LEEWAY_S: Final = 10.0
"""How far the clocks of issuer and gateway may be apart."""
_KEYS_AGE_S: Final = 300.0
"""How old the keys may be before they are fetched again."""
_FETCH_EVERY_S: Final = 10.0
"""How often they are fetched at most, whatever key ids tokens name."""
_FETCH_TIMEOUT_S: Final = 3.0
_VERIFIED_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a token speaks for, and until when (seconds since 1970)."""

    client: str
    scopes: frozenset[str]
    actor: str
    expires_s: float


class Tokens:
    """Every issuer of `gateway.yaml`, each with its transport."""

    def __init__(self, issuers: Mapping[str, IssuerKeys]) -> None:
        self._issuers = issuers
        self._verified: dict[bytes, tuple[Bearer, IssuerKeys, int]] = {}

    async def bearer(self, token: str, hashed: bytes) -> Bearer:
        """Whom the token speaks for. `hashed` names it: verified once, it is remembered until it expires.

        Raises:
            Problem: 401 not valid here, 403 its subject may not call, 503 the issuer's keys cannot be had.
        """
        known = self._verified.get(hashed)
        if known is not None:
            bearer, issuer, generation = known
            issuer.keep_fresh()
            if generation == issuer.generation and time.time() < bearer.expires_s + _LEEWAY_S:
                return bearer
            del self._verified[hashed]
        issuer = self._issuer(token)
        bearer = await issuer.verify(token)
        if len(self._verified) >= _VERIFIED_AT_ONCE:
            self._verified.clear()
        self._verified[hashed] = (bearer, issuer, issuer.generation)
        return bearer

    def take_over(self, old: Tokens) -> None:
        """Go on with the keys of the issuers whose keys come from the same place: one may be away just now."""
        for name, keys in self._issuers.items():
            if name in old._issuers:
                keys.take_over(old._issuers[name])

    def _issuer(self, token: str) -> IssuerKeys:
        try:
            claimed = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError as error:
            raise refused("This token cannot be read. Send a signed JWT, or an API key.") from error
        issuer = self._issuers.get(str(claimed.get("iss")))
        if issuer is None:
            raise refused("The issuer of this token is none that gateway.yaml names under `auth`.")
        return issuer


class IssuerKeys:
    """Verifies the tokens of one issuer with its published keys.

    The keys are fetched at first use, again when they are 5 minutes old, and when a token names one that is not among
    them, every 10 s at most. While the issuer is away those that are known go on. `generation` counts their changes.
    """

    def __init__(self, settings: Issuer, http: Transport, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._http = http
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._published: Any = None
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_s = float("-inf")
        self._failed = False
        self.generation = 0

    def take_over(self, old: IssuerKeys) -> None:
        """Go on with the keys of another, if they come from the same place."""
        ours, theirs = (each.model_dump(exclude={"audience", "subjects"}) for each in (self._settings, old._settings))
        if ours == theirs:
            self._keys, self._published, self._fetched_s = old._keys, old._published, old._fetched_s

    async def verify(self, token: str) -> Bearer:
        """Whom the token speaks for.

        Raises:
            Problem: 401, 403 or 503.
        """
        key = await self._key(jwt.get_unverified_header(token).get("kid"))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=_ALGORITHMS,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options=_OPTIONS,
            )
        except jwt.ExpiredSignatureError as error:
            raise refused("This token has expired. Get a new one.") from error
        except jwt.InvalidAudienceError as error:
            raise refused("This token is for another audience. Get one for the gateway's.") from error
        except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
            raise refused("This token is not valid here. Get a new one from the issuer.") from error
        subject = self._settings.subjects.get(claims["sub"])
        if subject is None:
            raise Problem(
                403, "subject_unknown", "The subject of this token is none that gateway.yaml names under `auth`."
            )
        actor = f"token:{self._settings.issuer} {claims['sub']}"
        return Bearer(subject.client, frozenset(subject.scopes), actor, float(claims["exp"]))

    def keep_fresh(self) -> None:
        """Fetch keys that are old, without waiting for them."""
        if self._clock() >= self._fetched_s + _KEYS_AGE_S:
            self._fetch_once()

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        self.keep_fresh()
        if kid not in self._keys:
            if self._clock() >= self._fetched_s + _FETCH_EVERY_S:
                self._fetch_once()
            if self._fetching is not None:
                await asyncio.shield(self._fetching)
        if kid in self._keys:
            return self._keys[kid]
        if self._failed:
            detail = "The keys of this token's issuer cannot be had at the moment. Repeat the request later."
            raise Problem(503, "issuer_unavailable", detail, headers={"Retry-After": "10"})
        raise refused("The issuer does not publish the key of this token. Get a new one from it.")

    def _fetch_once(self) -> None:
        if self._fetching is None or self._fetching.done():
            self._fetched_s = self._clock()
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            published = await self._published_keys()
            usable = {
                key.key_id: key
                for key in jwt.PyJWKSet.from_dict(published).keys
                if key.algorithm_name in _ALGORITHMS and key.public_key_use in {None, "sig"}
            }
        except Exception as error:  # noqa: BLE001 - whatever an issuer does, the keys that are known go on
            self._failed = True
            said = {"issuer": self._settings.issuer, "error": f"{type(error).__name__}: {error}"[:200]}
            log.warning("the keys of an issuer of tokens could not be fetched", extra=said)
            return
        self._failed = False
        if published != self._published:
            self._published, self._keys = published, usable
            self.generation += 1

    async def _published_keys(self) -> Any:
        settings = self._settings
        if settings.jwks_url is not None:
            return await self._get(str(settings.jwks_url))
        about = await self._get(f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if about["issuer"] != settings.issuer:
            raise ValueError("its discovery document is of another issuer")
        return await self._get(secure_url(str(about["jwks_uri"])))

    async def _get(self, url: str) -> Any:
        headers = {"Accept": "application/json"}
        if self._settings.token_file is not None:  # read anew: Kubernetes replaces it every hour
            headers["Authorization"] = f"Bearer {self._settings.token_file.read_text().strip()}"
        response = await self._http.send(httpx.Request("GET", url, headers=headers), timeout_s=_FETCH_TIMEOUT_S)
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"status {response.status_code}")
        return orjson.loads(response.content)


def refused(detail: str) -> Problem:
    """A 401 (RFC 6750)."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
