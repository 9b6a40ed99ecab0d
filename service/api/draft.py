"""From the fields of a request to messages that may be stored. Every check of a send and of a bulk is here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from service.api.models import BulkRequest, MessageFields, SendRequest
from service.api.problems import invalid
from service.domain import msisdn
from service.domain.ids import new_id
from service.domain.message import DEFAULT_VALIDITY, Traffic
from service.domain.segments import Measure, measure, ucs2_characters
from service.errors import FieldError, Problem, TargetRefused
from service.settings import GatewayConfig
from service.storage.clients import Principal
from service.storage.messages import NewMessage
from service.targets import TargetPolicy
from service.tracing import Tracing

MAX_AHEAD: Final = timedelta(days=35)

# No segment holds more: a text longer than that many for each segment need not be measured.
_MAX_CHARACTERS: Final = 160
_CHUNK: Final = 50

_NUMBER_RULES: Final = {
    msisdn.MISSING_PLUS: "Write the number in E.164, beginning with `+` and the country code.",
    msisdn.BAD_CHARACTERS: "Write the number in E.164: only digits after the `+`.",
    msisdn.UNKNOWN_COUNTRY_CODE: "There is no such country code. Correct the number.",
    msisdn.TOO_SHORT: "The number is too short for its country. Correct it.",
    msisdn.TOO_LONG: "The number is too long for its country. Correct it.",
}
_NOT_TEXT: Final = FieldError("", "invalid_number", "Give the number as a string in E.164.")
_COUNTRY: Final = FieldError("", "country_forbidden", "This client may not use numbers of this country.")
_RATE: Final = FieldError(
    "",
    "number_type_not_allowed",
    "This client may not use premium-rate, shared-cost or satellite numbers. Ask the gateway's operator for it.",
)
_SENDER: Final = FieldError("from", "sender_forbidden", "This client may not use the sender. Use one of its own.")
_DUPLICATE: Final = FieldError("", "duplicate_recipient", "This number is in the list already, and is sent to once.")


class _Content(NamedTuple):
    """Everything of a message but its recipient."""

    client_id: UUID
    sender: str
    text: str
    traffic: str
    size: Measure
    reference: str | None
    callback_url: str | None
    send_at: datetime | None
    validity_s: float
    traceparent: str | None

    def to(self, number: str, country: str) -> NewMessage:
        return NewMessage(
            id=new_id(),
            client_id=self.client_id,
            to=number,
            sender=self.sender,
            text=self.text,
            traffic=self.traffic,
            country=country,
            encoding=self.size.encoding,
            segments=self.size.segments,
            reference=self.reference,
            callback_url=self.callback_url,
            send_at=self.send_at,
            validity_s=self.validity_s,
            traceparent=self.traceparent,
        )


@dataclass(frozen=True, slots=True)
class BulkDraft:
    """A bulk: its messages, and what each recipient is told, in the order of the request."""

    messages: list[NewMessage]
    results: list[NewMessage | tuple[str | None, FieldError]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a send would come to. What its errors leave open is None; `size` of too long a text is that of a part."""

    errors: tuple[FieldError, ...]
    size: Measure
    ucs2_characters: tuple[str, ...]
    country: str | None
    traffic: Traffic | None
    send_at: datetime | None
    validity_s: float | None


class Drafter:
    """Applies the rules of `gateway.yaml` and of the key. What it makes belongs to the trace at hand."""

    def __init__(self, config: GatewayConfig, webhook_policy: TargetPolicy, tracing: Tracing) -> None:
        self._senders = config.senders
        self._limits = config.limits
        self._webhook_policy = webhook_policy
        self._tracing = tracing
        msisdn.numbering_plan()  # built now: the first request should not wait for it

    def message(self, body: SendRequest, principal: Principal, now: datetime) -> NewMessage:
        """The message of a send.

        Raises:
            Problem: 422 with every bad field, 403 for what this client may not do.
        """
        size = self._measure(body.message)
        if errors := self._send_errors(body, size, now):
            raise invalid(errors)
        content = self._content(body, size, principal, now)
        return content.to(body.to, require_allowed(principal, body.to))

    def judge(self, body: SendRequest, principal: Principal, now: datetime) -> Judgement:
        """What `message` would make of it, or refuse."""
        size = self._measure(body.message)
        errors = self._send_errors(body, size, now)
        sender = self._senders.get(body.sender)
        if sender is not None and _forbids_sender(principal, body.sender):
            errors.append(_SENDER)
        country = None if check_number(body.to) else msisdn.country(body.to)
        if country is not None and (forbidden := _forbids_number(principal, body.to, country)):
            errors.append(replace(forbidden, field="to"))
        traffic = sender.traffic if sender else None
        too_far = any(error.field == "send_at" for error in errors)
        return Judgement(
            errors=tuple(errors),
            size=size,
            ucs2_characters=ucs2_characters(self._measured(body.message)),
            country=country,
            traffic=traffic,
            send_at=None if too_far else _later(body.send_at, now) or now,
            validity_s=_validity_s(body, traffic) if traffic else None,
        )

    async def bulk(self, body: BulkRequest, principal: Principal, now: datetime) -> BulkDraft:
        """The messages of a bulk, made in pieces so that other requests go on meanwhile.

        Raises:
            Problem: 422 for bad fields or when no recipient is good, 403 for what this client may not do.
        """
        size = self._measure(body.message)
        errors = list(self._errors(body, size, now))
        if len(body.recipients) > self._limits.max_recipients:
            detail = f"Give at most {self._limits.max_recipients} recipients; split the bulk."
            errors.append(FieldError("recipients", "too_many_recipients", detail))
        if errors:
            raise invalid(errors)
        content = self._content(body, size, principal, now)
        draft, seen = BulkDraft([], []), set[str]()
        for start in range(0, len(body.recipients), _CHUNK):
            for number in body.recipients[start : start + _CHUNK]:
                _add(draft, content, number, principal, seen)
            await asyncio.sleep(0)
        if not draft.messages:
            raise _none_valid(draft)
        return draft

    def _measured(self, text: str) -> str:
        return text[: self._limits.max_segments * _MAX_CHARACTERS + 1]

    def _measure(self, text: str) -> Measure:
        return measure(self._measured(text))

    def _send_errors(self, body: SendRequest, size: Measure, now: datetime) -> list[FieldError]:
        error = check_number(body.to)
        return [*([replace(error, field="to")] if error else []), *self._errors(body, size, now)]

    def _errors(self, body: MessageFields, size: Measure, now: datetime) -> Iterator[FieldError]:
        sender = self._senders.get(body.sender)
        if sender is None:
            yield FieldError("from", "unknown_sender", "Use a sender ID that gateway.yaml lists under `senders`.")
        elif body.traffic is not None and body.traffic is not sender.traffic:
            detail = "The sender is registered for another class of traffic. Leave `traffic` out or change the sender."
            yield FieldError("traffic", "traffic_mismatch", detail)
        if not body.message:
            yield FieldError("message", "empty_message", "Give the message a text.")
        if size.segments > self._limits.max_segments:
            detail = f"Shorten the message to {self._limits.max_segments} segments."
            yield FieldError("message", "message_too_long", detail)
        if body.callback_url is not None:
            try:
                self._webhook_policy.check_url(body.callback_url)
            except TargetRefused as refused:
                yield FieldError("callback_url", "callback_url_refused", f"Use another URL: {refused}.")
        if body.send_at is not None and body.send_at - now > MAX_AHEAD:
            yield FieldError("send_at", "send_at_too_far", f"Give a time within {MAX_AHEAD.days} days.")

    def _content(self, body: MessageFields, size: Measure, principal: Principal, now: datetime) -> _Content:
        if _forbids_sender(principal, body.sender):
            raise Problem(403, _SENDER.code, _SENDER.detail)
        traffic = self._senders[body.sender].traffic
        return _Content(
            client_id=principal.client_id,
            sender=body.sender,
            text=body.message,
            traffic=traffic.value,
            size=size,
            reference=body.reference,
            callback_url=body.callback_url,
            send_at=_later(body.send_at, now),
            validity_s=_validity_s(body, traffic),
            traceparent=self._tracing.traceparent,
        )


def check_number(number: str) -> FieldError | None:
    """Which rule of E.164 a number breaks. The field is left empty."""
    code = msisdn.check_syntax(number)
    return FieldError("", code, _NUMBER_RULES[code]) if code else None


def require_allowed(principal: Principal, number: str) -> str:
    """The country of a well-formed number that this client may spend on, be it by a send or by a look-up.

    Raises:
        Problem: 403, it may not.
    """
    country = msisdn.country(number)
    if forbidden := _forbids_number(principal, number, country):
        raise Problem(403, forbidden.code, forbidden.detail)
    return country


def check_filter(field: str, number: str) -> list[FieldError]:
    """The same for a number in a query, where a bare `+` is a space."""
    error = check_number(number)
    return [FieldError(field, error.code, f"{error.detail} In a query, `+` is written `%2B`.")] if error else []


def _later(send_at: datetime | None, now: datetime) -> datetime | None:
    """A time to come. Of the past nothing is kept: the year 1 with an offset is no time in UTC."""
    return send_at.astimezone(UTC) if send_at is not None and send_at > now else None


def _validity_s(body: MessageFields, traffic: Traffic) -> float:
    return body.validity_period or DEFAULT_VALIDITY[traffic].total_seconds()


def _forbids_sender(principal: Principal, sender: str) -> bool:
    return principal.senders is not None and sender not in principal.senders


def _forbids_number(principal: Principal, number: str, country: str) -> FieldError | None:
    """What keeps this client from sending to a number of that country. The field is left empty."""
    if principal.countries is not None and country not in principal.countries:
        return _COUNTRY
    return _RATE if not principal.special_rates and msisdn.has_special_rate(number) else None


def _add(draft: BulkDraft, content: _Content, number: Any, principal: Principal, seen: set[str]) -> None:
    """Judge one recipient."""
    if not isinstance(number, str):
        draft.results.append((None, _NOT_TEXT))
        return
    if error := check_number(number):
        draft.results.append((number, error))
        return
    country = msisdn.country(number)
    if forbidden := _forbids_number(principal, number, country):
        draft.results.append((number, forbidden))
    elif number in seen:
        draft.results.append((number, _DUPLICATE))
    else:
        seen.add(number)
        message = content.to(number, country)
        draft.messages.append(message)
        draft.results.append(message)


def _none_valid(draft: BulkDraft) -> Problem:
    errors = tuple(
        FieldError(f"recipients.{index}", result[1].code, result[1].detail)
        for index, result in enumerate(draft.results)
        if not isinstance(result, NewMessage)
    )
    return Problem(422, "no_valid_recipients", "Correct the numbers as `errors` says.", errors=errors)
