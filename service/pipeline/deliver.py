"""Deliver: claim -> screen -> route -> submit. Read this first.

Each lane (otp, transactional, marketing) claims and works on its own, so that a campaign never stands before an OTP.
A message is worked on by one task from claim to settlement. Everything that a task stores goes through group commits,
so a hundred tasks make a handful of statements.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import replace
from uuid import UUID

from service.domain.ids import show
from service.domain.message import Traffic
from service.domain.outcome import OPTED_OUT
from service.domain.routing import HlrPolicy, OnUnknown, Route, pick
from service.errors import LeaseLost, StoreError
from service.pipeline.lane import Lane
from service.pipeline.lease import Lease
from service.pipeline.screen import Screen
from service.pipeline.submit import Submit, Work, doubtful
from service.runtime import Runtime
from service.settings import GatewayConfig
from service.storage.queue import Claimed, Move, Settlement
from service.tracing import Span

log = logging.getLogger(__name__)

_HLR_RETRY_S = 1.0
_ERROR_RETRY_S = 30.0
_LEASE_RETRY_S = 1.0
_NOWHERE = Route(None, None, (), None, HlrPolicy.OFF, hlr_fails_open=True)


def routes_of(config: GatewayConfig) -> list[Route]:
    """The routes of `gateway.yaml`."""
    return [
        Route(
            traffic=route.traffic,
            countries=None if route.countries is None else frozenset(route.countries),
            providers=route.providers,
            on_unknown=None if route.on_unknown is None else OnUnknown(route.on_unknown),
            hlr=HlrPolicy(route.hlr),
            hlr_fails_open=route.hlr_fail == "open",
        )
        for route in config.routes
    ]


class Deliver:
    """The lanes of one worker: those that SMS_GATEWAY_WORK names."""

    def __init__(self, runtime: Runtime, lease: Lease, screen: Screen, submit: Submit) -> None:
        self._runtime = runtime
        self._screen = screen
        self._submit = submit
        self._routes = routes_of(runtime.config)
        self._receipt_wait_s = runtime.config.limits.receipt_wait_hours * 3600
        work = runtime.settings.environment.work
        self._lanes = [Lane(runtime, lease, lane, self.deliver, submit.room) for lane in Traffic if lane.value in work]

    async def run(self) -> None:
        """Work until cancelled; what is under way then goes on until `drain`."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(lane.run())

    async def drain(self, timeout_s: float) -> None:
        """Wait for messages that are under way. Recovery takes over what does not end in time."""
        if tasks := [task for lane in self._lanes for task in lane.under_way.values()]:
            await asyncio.wait(tasks, timeout=timeout_s)

    @property
    def claiming_since_s(self) -> float:
        """When the oldest claim that has not been answered yet began; infinite where there is none."""
        return min((lane.claiming_since_s for lane in self._lanes), default=math.inf)

    @property
    def under_way(self) -> list[UUID]:
        """The messages that are worked on."""
        return [message_id for lane in self._lanes for message_id in lane.under_way]

    async def deliver(self, message: Claimed, earlier: asyncio.Task[None] | None = None) -> None:
        """Take one message from its claim to its settlement.

        `earlier`: this worker still works on it, by a claim that a crash of PostgreSQL took back. Nobody works on a
        message twice at once, nor by what was known before: it goes back, to be claimed with what that work found out.
        """
        if earlier is not None:
            await asyncio.wait([earlier])
            await self._put_back(message, None, 0.0)
            return
        tracing = self._runtime.tracing
        with tracing.deliver(message.id, message.traffic.value, message.country, message.traceparent) as span:
            await self._deliver(message, span)

    async def _deliver(self, message: Claimed, span: Span) -> None:
        try:
            settlement = await self._decide(message, time.monotonic())
            status = await self._runtime.queue.settle(settlement)
        except LeaseLost as error:
            span.fail(error)
            log.info("a call was not allowed any more", extra={"message_id": show("msg", message.id)})
            await self._put_back(message, None, _LEASE_RETRY_S)  # changes nothing where it is another worker's by now
        except StoreError as error:
            # Recovery finds it: as a stray of this worker, or when the lease has run out.
            span.fail(error)
            log.warning("store error in delivery", extra={"message_id": show("msg", message.id), "error": str(error)})
        except Exception as error:
            span.fail(error)
            self._runtime.metrics.worker_errors.labels("deliver").inc()
            log.exception("delivery failed", extra={"message_id": show("msg", message.id)})
            await self._put_back(message, "internal_error", _ERROR_RETRY_S)
        else:
            span.note(status=status, reason=settlement.reason)
            if status in {"failed", "undelivered"}:
                self._runtime.metrics.ended.labels(status, settlement.reason or "").inc()
                self._runtime.hints.webhooks.set()
            if settlement.attempt_id is not None and settlement.reason == OPTED_OUT:
                await self._suppress(settlement.attempt_id, message)

    async def _suppress(self, attempt_id: UUID, message: Claimed) -> None:
        """A provider said that the recipient wants no more: no provider is asked again. Lost, it would say so again."""
        try:
            await self._runtime.suppressions.opt_out(attempt_id)
        except StoreError as error:
            log.warning("an opt-out was not stored", extra={"message_id": show("msg", message.id), "error": str(error)})

    async def _put_back(self, message: Claimed, reason: str | None, delay_s: float) -> None:
        """Not to be claimed again at once, or the same would be met again and again."""
        try:
            await self._runtime.queue.settle(
                Settlement(
                    message.id,
                    message.worker_id,
                    Move.PUT_BACK,
                    reason=reason,
                    delay_s=delay_s,
                    lane=message.traffic,
                )
            )
        except StoreError as error:
            log.warning("store error in delivery", extra={"message_id": show("msg", message.id), "error": str(error)})

    async def _decide(self, message: Claimed, claimed_s: float) -> Settlement:
        route = pick(self._routes, message.traffic, message.country) or _NOWHERE
        work = Work(message, route, claimed_s)
        if any(tried.open and tried.outcome == "accepted" for tried in message.tried):
            return work.settle(Move.SENT)  # a receipt was quicker than the answer to the call
        if message.remaining_s <= 0:
            return self._expire(work)
        if not route.providers:
            return work.settle(Move.FAIL, "no_route")
        if doubtful(message) is None and (stop := await self._screen(message, route)) is not None:
            if stop.retry:
                return work.settle(Move.PUT_BACK, stop.reason, delay_s=_HLR_RETRY_S)
            return replace(work.settle(Move.FAIL, stop.reason), error_code=stop.error_code)
        return await self._submit(work)

    def _expire(self, work: Work) -> Settlement:
        """Its validity is over: a stale OTP is never sent. What may be out already is waited for, but not for ever."""
        if doubtful(work.message) is None:
            return work.settle(Move.FAIL, "expired")
        given_up = work.message.remaining_s <= -self._receipt_wait_s
        return work.settle(Move.GIVE_UP if given_up else Move.HOLD, "submit_unknown")
