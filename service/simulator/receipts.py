"""Delivery receipts: signed as Standard Webhooks, posted to the sender's URL, repeated until acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import orjson
from standardwebhooks import Webhook

from service.connections import Connections
from service.domain.receipt import ReceiptStatus
from service.simulator.ledger import Ledger, Send
from service.simulator.number_table import behaviour_of
from service.targets import Origin
from service.wire import Broke

BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""The waits between the attempts at one receipt, after which it is given up."""

_ACKNOWLEDGED_WITHIN_S: Final = 15.0
_AT_ONCE: Final = 100


class Receipts:
    """Sends what the ledger says is due. One task a message, so a slow target holds up no other."""

    def __init__(self, ledger: Ledger, webhook_secret: str, *, backoff_s: tuple[float, ...] = BACKOFF_S) -> None:
        self._ledger = ledger
        self._signer = Webhook(webhook_secret)
        self._backoff_s = backoff_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # The wait for a place is no part of the time for a receipt: a burst of them is no failure of its target.
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._connections = Connections(_AT_ONCE)

    def begin(self, sends: Iterable[Send]) -> list[asyncio.Task[None]]:
        """Start the receipts of these sends, each at its time; those without one, or under way, are passed over."""
        started = {
            send.message_id: asyncio.create_task(self._deliver(send))
            for send in sends
            if send.receipt and send.message_id not in self._tasks
        }
        self._tasks |= started
        return list(started.values())

    async def close(self) -> None:
        """Stop. What is not acknowledged stays in the ledger, for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()

    async def _deliver(self, send: Send) -> None:
        plan = send.receipt
        assert plan is not None  # noqa: S101 - `begin` passes over the others
        try:
            await asyncio.sleep((plan.due_at - datetime.now(UTC)).total_seconds())
            body = _receipt(send)
            for _ in range(plan.copies):
                await self._post_until_acknowledged(plan.url, send.message_id, body)
            self._ledger.receipt_done(send.message_id)
        finally:
            del self._tasks[send.message_id]

    async def _post_until_acknowledged(self, url: str, message_id: str, body: bytes) -> None:
        for wait_s in self._backoff_s:
            if await self._post(url, message_id, body):
                return
            await asyncio.sleep(wait_s)
        if not await self._post(url, message_id, body):
            logging.getLogger(__name__).warning("receipt of %s given up: its target acknowledged none", message_id)

    async def _post(self, url: str, message_id: str, body: bytes) -> bool:
        webhook_id, now = f"receipt_{message_id}", datetime.now(UTC)
        signature = self._signer.sign(webhook_id, now, body.decode())
        try:
            at = urlsplit(url)
            tls = at.scheme == "https"
            origin = Origin(at.hostname or "", at.port or (443 if tls else 80), tls)
            query = f"?{at.query}" if at.query else ""
            head = (
                f"POST {at.path or '/'}{query} HTTP/1.1\r\nHost: {at.netloc.rpartition('@')[2]}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nwebhook-id: {webhook_id}\r\n"
                f"webhook-timestamp: {int(now.timestamp())}\r\nwebhook-signature: {signature}\r\n\r\n"
            )
            async with (
                self._places,
                asyncio.timeout(_ACKNOWLEDGED_WITHIN_S),
                self._connections.taken(origin) as wire,
            ):
                reply = await wire.exchange(head.encode() + body)
        except (Broke, OSError, RuntimeError, ValueError):  # ValueError: a port that is none
            return False
        return 200 <= reply.status < 300  # noqa: PLR2004 - the class of success


def _receipt(send: Send) -> bytes:
    behaviour = behaviour_of(send.to)
    now = datetime.now(UTC)
    receipt = {
        "type": f"message.{behaviour.receipt}",
        "message_id": send.message_id,
        "status": behaviour.receipt,
        "delivered_at": now if behaviour.receipt is ReceiptStatus.DELIVERED else None,
        "error_code": behaviour.error_code,
        "reason": behaviour.reason,
        "to": send.to,
        "from": send.sender,
        "reference": send.reference,
        "batch_id": send.batch_id,
        "segments": send.segments,
    }
    return orjson.dumps(receipt, option=orjson.OPT_UTC_Z)
