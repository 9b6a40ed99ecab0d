"""Receive: a provider's receipt closes its attempt and moves the message on."""

from __future__ import annotations

import asyncio
import logging
import time
from uuid import UUID

from service.domain.health import Place
from service.domain.receipt import NUMBER_IS_DEAD, Receipt, ReceiptStatus, reason_for
from service.errors import ForgedReceipt, Problem, UnreadableReceipt
from service.pipeline.health import Health
from service.pipeline.lookup import Lookup
from service.providers.adapter import Callback
from service.runtime import Runtime
from service.storage.receipts import Applied, News, OrphanWalk

log = logging.getLogger(__name__)


class Receive:
    """Verifies callbacks and applies the receipts in them."""

    def __init__(self, runtime: Runtime, lookup: Lookup) -> None:
        self._accounts = runtime.providers
        self._keyring = runtime.keyring
        self._receipts = runtime.receipts
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._hints = runtime.hints
        self._lookup = lookup
        self._health = Health(runtime)
        self._orphans = OrphanWalk()

    def attempt_of(self, account: str, token: str) -> UUID | None:
        """The attempt that a callback URL names; None where it names the account only.

        It needs nothing but the URL, so whoever does not know one of ours is turned away before anything else is read.

        Raises:
            Problem: no such account (404), or a token that is not genuine (403).
        """
        if account not in self._accounts:
            self._metrics.callbacks_refused.labels("", "unknown_account").inc()
            raise Problem(404, "unknown_account", "There is no such account. Check the callback URL at the provider.")
        try:
            return self._keyring.read_token(account, token)
        except ValueError as error:
            raise self._forged(account, error) from None

    def _forged(self, account: str, error: Exception) -> Problem:
        self._metrics.callbacks_refused.labels(account, "forged").inc()
        log.warning("forged callback", extra={"provider": account, "error": str(error)})
        return Problem(403, "forged_callback", "The token or the signature of this callback is not genuine.")

    async def callback(self, account: str, attempt_id: UUID | None, callback: Callback) -> int:
        """Take one callback that came to a genuine URL; returns how many receipts were in it.

        Raises:
            Problem: a signature that is not genuine (403), or unreadable (422).
            StoreError: not all is stored; the provider repeats its callback.
        """
        try:
            receipts = self._accounts[account].adapter.receipts(callback, time.time())
        except ForgedReceipt as error:
            raise self._forged(account, error) from None
        except UnreadableReceipt as error:
            self._metrics.callbacks_refused.labels(account, "unreadable").inc()
            log.warning("unreadable callback", extra={"provider": account, "error": str(error)})
            raise Problem(422, "unreadable_callback", "This callback is not understood.") from None
        for receipt in receipts:
            await self.apply(_news(account, attempt_id, receipt))
        return len(receipts)

    async def apply(self, news: News) -> None:
        """Record one receipt, and learn from it."""
        began_ns = time.time_ns()
        applied = await self._receipts.apply(news)
        result = _result(applied)
        self._metrics.receipts.labels(news.provider, news.status, result).inc()
        with self._tracing.receive(applied.traceparent, began_ns, news.provider, news.status, result):
            await self._learn(news, applied)

    async def _learn(self, news: News, applied: Applied) -> None:
        if applied.fresh:
            place = Place(news.provider, applied.country, applied.traffic)
            self._health.received(place, news.status, news.error_code, applied.age_s)
            if news.status == ReceiptStatus.DELIVERED:
                self._metrics.delivery_s.labels(news.provider).observe(applied.age_s)
        if applied.became is not None:
            self._hints.webhooks.set()
            if applied.became != "sent":
                reason = reason_for(news.status, news.error_code) or ""
                self._metrics.ended.labels(applied.became, reason).inc()
        if applied.fresh and applied.recipient and news.error_code in NUMBER_IS_DEAD and news.status == "undelivered":
            await self._lookup.learn_dead(applied.recipient, news.error_code, source=f"receipt:{news.provider}")

    async def match_orphans(self) -> None:
        """Apply those of the next orphans whose attempts have become known, then drop them."""
        if orphans := await self._receipts.matched_orphans(self._orphans):
            await asyncio.gather(*map(self.apply, orphans))  # one by one, each would wait for a batch of its own
            await self._receipts.forget_orphans(orphans)


def _news(account: str, attempt_id: UUID | None, receipt: Receipt) -> News:
    return News(
        provider=account,
        attempt_id=attempt_id,
        provider_message_id=receipt.provider_message_id,
        status=receipt.status.value,
        error_code=receipt.error_code,
        provider_code=receipt.provider_code,
        occurred_at=receipt.occurred_at,
    )


def _result(applied: Applied) -> str:
    if applied.recipient is None:
        return "orphan"
    if not applied.fresh:
        return "duplicate"
    return "applied" if applied.became else "recorded"
