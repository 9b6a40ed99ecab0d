"""Notify: sign a receipt webhook (Standard Webhooks), deliver it, retry it.

At least once, in no promised order. Each target (a registered endpoint, or a client's origin) is on its own: a share of
the calls under way that it takes well, and a pause when it fails, so that a dead endpoint holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from uuid import UUID

import httpx
import orjson
from standardwebhooks.webhooks import Webhook

from service.domain.backoff import webhook_delay_s
from service.domain.ids import show
from service.domain.keyring import Keyring
from service.environment import WEBHOOKS
from service.errors import HttpError, StoreError
from service.pipeline.lease import Lease
from service.pipeline.receivers import Receivers
from service.runtime import Runtime
from service.storage.outbox import Delivery, DeliveryResult
from service.targets import parsed

log = logging.getLogger(__name__)

_GONE = 410
_NO_ENDPOINT = frozenset({"endpoint_deleted", "endpoint_disabled"})
_POLL_S = 0.5
_CLAIM_EVERY_S = 0.02
"""A claim costs as much for one as for many. But a target gets no more webhooks a claim than it has places."""
_TARGETS_A_CLAIM = 1_000
"""However many targets there are, a claim looks at no more, and at those in use; the next claim goes on behind them."""
_PAGE_EVERY_S = 0.1
"""How soon the next look follows where this one found nothing that was due."""
_MAX_PAUSE_S = 60.0
_MAX_RETRY_AFTER_S = 86_400
_USER_AGENT = "sms-gateway"


class Notify:
    """The webhook loop of one worker."""

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        self._runtime = runtime
        self._outbox = runtime.outbox
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._settings = runtime.config.webhooks
        self._lease = lease
        self._wake = runtime.hints.webhooks
        self._under_way: dict[UUID, asyncio.Task[None]] = {}
        self._calling: set[Delivery] = set()
        self._receivers = Receivers(together=self._settings.concurrency, each=self._settings.per_target)
        self._after = ""
        self.claiming_since_s = math.inf
        self._show()

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then goes on until `drain`."""
        with self._runtime.pulse.of(WEBHOOKS, rests_s=_POLL_S) as beat:
            while True:
                beat()
                await self._round()

    async def _round(self) -> None:
        self._wake.clear()
        began_s = time.monotonic()
        free = self._settings.concurrency - len(self._under_way)
        if free <= 0 or (claimed := await self._claim(free)) < free:
            rest_s = _POLL_S if free <= 0 or not self._after else 0.0 if claimed else _PAGE_EVERY_S
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._wake.wait()
        if (wait_s := began_s + _CLAIM_EVERY_S - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)

    async def drain(self, timeout_s: float) -> None:
        """Wait for webhooks that are under way."""
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=timeout_s)

    @property
    def under_way(self) -> list[UUID]:
        """The webhooks that are worked on."""
        return list(self._under_way)

    @property
    def places_taken(self) -> int:
        """How many webhooks are being called, by all targets together."""
        return self._receivers.calls

    def _show(self) -> None:
        """Let the metrics tell of this worker's receivers, and not of those of an earlier generation."""
        metrics, receivers = self._metrics, self._receivers
        metrics.webhooks_in_flight.set_function(lambda: receivers.calls)
        metrics.receiver_limit.labels("lowest").set_function(lambda: receivers.limits[0])
        metrics.receiver_limit.labels("highest").set_function(lambda: receivers.limits[1])

    async def _claim(self, free: int) -> int:
        self.claiming_since_s = time.monotonic()
        try:
            due, self._after = await self._outbox.due_targets(self._after, _TARGETS_A_CLAIM, self._receivers.full)
            rooms = self._receivers.rooms(due)
            deliveries = await self._outbox.claim(self._lease.worker_id, free, rooms) if rooms else []
        except StoreError as error:
            self._metrics.worker_errors.labels("notify").inc()
            log.warning("no webhook could be claimed", extra={"error": str(error)})
            self._after = ""
            return 0
        finally:
            self.claiming_since_s = math.inf
        self._receivers.claimed(rooms, Counter(delivery.target for delivery in deliveries))
        for delivery in deliveries:
            self._calling.add(delivery)
            self._receivers.begin(delivery.target, delivery.client_id)
            task = asyncio.create_task(self._deliver(delivery))
            self._under_way[delivery.id] = task
            task.add_done_callback(partial(self._done, delivery))
        return len(deliveries)

    def _done(self, delivery: Delivery, task: asyncio.Task[None]) -> None:
        if len(self._under_way) >= self._settings.concurrency:
            self._wake.set()
        if self._under_way.get(delivery.id) is task:
            del self._under_way[delivery.id]
        self._leave(delivery)

    def _leave(self, delivery: Delivery) -> None:
        """Free its place at the target, for which others may wait. The same webhook, claimed anew, has its own."""
        if delivery not in self._calling:
            return
        self._calling.remove(delivery)
        if self._receivers.end(delivery.target) or delivery.failures:
            self._wake.set()

    async def _deliver(self, delivery: Delivery) -> None:
        with self._tracing.resume(delivery.traceparent):
            await self._try(delivery)

    async def _try(self, delivery: Delivery) -> None:
        try:
            response = await self._post(delivery)
        except Exception:
            # Settled like any failed try: what cannot be sent ends as dead, instead of coming back at once for ever.
            self._metrics.worker_errors.labels("notify").inc()
            log.exception("a webhook could not be sent", extra={"webhook_id": show("whd", delivery.id)})
            response = "internal_error"
        try:
            await self._settle(delivery, response)
        except StoreError as error:
            # Recovery brings it back: the endpoint may see it twice, with the same webhook-id.
            log.warning("a webhook's result was not stored", extra={"error": str(error)})

    async def _post(self, delivery: Delivery) -> httpx.Response | str:
        """The endpoint's answer, or why there is none."""
        if delivery.url is None:
            return "endpoint_disabled" if delivery.disabled else "endpoint_deleted"
        request = signed_request(
            delivery.url,
            show("whd", delivery.id),
            body(delivery),
            (delivery.secret, delivery.previous_secret),
            self._runtime.keyring,
        )
        if request is None:
            return "secret_unreadable"
        began_s = time.monotonic()
        try:
            with self._tracing.notify(request, delivery.id, delivery.attempts) as span:
                response = await self._runtime.webhook_http.send(request, timeout_s=self._settings.timeout_s)
                span.answered(response.status_code)
        except HttpError as error:
            self._receivers.answered(delivery.target, None, bad=True)
            return f"{type(error).__name__}: {error}"[:200]
        took_s, status = time.monotonic() - began_s, response.status_code
        self._metrics.webhook_s.observe(took_s)
        taken = took_s if httpx.codes.is_success(status) else None
        self._receivers.answered(delivery.target, taken, bad=_target_fails(status))
        return response

    async def _settle(self, delivery: Delivery, response: httpx.Response | str) -> None:
        status = response.status_code if isinstance(response, httpx.Response) else None
        if status is not None and httpx.codes.is_success(status):
            if not delivery.failures:
                self._leave(delivery)  # it calls no more, only its result waits for company
            await self._result(delivery, "delivered", None, status, None)
            self._metrics.webhook_age_s.observe(delivery.age_s)
            if delivery.failures:
                await self._outbox.unblock(delivery.target)
            return
        error = response if isinstance(response, str) else f"http_{status}"
        if error in _NO_ENDPOINT:
            await self._result(delivery, "dead", None, None, error)
            return
        if status == _GONE:
            await self._result(delivery, "dead", None, status, "gone")
            if delivery.endpoint_id is not None:
                await self._outbox.disable_endpoint(delivery.endpoint_id, "answered 410 Gone")
            return
        retry_in_s = webhook_delay_s(delivery.attempts, random.random())  # noqa: S311 - jitter, not a secret
        asked_s = _retry_after_s(response)
        if retry_in_s is not None:
            retry_in_s = max(retry_in_s, asked_s)
        await self._result(delivery, "dead" if retry_in_s is None else "pending", retry_in_s, status, error)
        if _target_fails(status):
            failures = delivery.failures + 1
            pause_s = min(webhook_delay_s(failures, 0.5) or _MAX_PAUSE_S, _MAX_PAUSE_S)
            await self._outbox.block(delivery.target, failures, max(pause_s, asked_s))

    async def _result(
        self, delivery: Delivery, state: str, retry_in_s: float | None, status: int | None, error: str | None
    ) -> None:
        self._metrics.webhooks.labels("retry" if state == "pending" else state).inc()
        if error is not None:
            log.warning(
                "webhook not delivered",
                extra={"webhook_id": show("whd", delivery.id), "attempt": delivery.attempts, "error": error},
            )
        await self._outbox.settle(DeliveryResult(delivery.id, delivery.worker_id, state, retry_in_s, status, error))


def _target_fails(status: int | None) -> bool:
    """Whether the target as a whole is at fault, and not this one webhook."""
    return status is None or status == 429 or status >= 500  # noqa: PLR2004 - RFC 9110, RFC 6585


def _retry_after_s(response: httpx.Response | str) -> float:
    if isinstance(response, str):
        return 0.0
    value = response.headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", value):
        return min(int(value), _MAX_RETRY_AFTER_S)
    try:
        wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, or one without a time zone
        return 0.0
    return min(max(wait_s, 0.0), _MAX_RETRY_AFTER_S)


def body(delivery: Delivery) -> bytes:
    """The webhook's body (docs: receipt webhooks)."""
    at = delivery.event_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps(
        {
            "type": f"message.{delivery.status}",
            "message_id": show("msg", delivery.message_id),
            "status": delivery.status,
            "delivered_at": at if delivery.status == "delivered" else None,
            "error_code": delivery.error_code,
            "reason": delivery.reason,
            "to": delivery.recipient,
            "from": delivery.sender,
            "reference": delivery.reference,
            "batch_id": show("bat", delivery.batch_id) if delivery.batch_id else None,
            "segments": delivery.segments,
        }
    )


def signed_request(
    url: str, webhook_id: str, content: bytes, sealed: Iterable[bytes | None], keyring: Keyring
) -> httpx.Request | None:
    """The POST with its signatures: one for each sealed secret. None where no secret can be read."""
    now = datetime.now(UTC)
    secrets = [secret for secret in map(keyring.open, filter(None, sealed)) if secret is not None]
    if not secrets:
        return None
    signatures = [Webhook(secret).sign(webhook_id, now, content.decode()) for secret in secrets]
    return httpx.Request(
        "POST",
        parsed(url),
        content=content,
        headers={
            "content-type": "application/json",
            "user-agent": _USER_AGENT,
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        },
    )
