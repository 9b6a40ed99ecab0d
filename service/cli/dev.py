"""`dev`: everything that is needed to try the gateway, in one process, with nothing set."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import typer

from service.cli.keys import SCOPES
from service.cli.modes import configure_logs, gateway
from service.cli.process import listening, run
from service.cli.secret_files import checked_api_key, checked_webhook_secret, kept
from service.cli.simulator import simulating
from service.cli.store import bring_up_to_date, with_database, with_secret_key
from service.config_file import ConfigFile
from service.domain.keyring import key_hash, new_api_key, new_webhook_secret
from service.environment import Environment, reachable
from service.errors import ConfigurationError
from service.runtime import Runtime
from service.settings import Settings
from service.simulator.settings import CONTROL_OFFSET, SimulatorSettings
from service.storage.clients import KeyTerms

CLIENT: Final = "dev"
SIMULATORS: Final = ("primary", "fallback")
"""Their ports follow the gateway's, in this order."""

CONFIG: Final = Path(__file__).parent / "dev.yaml"


def dev() -> None:
    """Try the gateway: an embedded PostgreSQL, two simulated providers and the gateway, with nothing to set."""
    run(_trial(os.environ))


@asynccontextmanager
async def _trial(environ: Mapping[str, str]) -> AsyncIterator[None]:
    environment = _completed(Environment.read(environ))
    configure_logs(environment.log_level if "SMS_GATEWAY_LOG_LEVEL" in environ else "WARNING")
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listening(environment.host, environment.port))
        simulators = [_simulator(environment, name, number) for number, name in enumerate(SIMULATORS, 1)]
        variables = {**environ, **dict(_variables(simulators))}
        file = ConfigFile.load(environment.config if "SMS_GATEWAY_CONFIG" in environ else CONFIG, variables)
        environment = await stack.enter_async_context(with_database(environment))
        await bring_up_to_date(str(environment.database_url))
        for simulator in simulators:
            await stack.enter_async_context(simulating(simulator))
        settings = Settings(environment, file.config)
        runtime = await stack.enter_async_context(gateway(settings, listener, api=True, work=True))
        await _bootstrap(runtime)
        typer.echo(_welcome(environment, simulators))
        yield


def _completed(environment: Environment) -> Environment:
    """With the secrets that were not given: made once, kept in the data folder."""
    data_dir, api_key, secret = environment.data_dir, environment.bootstrap_key, environment.bootstrap_webhook_secret
    if api_key is None:
        api_key = kept(data_dir / "api-key", new_api_key)
    if secret is None:
        secret = kept(data_dir / "webhook-secret", new_webhook_secret)
    return replace(
        with_secret_key(environment),
        bootstrap_key=checked_api_key("SMS_GATEWAY_BOOTSTRAP_KEY", api_key),
        bootstrap_webhook_secret=checked_webhook_secret("SMS_GATEWAY_BOOTSTRAP_WEBHOOK_SECRET", secret),
        public_url=environment.public_url or _url(environment.host, environment.port),
    )


def _simulator(environment: Environment, name: str, number: int) -> SimulatorSettings:
    folder = environment.data_dir / "simulator"
    return SimulatorSettings(
        name=name,
        host="127.0.0.1",  # its control asks for no key
        port=environment.port + number,
        api_key=kept(folder / f"{name}-api-key", new_api_key),
        webhook_secret=kept(folder / f"{name}-webhook-secret", new_webhook_secret),
        data_dir=folder,
    )


def _variables(simulators: Iterable[SimulatorSettings]) -> Iterator[tuple[str, str]]:
    """What `dev.yaml` names."""
    for simulator in simulators:
        prefix = f"DEV_{simulator.name.upper()}_"
        yield f"{prefix}URL", _url(simulator.host, simulator.port)
        yield f"{prefix}KEY", simulator.api_key
        yield f"{prefix}WEBHOOK_SECRET", simulator.webhook_secret


async def _bootstrap(runtime: Runtime) -> None:
    """Make the first client and its key, or see that they are as the environment says.

    Raises:
        ConfigurationError: the key has been revoked.
    """
    environment = runtime.settings.environment
    secret, api_key = str(environment.bootstrap_webhook_secret), str(environment.bootstrap_key)
    client_id, sealed = await runtime.clients.ensure_client(CLIENT, runtime.keyring.seal(secret))
    if runtime.keyring.open(sealed) != secret:
        await runtime.clients.set_webhook_secret(client_id, runtime.keyring.seal(secret))
    await runtime.clients.add_key(client_id, api_key, KeyTerms(SCOPES))
    if not await runtime.clients.key_lives(key_hash(api_key)):
        raise ConfigurationError(
            "The API key of `dev` has been revoked: set SMS_GATEWAY_BOOTSTRAP_KEY to another. If that is not set, "
            f"remove {environment.data_dir / 'api-key'}, and a new key is made."
        )


def _welcome(environment: Environment, simulators: list[SimulatorSettings]) -> str:
    url = _url(environment.host, environment.port)
    providers = [(it.name, _url(it.host, it.port), _url(it.host, it.port + CONTROL_OFFSET)) for it in simulators]
    shown = "\n".join(f"  {name:15} {api}, control {control}" for name, api, control in providers)
    return f"""
The SMS gateway is up.

  docs            {url}/docs
  API key         {environment.bootstrap_key}
  webhook secret  {environment.bootstrap_webhook_secret}

Its providers are simulators:

{shown}

Send a message:

  curl -sS {url}/v1/send -H 'Authorization: Bearer {environment.bootstrap_key}' -H 'Content-Type: application/json' \\
    -d '{{"to": "+15555550100", "from": "MyApp", "message": "Your verification code is 481902."}}'

Take the primary down, and the next message goes through the fallback ("none" brings it back):

  curl -sS -X PUT {providers[0][2]}/faults -H 'Content-Type: application/json' -d '{{"fault": "down"}}'

Ctrl-C stops everything."""


def _url(host: str, port: int) -> str:
    return f"http://{reachable(host)}:{port}"
