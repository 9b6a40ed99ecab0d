"""`simulator`: one simulated provider on its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.process import run
from service.cli.secret_files import checked_api_key, checked_webhook_secret, kept
from service.domain.keyring import new_api_key, new_webhook_secret
from service.environment import reachable
from service.errors import ConfigurationError
from service.simulator.settings import CONTROL_OFFSET, SimulatorSettings

if TYPE_CHECKING:
    from service.simulator.server import Simulator

_KEY, _SECRET = "SMS_SIMULATOR_API_KEY", "SMS_SIMULATOR_WEBHOOK_SECRET"


def simulator(
    *,
    name: Annotated[str, typer.Option(help="Names its files.", envvar="SMS_SIMULATOR_NAME")] = "simulator",
    host: Annotated[str, typer.Option(envvar="SMS_SIMULATOR_HOST")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help=f"Its control is on the port + {CONTROL_OFFSET}.", envvar="SMS_SIMULATOR_PORT")
    ] = 8081,
    data_dir: Annotated[Path, typer.Option(envvar="SMS_SIMULATOR_DATA_DIR")] = Path("data/simulator"),
    api_key: Annotated[str | None, typer.Option(help="Made and kept if not given.", envvar=_KEY)] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(help="Signs the receipts. Made and kept if not given.", envvar=_SECRET)
    ] = None,
    callback_url: Annotated[
        str | None,
        typer.Option(help="For receipts of sends that name none.", envvar="SMS_SIMULATOR_CALLBACK_URL"),
    ] = None,
    receipt_delay: Annotated[float, typer.Option(help="Seconds.", min=0)] = 0.2,
    slow_receipt_delay: Annotated[float, typer.Option(help="Seconds.", min=0)] = 30.0,
) -> None:
    """Run a simulated provider, with the smsroute API on one port and its control on another."""
    if api_key is None:
        api_key = kept(data_dir / f"{name}-api-key", new_api_key)
    if webhook_secret is None:
        webhook_secret = kept(data_dir / f"{name}-webhook-secret", new_webhook_secret)
    settings = SimulatorSettings(
        name=name,
        host=host,
        port=port,
        api_key=checked_api_key(_KEY, api_key),
        webhook_secret=checked_webhook_secret(_SECRET, webhook_secret),
        data_dir=data_dir,
        receipt_delay_s=receipt_delay,
        slow_receipt_delay_s=slow_receipt_delay,
        account_callback_url=callback_url,
    )
    run(_alone(settings))


@asynccontextmanager
async def _alone(settings: SimulatorSettings) -> AsyncIterator[None]:
    async with simulating(settings) as simulated:
        host = reachable(settings.host)
        typer.echo(f"API             http://{host}:{simulated.port}")
        typer.echo(f"control         http://{host}:{simulated.control_port}")
        typer.echo(f"API key         {settings.api_key}")
        typer.echo(f"webhook secret  {settings.webhook_secret}")
        yield


@asynccontextmanager
async def simulating(settings: SimulatorSettings) -> AsyncIterator[Simulator]:
    """The simulator, up while the body runs.

    Raises:
        ConfigurationError: one of its ports is in use.
    """
    from service.simulator.server import Simulator  # noqa: PLC0415 - its HTTP server costs all other processes 11 MB

    simulated = Simulator(settings)
    try:
        await simulated.start()
    except (OSError, OverflowError) as error:
        ports = f"{settings.port} and {settings.port + CONTROL_OFFSET}"
        raise ConfigurationError(
            f"The simulator {settings.name!r} needs the ports {ports} of {settings.host}: {error}"
        ) from error
    try:
        yield simulated
    finally:
        await simulated.stop()
