"""Who calls, and what the key allows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from service.api.tokens import Tokens, refused
from service.domain.keyring import key_hash
from service.errors import Problem, StoreError, StoreOverloaded
from service.storage.clients import Principal

log = logging.getLogger(__name__)

MAX_AGE_S = 2.0
MIN_INTERVAL_S = 0.1
PATIENCE_S = 1.0
NOTE_EVERY_S = 60.0
_JWT = "ey"  # how every JWT begins: an API key of ours never does
_JWT_DOTS = 2


class Principals(Protocol):
    """Where the living keys are read from."""

    def principals(self) -> Awaitable[Mapping[bytes, Principal]]:
        """Every living key's hash with what it allows."""
        ...

    def note_use(self, key_hashes: Sequence[bytes]) -> Awaitable[None]:
        """Note that these keys are in use."""
        ...

    def clients_by_name(self) -> Awaitable[Mapping[str, Principal]]:
        """Every client with what it allows, without scopes."""
        ...


class Directory:
    """Every living key, in memory.

    It is read again on use when it is older than 2 s, so a revoked key ends within that time. While the database does
    not answer, the known keys go on working. A key that is not found is never refused by an old copy: the copy is
    renewed first, at most every 100 ms however many wrong keys come. With `tokens` those are taken too.
    """

    def __init__(
        self, clients: Principals, tokens: Tokens | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clients = clients
        self._tokens = tokens
        self._clock = clock
        self._principals: Mapping[bytes, Principal] = {}
        self._by_name: Mapping[str, Principal] = {}
        self._as_of_s = float("-inf")
        """When the copy's reading began: it holds every key that was made before."""
        self._reading: asyncio.Task[None] | None = None
        self._began_s = float("-inf")
        self._used: set[bytes] = set()
        self._noting: asyncio.Task[None] | None = None

    async def authorize(self, authorization: str | None, scope: str) -> Principal:
        """The caller behind an `Authorization` header, if the key has the scope.

        Raises:
            Problem: 401 without a living key, 403 without the scope.
            StoreOverloaded: the key is not known and the database does not answer.
        """
        scheme, _, api_key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not api_key:
            raise refused("Send your API key in the header `Authorization: Bearer <api key>`.")
        api_key = api_key.strip()
        hashed = key_hash(api_key)
        if self._tokens is not None and api_key.startswith(_JWT) and api_key.count(".") == _JWT_DOTS:
            principal = await self._of_token(self._tokens, api_key, hashed)
        else:
            principal = await self._of_key(hashed)
        if scope not in principal.scopes and ("admin" not in principal.scopes or scope == "operator"):
            raise Problem(403, "scope_missing", f"This API key lacks the scope `{scope}`. Use a key that has it.")
        return principal

    def take_over(self, old: Directory) -> None:
        """Go on with what another knows of the issuers of tokens."""
        if self._tokens is not None and old._tokens is not None:
            self._tokens.take_over(old._tokens)

    async def fill(self) -> None:
        """Read the keys before the first caller comes.

        Raises:
            StoreError: they could not be read.
        """
        await self._read_since(self._clock())

    async def _of_token(self, tokens: Tokens, token: str, hashed: bytes) -> Principal:
        bearer = await tokens.bearer(token, hashed)
        now_s = self._clock()
        if self._as_of_s < now_s - MAX_AGE_S:
            await self._renew(now_s - MAX_AGE_S)
        if bearer.client not in self._by_name:
            await self._read_since(now_s)
        client = self._by_name.get(bearer.client)
        if client is None:
            raise Problem(403, "client_unknown", "The client of this token does not exist: an operator must create it.")
        return replace(client, scopes=bearer.scopes, actor=bearer.actor)

    async def _of_key(self, hashed: bytes) -> Principal:
        principal = await self._find(hashed)
        # A copy that cannot be renewed may hold keys that have ended since.
        if principal is None or (principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)):
            raise refused("This API key does not exist, has expired or has been revoked. Use a living one.")
        self._used.add(hashed)
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._note_use())
        return principal

    async def _note_use(self) -> None:
        """Note which keys are used, once a minute at most, while any is."""
        while self._used:
            used, self._used = self._used, set()
            try:
                await self._clients.note_use(list(used))
            except StoreError as error:
                log.warning("it was not noted which keys are used", extra={"error": str(error)})
            await asyncio.sleep(NOTE_EVERY_S)

    async def _find(self, hashed: bytes) -> Principal | None:
        now_s = self._clock()
        if self._as_of_s < now_s - MAX_AGE_S:
            await self._renew(now_s - MAX_AGE_S)
        if hashed not in self._principals:
            await self._read_since(now_s)
        return self._principals.get(hashed)

    async def _renew(self, wanted_s: float) -> None:
        """Renew the copy; where that fails go on with the old one, if there is one."""
        try:
            await self._read_since(wanted_s)
        except StoreError:
            if self._as_of_s == float("-inf"):
                raise

    async def _read_since(self, wanted_s: float) -> None:
        """Wait for a copy whose reading began at `wanted_s` or later.

        Raises:
            StoreError: it could not be read, or not within 1 s.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._as_of_s < wanted_s:
                    if self._reading is None or self._reading.done():
                        self._reading = asyncio.create_task(self._read())
                        self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
                    await asyncio.shield(self._reading)
        except TimeoutError as error:
            raise StoreOverloaded("the API keys could not be read in time") from error

    async def _read(self) -> None:
        await asyncio.sleep(self._began_s + MIN_INTERVAL_S - self._clock())
        self._began_s = began_s = self._clock()
        if self._tokens is not None:
            self._by_name = await self._clients.clients_by_name()
        self._principals = await self._clients.principals()
        self._as_of_s = began_s
