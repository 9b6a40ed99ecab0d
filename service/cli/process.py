"""The life of a long-running process: signals, its port, its HTTP server."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import typer
import uvicorn
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from service import logs
from service.api.connection import Connection
from service.errors import ConfigurationError

_HURRY_S = 1.0
_ROUNDS_TO_READ = 10  # of the event loop; it needs four to take a connection, read its request and begin with it
_KEEP_ALIVE_S = 75  # longer than the idle timeout of common load balancers, so that they close first


def run(running: AbstractAsyncContextManager[object]) -> None:
    """Enter `running`, stay in it until SIGINT or SIGTERM, and leave it: that is when everything drains and stops.

    A signal also ends the entering. After a second one no part of the leaving gets more than a second.

    Raises:
        typer.Exit: with code 1, when a part of `running` cancelled it because it cannot go on.
    """
    signals = 0

    async def stay() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        loop = asyncio.get_running_loop()

        def stop() -> None:
            nonlocal signals
            signals += 1
            task.cancel()
            if signals > 1:
                loop.call_later(_HURRY_S, stop)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        async with running:
            await asyncio.Event().wait()

    try:
        try:
            with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                runner.run(stay())
        finally:
            logs.flush()  # before anything else is said
    except asyncio.CancelledError as error:
        if not signals:
            typer.echo(f"Stopped: {error}. The log says more.", err=True)
            raise typer.Exit(1) from error


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections at once, so that a port in use is known before anything else is started.

    Raises:
        ConfigurationError: the port is in use, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        yield listener


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(f"Port {port} of {host} is in use: stop what uses it, or set SMS_GATEWAY_PORT.")
    return ConfigurationError(
        f"Cannot listen on {host}, port {port} ({error}): set SMS_GATEWAY_HOST, SMS_GATEWAY_PORT."
    )


class _Server(uvicorn.Server):
    """Leaves the signals to `run`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def answering(app: ASGIApp, listener: socket.socket, drain_s: float) -> AsyncIterator[None]:
    """Serve `app` on `listener`. At the end no connection is taken any more, and requests get `drain_s` to finish."""
    server = _Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing here depends on the address of the caller
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(drain_s),
        )
    )
    # What was made at start lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        # What has reached this machine counts as begun, but uvicorn closes connections that it has not read from yet.
        for _ in range(_ROUNDS_TO_READ):
            await asyncio.sleep(0)
        server.should_exit = True
        await serving
