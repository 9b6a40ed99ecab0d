"""Telling other processes that there is work (LISTEN and NOTIFY). Only a hint: who misses it polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import asyncpg

from service.storage.database import UNREACHABLE, Database

log = logging.getLogger(__name__)

_CHANNEL = "sms_gateway"
_CONNECT_WITHIN_S = 5.0
# A hint may be lost, so it does not wait for the disk: as a writing transaction it would.
_RING = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{_CHANNEL}', $1)"


class Bell:
    """Rung by whoever stored work, heard by those who do it.

    Listening needs a session of its own, so `listen_dsn` must not lead through a pooler in transaction mode.
    """

    def __init__(self, database: Database, listen_dsn: str, *, reconnect_s: float = 5.0) -> None:
        self._database = database
        self._listen_dsn = listen_dsn
        self._reconnect_s = reconnect_s

    async def ring(self, what: str) -> None:
        """Tell every listener that there is work of the kind `what`.

        Raises:
            StoreError: PostgreSQL did not answer.
        """
        await self._database.execute(_RING, what)

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with what is rung, until cancelled; connects again when the connection is lost."""
        while True:
            try:
                await self._listen_once(heard)
            except UNREACHABLE as error:
                log.warning("not listening for hints", extra={"error": type(error).__name__})
            await asyncio.sleep(self._reconnect_s)

    async def _listen_once(self, heard: Callable[[str], None]) -> None:
        connection = await asyncpg.connect(self._listen_dsn, timeout=_CONNECT_WITHIN_S)
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(_CHANNEL, lambda _c, _pid, _channel, what: heard(what))
            await lost.wait()
        finally:
            connection.terminate()
