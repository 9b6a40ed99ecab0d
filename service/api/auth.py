"""Who calls, and what the key allows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from service.api.tokens import Tokens, refused
from service.domain.keyring import key_hash
from service.errors import Problem, StoreError, StoreOverloaded
from service.storage.clients import Principal

log = logging.getLogger(__name__)

READ_EVERY_S = 1.0
MAX_AGE_S = 2.0
MIN_INTERVAL_S = 0.1
PATIENCE_S = 1.0
NOTE_EVERY_S = 60.0
_JWT = "ey"  # how every JWT begins: an API key of ours never does
_JWT_DOTS = 2


class Callers(Protocol):
    """Where the living keys and the clients are known: `service.storage.callers`."""

    def follow(self) -> Awaitable[None]:
        """Read what has changed."""
        ...

    def fill(self) -> Awaitable[None]:
        """The same, and wait until everything has been read once."""
        ...

    def of_key(self, hashed: bytes) -> Awaitable[Principal | None]:
        """Who calls with the key of that hash."""
        ...

    def client(self, name: str) -> Awaitable[Principal | None]:
        """The client of that name, without scopes."""
        ...

    def note_use(self, key_hashes: Sequence[bytes]) -> Awaitable[None]:
        """Note that these keys are in use."""
        ...


class Directory:
    """Who calls: found in memory, which is kept up while there are callers.

    Changes are read once a second, beside; a caller waits for them where the last reading began more than 2 s ago, so a
    revoked key ends within that time. While the database does not answer, the known keys go on working. A key that is
    not in memory is looked up. With `tokens` those are taken too.
    """

    def __init__(
        self, callers: Callers, tokens: Tokens | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._callers = callers
        self._tokens = tokens
        self._clock = clock
        self._as_of_s = float("-inf")
        """When the last reading began: memory holds every change that was committed before."""
        self._reading: asyncio.Task[None] | None = None
        self._began_s = float("-inf")
        self._used: set[bytes] = set()
        """Of known keys only, so there are no more than those."""
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
        """Go on with what another over the same database knows of keys, clients and issuers of tokens."""
        self._callers, self._as_of_s = old._callers, old._as_of_s
        if self._tokens is not None and old._tokens is not None:
            self._tokens.take_over(old._tokens)

    async def fill(self) -> None:
        """Read the keys before the first caller comes.

        Raises:
            StoreError: they could not be read.
        """
        now_s = self._clock()
        await self._callers.fill()
        self._as_of_s = now_s

    async def _of_token(self, tokens: Tokens, token: str, hashed: bytes) -> Principal:
        bearer = await tokens.bearer(token, hashed)
        await self._keep_up()
        client = await self._callers.client(bearer.client)
        if client is None:
            raise Problem(403, "client_unknown", "The client of this token does not exist: an operator must create it.")
        return replace(client, scopes=bearer.scopes, actor=bearer.actor)

    async def _of_key(self, hashed: bytes) -> Principal:
        await self._keep_up()
        principal = await self._callers.of_key(hashed)
        # What cannot be kept up may hold keys that have ended since.
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
                await self._callers.note_use(list(used))
            except StoreError as error:
                log.warning("it was not noted which keys are used", extra={"error": str(error)})
            await asyncio.sleep(NOTE_EVERY_S)

    async def _keep_up(self) -> None:
        """Renew what is known; where that fails, or takes longer than 1 s, go on with the old, if there is any."""
        now_s = self._clock()
        if self._as_of_s < now_s - READ_EVERY_S:
            self._read_soon()
        if self._as_of_s >= now_s - MAX_AGE_S:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._as_of_s < now_s - MAX_AGE_S:
                    await asyncio.shield(self._read_soon())
        except (StoreError, TimeoutError) as error:
            if self._as_of_s == float("-inf"):
                raise StoreOverloaded("the API keys could not be read") from error

    def _read_soon(self) -> asyncio.Task[None]:
        """The reading that is under way, or a new one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._reading

    async def _read(self) -> None:
        await asyncio.sleep(self._began_s + MIN_INTERVAL_S - self._clock())
        self._began_s = began_s = self._clock()
        await self._callers.follow()
        self._as_of_s = began_s
