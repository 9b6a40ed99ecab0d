"""Whether the process can work. However many ask at once, and nobody needs a key for it, the database is asked once."""

from __future__ import annotations

import asyncio

from service.errors import Problem, StoreError
from service.storage.database import Database

_WITHIN_S = 1.0


class Readiness:
    """Asks a database that must have `schema_version` or a later one."""

    def __init__(self, database: Database, schema_version: str) -> None:
        self._database = database
        self._schema_version = schema_version
        self._asking: asyncio.Task[Problem | None] | None = None

    async def check(self) -> None:
        """Wait for the answer that is under way, or ask.

        Raises:
            Problem: 503: it does not answer within a second, stores nothing, or its schema is too old.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        if (problem := await asyncio.shield(self._asking)) is not None:
            raise Problem(problem.status, problem.code, problem.detail, headers=problem.headers)

    async def _ask(self) -> Problem | None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                await self._database.check_writable()
                version = await self._database.schema_version()
        except (StoreError, TimeoutError):
            detail = "PostgreSQL does not answer within a second, or stores nothing (a standby)."
            return _not_ready("database_unavailable", detail)
        # Schema changes are additive, so that a replica serves on while a newer one has migrated already.
        if version is None or version < self._schema_version:
            return _not_ready("schema_outdated", "Run `sms-gateway migrate`.")
        return None


def _not_ready(code: str, detail: str) -> Problem:
    return Problem(503, code, detail, headers={"Retry-After": "1"})
