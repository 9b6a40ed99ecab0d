"""Accept: commit a message with its idempotency key. Only then may the caller hear 200."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from service.domain.message import Traffic
from service.errors import Problem, StoreOverloaded
from service.runtime import Runtime
from service.storage.messages import Batch, Earlier, Key, NewMessage


class Answer(NamedTuple):
    """What the caller is told of an accepted message. `replayed`: its key had answered before."""

    message_id: UUID
    to: str
    sender: str
    traffic: str
    segments: int
    encoding: str
    reference: str | None
    created_at: datetime
    replayed: bool


class Accept:
    """Stores messages and answers repeated keys with what they answered first."""

    def __init__(self, runtime: Runtime) -> None:
        self._messages = runtime.messages
        self._metrics = runtime.metrics
        self._tracing = runtime.tracing
        self._accepted = {traffic.value: runtime.metrics.accepted.labels(traffic.value) for traffic in Traffic}
        self._wake = {lane.value: event.set for lane, event in runtime.hints.lanes.items()}

    async def send(self, message: NewMessage, key: Key | None) -> Answer:
        """Commit one message.

        Raises:
            Problem: the key came with another body before.
            StoreError: see `Batcher.submit`.
        """
        stored = await self._messages.add(message, key)
        if isinstance(stored, Earlier):
            assert key is not None  # noqa: S101 - only a key can have an earlier answer
            return await self._answer_of(stored, key)
        self._tracing.note(message_id=message.id)
        self._accepted[message.traffic].inc()
        self._wake[message.traffic]()
        return Answer(
            message_id=message.id,
            to=message.to,
            sender=message.sender,
            traffic=message.traffic,
            segments=message.segments,
            encoding=message.encoding,
            reference=message.reference,
            created_at=stored,
            replayed=False,
        )

    async def replay(self, key: Key) -> Answer | None:
        """What the key answered, if it did. For requests that would now be refused: the first answer stands.

        Raises:
            Problem: the key came with another body before.
        """
        earlier = await self._messages.earlier(key)
        return await self._answer_of(earlier, key) if earlier else None

    async def _answer_of(self, earlier: Earlier, key: Key) -> Answer:
        self._same_body(earlier, key)
        row = await self._messages.replayed(earlier.subject_id, key.client_id)
        if row is None:
            raise StoreOverloaded("a key outlived its message")
        return Answer(
            message_id=row["id"],
            to=row["recipient"],
            sender=row["sender"],
            traffic=row["traffic"],
            segments=row["segments"],
            encoding=row["encoding"],
            reference=row["reference"],
            created_at=row["created_at"],
            replayed=True,
        )

    def _same_body(self, earlier: Earlier, key: Key) -> None:
        if not hmac.compare_digest(earlier.body_hmac, key.body_hmac):
            raise Problem(
                422,
                "idempotency_key_reused",
                "This Idempotency-Key was used with another body. Use a new key for a new message.",
            )
        self._metrics.replayed.inc()
        self._tracing.note(replayed=True)

    async def bulk(self, batch: Batch, messages: Sequence[NewMessage], key: Key | None) -> tuple[bytes, bool]:
        """Commit a bulk, all or nothing; returns the answer and whether it is a replay.

        Raises:
            Problem: the key came with another body before.
            StoreError: see `Database.writing`.
        """
        earlier = await self._messages.add_batch(batch, messages, key)
        if earlier is not None:
            assert key is not None  # noqa: S101 - only a key can have an earlier answer
            return await self._bulk_answer_of(earlier, key), True
        self._tracing.note(batch_id=batch.id)
        traffic = messages[0].traffic
        self._accepted[traffic].inc(len(messages))
        self._wake[traffic]()
        return batch.answer, False

    async def replay_bulk(self, key: Key) -> bytes | None:
        """What the key of a bulk answered, if it did; see `replay`."""
        earlier = await self._messages.earlier(key)
        return await self._bulk_answer_of(earlier, key) if earlier else None

    async def _bulk_answer_of(self, earlier: Earlier, key: Key) -> bytes:
        self._same_body(earlier, key)
        answer = await self._messages.batch_answer(earlier.subject_id, key.client_id)
        if answer is None:
            raise StoreOverloaded("a key outlived its batch")
        return answer
