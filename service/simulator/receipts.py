"""Delivery receipts: signed as Standard Webhooks, posted to the sender's URL, repeated until acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import aiohttp
import orjson
from standardwebhooks import Webhook

from service.domain.receipt import ReceiptStatus
from service.simulator.ledger import Ledger, Send
from service.simulator.number_table import behaviour_of

BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""The waits between the attempts at one receipt, after which it is given up."""

_ACKNOWLEDGED_WITHIN_S: Final = 15.0


class Receipts:
    """Sends what the ledger says is due. One task a message, so a slow target holds up no other."""

    def __init__(self, ledger: Ledger, webhook_secret: str, *, backoff_s: tuple[float, ...] = BACKOFF_S) -> None:
        self._ledger = ledger
        self._signer = Webhook(webhook_secret)
        self._backoff_s = backoff_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # The timeouts leave out the wait for a free connection: a burst of receipts is no failure of its target.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_ACKNOWLEDGED_WITHIN_S)
        self._http = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())

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
        await self._http.close()

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
        webhook_id = f"receipt_{message_id}"
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(webhook_id, now, body.decode()),
        }
        try:
            async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return 200 <= answer.status < 300  # noqa: PLR2004 - the class of success
        except (aiohttp.ClientError, TimeoutError):
            return False


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
