"""What can be asked of the gateway, said once for both clients. It does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypedDict
from urllib.parse import quote

from sms_gateway_client.errors import InvalidRequest, NotEnded, SmsGatewayError
from sms_gateway_client.exchange import Call, Patience, Steps, exchange, idempotency_key
from sms_gateway_client.models import (
    Batch,
    BulkAnswer,
    BulkProgress,
    BulkResult,
    Hlr,
    Message,
    MessageList,
    MessageStatus,
    MessageSummary,
    Preview,
    RecipientError,
    RecipientResult,
    Sent,
    Traffic,
)

LARGEST_CHUNK: Final = 10_000
"""Recipients of one request: the gateway's own limit, unless it is set lower."""

_FIRST_LOOK_S: Final = 0.1
_LONGEST_LOOK_S: Final = 2.0
_ALL_BAD: Final = "no_valid_recipients"
_REPEATED: Final = RecipientError("duplicate_recipient", "This number is in the list already, and is sent to once.")


class MessageOptions(TypedDict, total=False):
    """What a send may say besides: see `SendRequest` in the gateway's OpenAPI document."""

    traffic: Traffic | None
    callback_url: str | None
    reference: str | None
    send_at: datetime | None
    validity_period: int | None


class MessageFilters(TypedDict, total=False):
    """Which messages are listed: see `GET /v1/messages` in the gateway's OpenAPI document."""

    status: MessageStatus | None
    to: str | None
    sender: str | None
    traffic: Traffic | None
    batch_id: str | None
    reference: str | None
    created_after: datetime | None
    created_before: datetime | None
    limit: int


@dataclass(frozen=True, slots=True)
class Core:
    """Each method is a conversation: it yields what to ask, and returns what came of it."""

    patience: Patience

    def send(self, to: str, message: str, sender: str, key: str | None, options: MessageOptions) -> Steps[Sent]:
        """One message."""
        body = {"to": to, "from": sender, "message": message, **_json(options)}
        return self._exchange(Call("POST", "/v1/send", Sent, body=body, key=idempotency_key(key)))

    def preview(self, to: str, message: str, sender: str, options: MessageOptions) -> Steps[Preview]:
        """What a send would come to."""
        body = {"to": to, "from": sender, "message": message, **_json(options)}
        return self._exchange(Call("POST", "/v1/messages/preview", Preview, body=body))

    def bulk(
        self,
        recipients: Iterable[str],
        message: str,
        sender: str,
        key: str | None,
        *,
        chunk_size: int,
        progress: Callable[[BulkProgress], None] | None,
        options: MessageOptions,
    ) -> Steps[BulkResult]:
        """One text to many, in chunks. Each has a key made of `key` and its place, so a repeat of all sends nothing."""
        if not 1 <= chunk_size <= LARGEST_CHUNK:
            raise ValueError(f"chunk_size is from 1 to {LARGEST_CHUNK}.")
        key, tally = idempotency_key(key), _Tally(list(recipients))
        chunks = list(tally.chunks(chunk_size))
        keys = [idempotency_key(f"{key}.{number}") for number in range(1, len(chunks) + 1)]  # before anything is sent
        common = {"from": sender, "message": message, **_json(options)}
        for chunk, chunk_key in zip(chunks, keys, strict=True):
            body = {**common, "recipients": chunk}
            try:
                tally.add(chunk, (yield from self._chunk(body, chunk_key)))
            except SmsGatewayError as error:
                error.idempotency_key, error.bulk = key, tally.result()
                raise
            if progress is not None:
                progress(tally.progress())
        return tally.result()

    def batch(self, batch_id: str) -> Steps[Batch]:
        """How far one chunk of a bulk is."""
        return self._exchange(Call("GET", f"/v1/batches/{_segment(batch_id)}", Batch))

    def message(self, message_id: str) -> Steps[Message]:
        """How a message stands."""
        return self._exchange(_look(message_id))

    def wait_until_ended(self, message_id: str, timeout_s: float) -> Steps[Message]:
        """Looks ever less often until the message has ended."""
        call, pause_s, next_s = _look(message_id), 0.0, _FIRST_LOOK_S
        ends_at = self.patience.monotonic() + timeout_s
        while True:
            message = yield from exchange(call, self.patience, after_s=pause_s)
            if message.ended:
                return message
            left_s = ends_at - self.patience.monotonic()
            if left_s <= 0:
                raise NotEnded(message)
            pause_s, next_s = min(next_s, left_s), min(1.5 * next_s, _LONGEST_LOOK_S)

    def list(self, cursor: str | None, filters: MessageFilters) -> Steps[MessageList]:
        """A page of messages."""
        asked = {**filters, "cursor": cursor}
        asked["from"] = asked.pop("sender", None)
        params = {name: str(value) for name, value in _json(asked).items()}
        return self._exchange(Call("GET", "/v1/messages", MessageList, params=params))

    def cancel(self, message_id: str) -> Steps[MessageSummary]:
        """Takes a message back; one that is cancelled already is answered in the same way."""
        return self._exchange(Call("POST", f"/v1/messages/{_segment(message_id)}/cancel", MessageSummary))

    def hlr(self, number: str, max_age: int | None) -> Steps[Hlr]:
        """What the HLR says of a number."""
        params = {} if max_age is None else {"max_age": str(max_age)}
        return self._exchange(Call("GET", f"/v1/hlr/{_segment(number)}", Hlr, params=params))

    def _exchange(self, call: Call[Any]) -> Steps[Any]:
        return exchange(call, self.patience)

    def _chunk(self, body: dict[str, Any], key: str) -> Steps[BulkAnswer]:
        try:
            return (yield from exchange(Call("POST", "/v1/send/bulk", BulkAnswer, body=body, key=key), self.patience))
        except InvalidRequest as refused:
            if refused.code != _ALL_BAD:
                raise
            return _all_bad(body["recipients"], refused)


class _Tally:
    """What came of each number so far. One that is given twice is sent once, even over chunks."""

    def __init__(self, numbers: list[str]) -> None:
        self._numbers = numbers
        self._unique = list(dict.fromkeys(numbers))
        self._results: dict[str, RecipientResult] = {}
        self._batch_ids: list[str] = []

    def chunks(self, size: int) -> Iterator[list[str]]:
        for start in range(0, len(self._unique), size):
            yield self._unique[start : start + size]

    def add(self, chunk: list[str], answer: BulkAnswer) -> None:
        self._results.update(zip(chunk, answer.results, strict=True))
        if answer.batch_id:
            self._batch_ids.append(answer.batch_id)

    def progress(self) -> BulkProgress:
        return BulkProgress(len(self._results), len(self._unique))

    def result(self) -> BulkResult:
        seen: set[str] = set()
        results = []
        for number in self._numbers:
            if number in self._results:
                results.append(RecipientResult(number, error=_REPEATED) if number in seen else self._results[number])
                seen.add(number)
        return BulkResult(tuple(self._batch_ids), tuple(results))


def _all_bad(numbers: list[str], refused: InvalidRequest) -> BulkAnswer:
    """A chunk of bad numbers only is refused as a whole, with one error for each: `recipients.<index>`."""
    errors = {error.field: RecipientError(error.code, error.detail) for error in refused.errors}
    all_the_same = RecipientError(refused.code, refused.detail)
    found = ((number, errors.get(f"recipients.{index}", all_the_same)) for index, number in enumerate(numbers))
    return BulkAnswer("", 0, len(numbers), tuple(RecipientResult(number, error=error) for number, error in found))


def _look(message_id: str) -> Call[Message]:
    return Call("GET", f"/v1/messages/{_segment(message_id)}", Message)


def _segment(word: str) -> str:
    """As one part of a path, whatever it holds."""
    return quote(word, safe="")


def _json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, as JSON has it."""
    return {name: _plain(name, value) for name, value in fields.items() if value is not None}


def _plain(name: str, value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError(f"{name} needs a time zone, e.g. datetime.now(UTC).")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
