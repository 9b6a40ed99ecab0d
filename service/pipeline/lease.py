"""A worker's lease: what it has claimed is its own for as long as it keeps renewing."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from uuid import UUID

from service.domain.ids import new_id
from service.errors import StoreError
from service.runtime import Runtime

log = logging.getLogger(__name__)

_RENEWALS_PER_LEASE = 5


class Lease:
    """Renews the worker's lease; takes a new id when the old one ran out (what it held is anybody's then)."""

    def __init__(self, runtime: Runtime) -> None:
        self._queue = runtime.queue
        self._pulse = runtime.pulse
        self._lease_s = runtime.config.deliver.lease_s
        self.worker_id: UUID = new_id()

    async def begin(self) -> None:
        """Take a lease under a new id; the worker may claim from now on."""
        worker_id = new_id()
        await self._queue.enlist(worker_id, timedelta(seconds=self._lease_s))
        self.worker_id = worker_id

    async def keep(self) -> None:
        """Renew until cancelled."""
        rests_s = self._lease_s / _RENEWALS_PER_LEASE
        with self._pulse.of("lease", rests_s) as beat:
            while True:
                beat()
                await asyncio.sleep(rests_s)
                await self._renew()

    async def _renew(self) -> None:
        try:
            if not await self._queue.renew(self.worker_id, timedelta(seconds=self._lease_s)):
                log.warning("the lease ran out; going on under a new worker id")
                await self.begin()
        except StoreError as error:
            log.warning("the lease could not be renewed", extra={"error": str(error)})

    async def end(self) -> None:
        """Give the lease back, so that another worker need not wait for it to run out."""
        try:
            await self._queue.retire(self.worker_id)
        except StoreError as error:
            log.warning("the lease could not be given back", extra={"error": str(error)})
