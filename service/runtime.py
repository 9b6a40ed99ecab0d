"""The composition root: opens everything in order, closes it in reverse, and hands it on as one frozen Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Final

from service import hlr, providers
from service.domain.keyring import Keyring
from service.domain.message import Traffic
from service.errors import ConfigurationError
from service.hlr.source import HlrAccount, HlrSource
from service.http import PROVIDER_REPLY, WEBHOOK_REPLY, Transport
from service.metrics import Metrics
from service.providers.adapter import Account, Adapter
from service.pulse import Pulse
from service.settings import GatewayConfig, Issuer, Provider, Settings
from service.storage.audit import AuditLog
from service.storage.bell import Bell
from service.storage.clients import ClientStore
from service.storage.database import READ_TIMEOUT_S, Database
from service.storage.endpoints import EndpointStore
from service.storage.health import HealthStore
from service.storage.listing import MessageListing
from service.storage.messages import ACCEPTS_AT_ONCE, MessageStore
from service.storage.numbers import NumberStore
from service.storage.outbox import Outbox
from service.storage.pacing import PacingStore
from service.storage.pauses import PauseStore
from service.storage.queue import MessageQueue
from service.storage.receipts import ReceiptStore
from service.storage.retention import Retention
from service.storage.suppressions import SuppressionStore
from service.storage.upkeep import Upkeep
from service.targets import TargetPolicy
from service.tracing import Tracing

_CALLS_AT_ONCE: Final = 1024
"""More than the calls to a provider, or its look-ups, that are ever under way: others bound those, not its pool."""
_TRIALS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """An account of `gateway.yaml` with the adapter that speaks for it."""

    name: str
    settings: Provider
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class Hints:
    """Wakes loops of the same process before their next poll. Only a hint: polling is the truth."""

    lanes: Mapping[Traffic, asyncio.Event] = field(default_factory=lambda: {lane: asyncio.Event() for lane in Traffic})
    webhooks: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Reads:
    """The stores again, for what callers read: over a pool of its own, so that no accept waits behind a list."""

    clients: ClientStore
    messages: MessageStore
    listing: MessageListing
    endpoints: EndpointStore
    numbers: NumberStore
    suppressions: SuppressionStore
    health: HealthStore
    pauses: PauseStore
    audit: AuditLog


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the service works with. Whoever needs a part takes it from here."""

    settings: Settings
    metrics: Metrics
    tracing: Tracing
    keyring: Keyring
    hints: Hints
    pulse: Pulse
    database: Database
    database_for_reads: Database
    clients: ClientStore
    messages: MessageStore
    reads: Reads
    queue: MessageQueue
    receipts: ReceiptStore
    outbox: Outbox
    endpoints: EndpointStore
    numbers: NumberStore
    suppressions: SuppressionStore
    pacing: PacingStore
    health: HealthStore
    pauses: PauseStore
    retention: Retention
    upkeep: Upkeep
    bell: Bell
    providers: Mapping[str, ProviderAccount]
    hlr_source: HlrSource | None
    provider_http: Mapping[str, Transport]
    lookup_http: Transport
    webhook_http: Transport
    trial_http: Transport
    issuer_http: Mapping[str, Transport]
    webhook_policy: TargetPolicy

    @property
    def config(self) -> GatewayConfig:
        """`gateway.yaml`."""
        return self.settings.config


@asynccontextmanager
async def open_runtime(settings: Settings, *, answers: bool = True) -> AsyncIterator[Runtime]:
    """Open the store and the transports; the caller has migrated the database.

    Where it does not answer callers (`answers` is False), no connection is kept for what they read.

    Raises:
        ConfigurationError: a setting or an extra is missing, an adapter is unknown, or the database is not durable.
        StoreOverloaded: the database cannot be reached.
    """
    environment = settings.environment
    if environment.database_url is None:
        raise ConfigurationError("Set SMS_GATEWAY_DATABASE_URL (or _FILE) to a PostgreSQL 16 or newer.")
    if environment.secret_key is None:
        raise ConfigurationError("Set SMS_GATEWAY_SECRET_KEY (or _FILE), e.g. to the output of `openssl rand -hex 32`.")
    metrics = Metrics()
    tracing = Tracing.to(environment.otlp_endpoint)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(tracing.aclose)
        apart = environment.connections_for_reads if answers else 0
        opening = partial(
            Database.open,
            environment.database_url,
            statement_cache=environment.statement_cache,
            on_error=lambda sqlstate: metrics.database_errors.labels(sqlstate).inc(),
        )
        database = await opening(connections=environment.connections - apart, for_accepts=ACCEPTS_AT_ONCE)
        stack.push_async_callback(database.close)
        for_reads = database
        if answers:
            for_reads = await opening(connections=apart, statements_end_s=READ_TIMEOUT_S)
            stack.push_async_callback(for_reads.close)
        keyring = Keyring(environment.secret_key, environment.other_secret_key)
        bell = Bell(database, environment.listen_url or environment.database_url)
        shared = _Shared(database, for_reads, metrics, tracing, keyring, Hints(), bell)
        yield _assemble(stack, settings, shared)


@asynccontextmanager
async def reopen_runtime(runtime: Runtime, config: GatewayConfig) -> AsyncIterator[Runtime]:
    """The runtime under another `gateway.yaml`, with transports of its own, over the same database and metrics.

    Raises:
        ConfigurationError: an adapter is unknown, or does not take an account.
    """
    shared = _Shared(
        runtime.database,
        runtime.database_for_reads,
        runtime.metrics,
        runtime.tracing,
        runtime.keyring,
        runtime.hints,
        runtime.bell,
    )
    async with AsyncExitStack() as stack:
        yield _assemble(stack, replace(runtime.settings, config=config), shared)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What is the same under every `gateway.yaml`."""

    database: Database
    for_reads: Database
    metrics: Metrics
    tracing: Tracing
    keyring: Keyring
    hints: Hints
    bell: Bell


def _assemble(stack: AsyncExitStack, settings: Settings, shared: _Shared) -> Runtime:
    """Everything over what is shared. `stack` closes what this opens."""
    config, database = settings.config, shared.database
    accounts, hlr_source = accounts_of(config), _hlr_source(config)  # first, because they may be refused
    shared.metrics.begin_at_zero(accounts)
    webhooks = config.webhooks
    policy = TargetPolicy(allow_loopback=webhooks.allow_loopback, denied_networks=webhooks.denied_networks)
    receipt_wait = timedelta(hours=config.limits.receipt_wait_hours)
    text_at_once = config.retention.text_at_once

    def opened(transport: Transport) -> Transport:
        stack.push_async_callback(transport.aclose)
        return transport

    return Runtime(
        settings=settings,
        metrics=shared.metrics,
        tracing=shared.tracing,
        keyring=shared.keyring,
        hints=shared.hints,
        pulse=Pulse(),
        database=database,
        database_for_reads=shared.for_reads,
        clients=ClientStore(database),
        messages=MessageStore(
            database, keep_keys=timedelta(hours=config.limits.idempotency_hours), text_at_once=text_at_once
        ),
        reads=_reads(shared.for_reads, config),
        queue=MessageQueue(database, receipt_wait=receipt_wait, text_at_once=text_at_once),
        receipts=ReceiptStore(database, receipt_wait=receipt_wait, text_at_once=text_at_once),
        retention=retention_of(database, config),
        outbox=Outbox(database),
        endpoints=EndpointStore(database),
        numbers=NumberStore(database),
        suppressions=SuppressionStore(database),
        pacing=PacingStore(database),
        health=HealthStore(database),
        pauses=PauseStore(database),
        upkeep=Upkeep(database),
        bell=shared.bell,
        providers=accounts,
        hlr_source=hlr_source,
        provider_http={
            name: opened(_provider_transport(max(_CALLS_AT_ONCE, one.settings.max_in_flight)))
            for name, one in accounts.items()
        },
        lookup_http=opened(_provider_transport(_CALLS_AT_ONCE)),
        webhook_http=opened(Transport(policy, max_connections=webhooks.concurrency, bounds=WEBHOOK_REPLY)),
        trial_http=opened(Transport(policy, max_connections=_TRIALS_AT_ONCE, bounds=WEBHOOK_REPLY)),
        issuer_http={issuer.issuer: opened(_issuer_transport(issuer)) for issuer in config.auth.issuers},
        webhook_policy=policy,
    )


def _provider_transport(calls_at_once: int) -> Transport:
    """A pool for one use alone: who is slow there takes no connection from anybody else."""
    return Transport(TargetPolicy.trusting(), max_connections=calls_at_once, bounds=PROVIDER_REPLY)


def _reads(database: Database, config: GatewayConfig) -> Reads:
    return Reads(
        clients=ClientStore(database),
        messages=MessageStore(database, keep_keys=timedelta(hours=config.limits.idempotency_hours)),
        listing=MessageListing(database),
        endpoints=EndpointStore(database),
        numbers=NumberStore(database),
        suppressions=SuppressionStore(database),
        health=HealthStore(database),
        pauses=PauseStore(database),
        audit=AuditLog(database),
    )


def _issuer_transport(issuer: Issuer) -> Transport:
    try:
        return Transport(TargetPolicy.trusting(), max_connections=2, ca_file=issuer.ca_file)
    except OSError as error:
        raise ConfigurationError(f"auth: the ca_file of {issuer.issuer} is no readable PEM file.") from error


def retention_of(database: Database, config: GatewayConfig) -> Retention:
    """What removes old texts and rows, as `config` says."""
    return Retention(
        database,
        texts={traffic: timedelta(hours=hours) for traffic, hours in config.retention.text_hours},
        rows=timedelta(days=config.retention.rows_days),
    )


def accounts_of(config: GatewayConfig) -> dict[str, ProviderAccount]:
    """Every account with its adapter, by its name.

    Raises:
        ConfigurationError: an adapter is unknown, or does not take an account.
    """
    return {name: _account(name, provider) for name, provider in config.providers.items()}


def check_adapters(config: GatewayConfig) -> Iterator[tuple[tuple[str, str], str]]:
    """Build every adapter and look-up source once. Yields the setting that one does not take, and why."""
    for name, provider in config.providers.items():
        try:
            _account(name, provider)
        except ConfigurationError as error:
            yield ("providers", name), str(error)
    try:
        _hlr_source(config)
    except ConfigurationError as error:
        yield ("hlr", "provider"), str(error)


def _account(name: str, provider: Provider) -> ProviderAccount:
    account = Account(
        name=name,
        base_url=str(provider.base_url).rstrip("/"),
        api_key=provider.api_key,
        webhook_secret=provider.webhook_secret,
    )
    return ProviderAccount(name, provider, providers.build(provider.adapter, account))


def _hlr_source(config: GatewayConfig) -> HlrSource | None:
    name = config.hlr.provider
    if name is None:
        return None
    provider = config.providers[name]
    account = HlrAccount(name=name, base_url=str(provider.base_url).rstrip("/"), api_key=provider.api_key)
    return hlr.build(provider.adapter, account)
