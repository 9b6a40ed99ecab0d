"""The simulator as a whole: two ports, one ledger, its receipts."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from aiohttp import web

from service.simulator.accept import Acceptor
from service.simulator.api import Api
from service.simulator.control import Control
from service.simulator.faults import Fault, FaultPlan, Faults
from service.simulator.ledger import Ledger
from service.simulator.receipts import Receipts
from service.simulator.settings import CONTROL_OFFSET, SimulatorSettings


class Simulator:
    """Runs inside the caller's event loop, and touches no signal handlers."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.port = settings.port
        self.control_port = settings.port and settings.port + CONTROL_OFFSET
        self._applying = asyncio.Lock()
        self._open = AsyncExitStack()
        self.faults = Faults()

    @property
    def base_url(self) -> str:
        """Where the API is."""
        return f"http://{self.settings.host}:{self.port}"

    @property
    def control_url(self) -> str:
        """Where faults are set and the ledger is read."""
        return f"http://{self.settings.host}:{self.control_port}"

    async def start(self) -> None:
        """Read the ledger, take up its pending receipts, open both ports.

        Raises:
            ConfigurationError: the ledger's file is not one.
            OSError: a port is taken.
        """
        settings = self.settings
        async with AsyncExitStack() as opening:
            ledger = Ledger.open(settings.data_dir / f"{settings.name}.jsonl")
            opening.callback(ledger.close)
            receipts = Receipts(ledger, settings.webhook_secret)
            opening.push_async_callback(receipts.close)
            acceptor = Acceptor(
                self.faults, settings.account_callback_url, settings.receipt_delay_s, settings.slow_receipt_delay_s
            )
            api = Api(
                name=settings.name,
                api_key=settings.api_key,
                faults=self.faults,
                ledger=ledger,
                acceptor=acceptor,
                receipts=receipts,
            )
            control = Control(self.faults, ledger, self._apply)
            self._door = await opening.enter_async_context(Door(api.application(), settings.host, self.port))
            self.port = self._door.port
            other = await opening.enter_async_context(Door(control.application(), settings.host, self.control_port))
            self.control_port = other.port
            receipts.begin(ledger.pending.values())
            self._open = opening.pop_all()

    async def stop(self) -> None:
        """Close both ports at once. Requests under way are cut; receipts not sent go out after the next start."""
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _apply(self, plan: FaultPlan) -> None:
        async with self._applying:
            self.faults.plan = plan
            if plan.fault is Fault.DOWN:
                await self._door.shut()
            else:
                await self._door.open()


class Door:
    """One port with an application behind it, that can be shut and opened again."""

    def __init__(self, application: web.Application, host: str, port: int) -> None:
        # A request whose client has gone is cancelled, so that those that hang do not pile up.
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        self._host = host
        self._site: web.TCPSite | None = None
        self.port = port

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await self.open()
        except OSError:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shut()
        await self._runner.cleanup()

    async def open(self) -> None:
        """Listen, if not yet. Raises `OSError` when the port is taken."""
        if self._site is None:
            site = web.TCPSite(self._runner, self._host, self.port)
            await site.start()
            self.port = self._runner.addresses[0][1]
            self._site = site

    async def shut(self) -> None:
        """Refuse new connections from now on, and cut those that are open."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            self._cut_connections()

    def _cut_connections(self) -> None:
        server = self._runner.server
        for connection in server.connections if server else ():
            if connection.transport:
                connection.transport.abort()


async def serve(settings: SimulatorSettings) -> None:
    """Run one simulator until cancelled."""
    async with Simulator(settings):
        await asyncio.Event().wait()
