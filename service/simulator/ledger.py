"""What the provider accepted: one JSON line a request, on disk before the answer goes out.

A line holds the sends and the answer kept for their idempotency key together, so that a kill -9 loses both or neither.
Another kind of line says that a send's receipt is done with. Message texts are not kept.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, Self

import orjson
from pydantic import TypeAdapter, ValidationError

from service.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ReceiptPlan:
    """Where a send's receipt goes, when (aware UTC), and how often."""

    url: str
    due_at: datetime
    copies: int


@dataclass(frozen=True, slots=True)
class Send:
    """One accepted message. `at` is aware UTC; `receipt` is None where none is to come."""

    message_id: str
    to: str
    sender: str
    idempotency_key: str | None
    at: datetime
    reference: str | None
    batch_id: str | None
    segments: int
    receipt: ReceiptPlan | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The 200 kept for an idempotency key. `fingerprint` tells whether a repeat has the same body."""

    endpoint: str
    key: str
    fingerprint: str
    text: str


@dataclass(frozen=True, slots=True)
class _Line:
    sends: Sequence[Send] = ()
    answer: Answer | None = None
    receipt_done: str | None = None


_LINE: Final = TypeAdapter(_Line)
_FREEZE_EVERY: Final = 1_000
"""Lines. They stay for ever: garbage collection that looked at 40,000 again would hold up the loop for 200 ms."""


class Ledger:
    """The accepted sends in order, the kept answers and the receipts still to go, all from one file."""

    def __init__(self, file: BinaryIO) -> None:
        self.sends: list[Send] = []
        self.pending: dict[str, Send] = {}
        self._answers: dict[tuple[str, str], Answer] = {}
        self._file = file
        self._written = 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what a former run wrote, and go on after it. A line torn by a kill is cut off: it was never answered.

        Raises:
            ConfigurationError: the file is not a ledger.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        ledger = cls(file)
        file.seek(0)
        end = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                ledger._apply(_LINE.validate_json(line))
            except ValidationError:
                file.close()
                message = f"{path}, line {number}, is not of a ledger: move the file away to start with an empty one"
                raise ConfigurationError(message) from None
            end += len(line)
        file.truncate(end)
        return ledger

    def close(self) -> None:
        """Close the file. Nothing is lost: every line was flushed as it was written."""
        self._file.close()

    def accept(self, sends: Sequence[Send], answer: Answer | None) -> None:
        """Keep the sends of one request, and its answer if it had an idempotency key."""
        self._write(_Line(sends=sends, answer=answer))

    def receipt_done(self, message_id: str) -> None:
        """Keep that nothing more is to be sent for this message: acknowledged, or given up."""
        self._write(_Line(receipt_done=message_id))

    def answer(self, endpoint: str, key: str) -> Answer | None:
        """The answer kept for a key, or None when the key is new."""
        return self._answers.get((endpoint, key))

    def waiting(self, answer: Answer) -> list[Send]:
        """The sends of an answer whose receipts are still to go."""
        content = orjson.loads(answer.text)
        ids = [content.get("message_id"), *(result.get("message_id") for result in content.get("results", ()))]
        return [self.pending[message_id] for message_id in ids if message_id in self.pending]

    def _write(self, line: _Line) -> None:
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()
        self._apply(line)
        self._written += 1
        if self._written % _FREEZE_EVERY == 0:
            gc.freeze()

    def _apply(self, line: _Line) -> None:
        self.sends.extend(line.sends)
        self.pending |= {send.message_id: send for send in line.sends if send.receipt}
        if line.answer:
            self._answers[line.answer.endpoint, line.answer.key] = line.answer
        if line.receipt_done:
            self.pending.pop(line.receipt_done, None)
