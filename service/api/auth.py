"""Who calls, and what the key allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from service.domain.keyring import key_hash
from service.errors import Problem, StoreError, StoreOverloaded
from service.storage.clients import Principal

MAX_AGE_S = 2.0
MIN_INTERVAL_S = 0.1
PATIENCE_S = 1.0


class Principals(Protocol):
    """Where the living keys are read from."""

    def principals(self) -> Awaitable[Mapping[bytes, Principal]]:
        """Every living key's hash with what it allows."""
        ...


class Directory:
    """Every living key, in memory.

    It is read again on use when it is older than 2 s, so a revoked key ends within that time. While the database does
    not answer, the known keys go on working. A key that is not found is never refused by an old copy: the copy is
    renewed first, at most every 100 ms however many wrong keys come.
    """

    def __init__(self, clients: Principals, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clients = clients
        self._clock = clock
        self._principals: Mapping[bytes, Principal] = {}
        self._as_of_s = float("-inf")
        """When the copy's reading began: it holds every key that was made before."""
        self._reading: asyncio.Task[None] | None = None
        self._began_s = float("-inf")

    async def authorize(self, authorization: str | None, scope: str) -> Principal:
        """The caller behind an `Authorization` header, if the key has the scope.

        Raises:
            Problem: 401 without a living key, 403 without the scope.
            StoreOverloaded: the key is not known and the database does not answer.
        """
        scheme, _, api_key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not api_key:
            raise _unauthorized("Send your API key in the header `Authorization: Bearer <api key>`.")
        principal = await self._find(key_hash(api_key.strip()))
        if principal is None:
            raise _unauthorized("This API key does not exist or has been revoked. Use a living one.")
        if scope not in principal.scopes and "admin" not in principal.scopes:
            raise Problem(403, "scope_missing", f"This API key lacks the scope `{scope}`. Use a key that has it.")
        return principal

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
            if not self._principals:
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
        self._principals = await self._clients.principals()
        self._as_of_s = began_s


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
