"""Every Prometheus metric. Labels are bounded: names of gateway.yaml, enums, route templates; no number, no id."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service import __version__
from service.domain.health import Condition
from service.domain.hlr import HlrStatus
from service.domain.message import Traffic
from service.domain.outcome import NAMES
from service.domain.receipt import ReceiptStatus

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LAGS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0)
_DELIVERIES = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 28_800.0, 86_400.0)

NO_SQLSTATE: Final = "none"
"""In place of a class of SQLSTATEs: PostgreSQL did not answer at all."""
_SQLSTATES = ("08", "22", "23", "25", "40", "53", "55", "57", "58", "XX", NO_SQLSTATE)
_TASKS = ("claim", "deliver", "health", "notify", "recover")


class Metrics:
    """The metrics of one process, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # `_created` doubles the series, and nobody reads it
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(name, help_, labels, namespace="sms_gateway", registry=registry)

        def gauge(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(name, help_, labels, namespace="sms_gateway", registry=registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, help_, labels, namespace="sms_gateway", registry=registry, buckets=buckets)

        self.requests = counter("http_requests_total", "HTTP requests answered.", "route", "method", "status")
        self.request_s = histogram("http_request_seconds", "Time to answer an HTTP request.", _FAST, "route")
        self.accepted = counter("messages_accepted_total", "Messages committed.", "traffic")
        self.replayed = counter("messages_replayed_total", "Requests answered from their idempotency key.")
        self.refused = counter("messages_refused_total", "Requests refused, by problem code.", "code")
        self.lane_depth = gauge("lane_due_messages", "Messages due in a lane (counted up to 10,000).", "traffic")
        self.lane_oldest_s = gauge("lane_oldest_due_seconds", "How long the oldest due message has waited.", "traffic")
        self.queue_wait_s = histogram("queue_wait_seconds", "From due to claimed.", _WAITS, "traffic")
        self.to_provider_s = histogram("accept_to_provider_seconds", "From due to the first call.", _WAITS, "traffic")
        self.in_flight = gauge("lane_in_flight_messages", "Messages that a lane works on.", "traffic")
        self.submits = counter("submits_total", "Calls to providers, by outcome.", "provider", "outcome")
        self.submit_s = histogram("submit_seconds", "Time of a call to a provider.", _SLOW, "provider")
        self.breaker = gauge("breaker_state", "0 closed, 1 half open, 2 open.", "provider")
        self.paused = gauge("provider_paused", "1: an operator has paused the provider.", "provider")
        self.provider_limit = gauge("provider_limit", "Calls that a provider gets at once; it adapts.", "provider")
        self.provider_in_flight = gauge("provider_in_flight", "Calls under way to a provider.", "provider")
        self.standings = counter("provider_standings_total", "Moves of a provider's standing.", "provider", "condition")
        self.failovers = counter("failovers_total", "Messages that went on to another provider.", "origin", "target")
        self.ended = counter("messages_ended_total", "Messages that ended.", "status", "reason")
        self.receipts = counter("receipts_total", "Receipts from providers.", "provider", "status", "result")
        self.callbacks_refused = counter("callbacks_refused_total", "Provider callbacks refused.", "provider", "reason")
        self.hlr = counter("hlr_lookups_total", "HLR results used, by where they came from.", "origin", "status")
        self.hlr_s = histogram("hlr_lookup_seconds", "Time of a live look-up.", _SLOW)
        self.hlr_cost = counter("hlr_cost_total", "What live look-ups cost, by the costs in gateway.yaml.")
        self.hlr_saved = counter("hlr_saved_total", "What messages stopped by the HLR would have cost.")
        self.webhooks = counter("webhook_deliveries_total", "Tries to deliver a webhook.", "result")
        self.webhooks_in_flight = gauge("webhooks_in_flight", "Webhooks that are being called.")
        self.receiver_limit = gauge("receiver_limit", "Webhooks that receivers get at once; it adapts.", "which")
        self.webhook_s = histogram("webhook_seconds", "Time of a try.", _SLOW)
        self.webhook_age_s = histogram("webhook_age_seconds", "From the event to its acknowledgement.", _WAITS)
        self.taken_over = counter("messages_taken_over_total", "Messages taken over from dead workers.")
        self.worker_errors = counter("worker_errors_total", "Rounds of a background task that failed.", "task")
        self.loop_lag_s = histogram("loop_lag_seconds", "How late the event loop was, asked every 25 ms.", _LAGS)
        self.database_errors = counter("database_errors_total", "Failed statements, by class of SQLSTATE.", "sqlstate")
        self.delivery_s = histogram("delivery_seconds", "From the call to `delivered`.", _DELIVERIES, "provider")
        self.build = gauge("build_info", "Always 1: which version runs, and as what.", "version", "role")

    def runs_as(self, role: str) -> None:
        """Say what this process is: `serve`, `worker` or `all`."""
        self.build.labels(__version__, role).set(1)

    def begin_at_zero(self, providers: Iterable[str]) -> None:
        """Make the series that alerts count, so that Prometheus knows them at 0 before their first event.

        A series that comes into being at 1 shows no rise: `increase()` would not see what begins it.
        """
        providers = list(providers)

        def begin(metric: Counter | Histogram, *values: Iterable[str]) -> None:
            for labels in product(*values):
                metric.labels(*labels)

        begin(self.submits, providers, NAMES.values())
        begin(self.standings, providers, Condition)
        begin(self.receipts, providers, ReceiptStatus, ("applied", "recorded"))
        begin(self.callbacks_refused, providers, ("forged", "unreadable"))
        begin(self.callbacks_refused, ("",), ("unknown_account",))
        begin(self.hlr, ("live", "cache"), HlrStatus)
        begin(self.webhooks, ("delivered", "retry", "dead"))
        begin(self.worker_errors, _TASKS)
        begin(self.database_errors, _SQLSTATES)
        begin(self.refused, ("overloaded", "commit_unknown"))
        begin(self.requests, ("/v1/send", "/v1/send/bulk"), ("POST",), ("200", "500", "503"))
        begin(self.ended, ("failed",), ("expired",))
        begin(self.to_provider_s, Traffic)
