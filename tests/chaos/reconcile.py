"""What a round must not show: the clients' records against the database, the providers' ledgers and the listeners."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from service.domain.ids import read, show
from service.simulator.number_table import behaviour_of
from tests.chaos.clients import Clients, Record
from tests.chaos.fates import Case, complaint, valid_until
from tests.chaos.stage import LedgerSend, Stage
from tests.listener import Listener

ENDED: Final = frozenset({"delivered", "undelivered", "failed", "cancelled"})

_ATTEMPTS: Final = """
SELECT a.*, (
    SELECT min(received_at) FROM receipts WHERE attempt_id = a.id AND status IN ('delivered', 'undelivered', 'failed')
) AS received_at
FROM attempts AS a WHERE a.message_id = ANY ($1) ORDER BY a.started_at
"""


@dataclass(slots=True)
class Findings:
    """Sentences, each about one message. `undrained`: what the drain did not see the end of."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    undrained: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [f"undrained: {sentence}" for sentence in self.undrained] + self.broken()

    def broken(self) -> list[str]:
        """The promises that were broken, however long the drain was."""
        kinds = {"lost": self.lost, "doubled": self.doubled, "missed": self.missed, "broken": self.other}
        return [f"{kind}: {sentence}" for kind, sentences in kinds.items() for sentence in sentences]


@dataclass(frozen=True, slots=True)
class Weather:
    """When a round began and since when no fault was on, by the database's clock; whether all clocks went right."""

    began_at: datetime
    healthy_at: datetime
    clocks_right: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is on record of a round. `keyless`: see `Case`."""

    records: Mapping[str, Record]
    messages: Mapping[UUID, asyncpg.Record]
    attempts: Mapping[UUID, Sequence[asyncpg.Record]]
    deliveries: Mapping[UUID, Sequence[asyncpg.Record]]
    endpoints: Sequence[asyncpg.Record]
    sends: Mapping[UUID, Sequence[tuple[str, LedgerSend]]]
    strange_sends: Sequence[str]
    received: frozenset[str]
    """The webhook ids that the listeners were given."""
    weather: Weather
    keyless: frozenset[str]


async def gather(stage: Stage, clients: Clients, weather: Weather, listeners: Iterable[Listener]) -> Evidence:
    """Read it, once all is quiet."""
    async with stage.connection() as connection:
        known = await connection.fetch("SELECT id, recipient FROM messages")
        messages = await connection.fetch("SELECT * FROM messages WHERE starts_with(reference, $1)", clients.prefix)
        ids = [message["id"] for message in messages]
        attempts = await connection.fetch(_ATTEMPTS, ids)
        deliveries = await connection.fetch("SELECT * FROM webhook_deliveries WHERE message_id = ANY ($1)", ids)
        endpoints = await connection.fetch("SELECT * FROM webhook_endpoints")
    sends, strange = _sends(stage, {row["recipient"]: row["id"] for row in known}, weather.began_at)
    return Evidence(
        records={record.name: record for record in clients.records},
        messages={message["id"]: message for message in messages},
        attempts=_by_message(attempts),
        deliveries=_by_message(deliveries),
        endpoints=endpoints,
        sends=sends,
        strange_sends=strange,
        received=frozenset(one.headers["webhook-id"] for listener in listeners for one in listener.received),
        weather=weather,
        keyless=stage.keyless,
    )


def _by_message(rows: Iterable[asyncpg.Record]) -> Mapping[UUID, Sequence[asyncpg.Record]]:
    found: dict[UUID, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        found[row["message_id"]].append(row)
    return found


def _sends(
    stage: Stage, known: Mapping[str, UUID], began_at: datetime
) -> tuple[Mapping[UUID, Sequence[tuple[str, LedgerSend]]], list[str]]:
    """What the providers accepted, by our message; and what of this round nobody knows.

    The message is in the key. Without one the recipient tells, for each message has one of its own (`known`).
    """
    found: dict[UUID, list[tuple[str, LedgerSend]]] = defaultdict(list)
    strange: list[str] = []
    ids = set(known.values())
    for provider in stage.providers:
        for send in provider.ledger():
            id_ = UUID(send.key.partition(":")[0]) if send.key else known.get(send.to)
            if id_ in ids:
                found[id_].append((provider.name, send))
            elif send.at >= began_at:
                strange.append(f"{send.key or send.to} was sent, and is not in the database")
    return found, strange


def reconcile(evidence: Evidence) -> Findings:
    """Everything that is not as promised."""
    findings = Findings()
    findings.lost += evidence.strange_sends
    for record in evidence.records.values():
        _check_answers(record, evidence, findings)
    by_name: Counter[tuple[str, str]] = Counter()
    sent_at = _sent_at(evidence)
    for message in evidence.messages.values():
        by_name[message["reference"], message["recipient"]] += 1
        _check_end(message, evidence, sent_at[message["traffic"]], findings)
        _check_sends(message, evidence, findings)
        _check_webhooks(message, evidence, findings)
    for (name, to), number in by_name.items():
        if number > 1:
            findings.doubled.append(f"request {name} made {number} messages to {to}")
    return findings


def _check_answers(record: Record, evidence: Evidence, findings: Findings) -> None:
    if record.surprise:
        findings.other.append(record.surprise)
    for to, answered in record.to_ids.items():
        if len(set(answered)) > 1:
            findings.doubled.append(f"request {record.name} to {to} was answered {sorted(set(answered))}")
        for message_id in set(answered):
            id_ = read("msg", message_id)
            message = evidence.messages.get(id_) if id_ else None
            if message is None or message["recipient"] != to:
                findings.lost.append(f"{message_id} was answered 200 and is not in the database ({record.name})")
    if record.cancelled == 200:
        id_ = read("msg", next(iter(record.to_ids.values()))[0])
        message = evidence.messages.get(id_) if id_ else None
        if message is not None and (message["status"] != "cancelled" or evidence.sends.get(message["id"])):
            findings.other.append(f"{show('msg', message['id'])} was cancelled, and yet is {message['status']} or sent")


Sent = Sequence[tuple[datetime, datetime]]
"""When messages were accepted, each with the time at which a provider took it first."""


def _sent_at(evidence: Evidence) -> Mapping[str, Sent]:
    """By traffic."""
    found: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for id_, message in evidence.messages.items():
        if sends := evidence.sends.get(id_):
            found[message["traffic"]].append((message["created_at"], min(send.at for _, send in sends)))
    return found


def _check_end(message: asyncpg.Record, evidence: Evidence, sent_at: Sent, findings: Findings) -> None:
    name, status, reason = show("msg", message["id"]), message["status"], message["reason"]
    if status not in ENDED:
        findings.undrained.append(f"{name} is still {status} ({reason})")
        return
    case = _case(message, evidence, sent_at)
    if sentence := complaint(case):
        findings.lost.append(f"{name} ({message['traffic']}) is {status} ({reason}), {sentence}; {case}")
    expected = behaviour_of(message["recipient"]).receipt
    received_at = min((a["received_at"] for a in case.attempts if a["received_at"] is not None), default=None)
    # Where another provider may have it too a bad receipt does not end it, nor does one that comes after the end.
    in_time = received_at is None or received_at <= message["ended_at"]
    counts = expected == "delivered" or (in_time and not case.in_doubt)
    if expected is not None and status != expected and counts and any(send.receipt_taken for _, send in case.sends):
        findings.lost.append(f"{name} is {status} ({reason}): its receipt {expected} was taken, and came to nothing")
    if case.clocks_right and any(send.receipt_done and not send.receipt_taken for _, send in case.sends):
        findings.other.append(f"{name}: its genuine receipt was refused until its provider gave up")


def _case(message: asyncpg.Record, evidence: Evidence, sent_at: Sent) -> Case:
    record = evidence.records[message["reference"]]
    overtaken: list[datetime] = []
    if message["reason"] == "expired":
        until = valid_until(message, record)
        overtaken = [at for created_at, at in sent_at if created_at > message["send_at"] and at < until]
    return Case(
        message=message,
        record=record,
        attempts=evidence.attempts.get(message["id"], ()),
        sends=evidence.sends.get(message["id"], ()),
        healthy_at=evidence.weather.healthy_at,
        overtaken_at=max(overtaken, default=None),
        keyless=evidence.keyless,
        clocks_right=evidence.weather.clocks_right,
    )


def _check_sends(message: asyncpg.Record, evidence: Evidence, findings: Findings) -> None:
    """A send without a key counts by itself: to one provider two of them are never meant."""
    name, sends = show("msg", message["id"]), evidence.sends.get(message["id"], ())
    keys = Counter((provider, send.key) for provider, send in sends)
    for (provider, key), number in keys.items():
        if number > 1:
            findings.doubled.append(f"{name}: {provider} counted {key or 'sends without a key'} {number} times")
    if len(keys) > 1 and not _excused(message, evidence):
        found = ", ".join(
            f"{a['provider']} {a['outcome']} ({a['reason']})" for a in evidence.attempts.get(message["id"], ())
        )
        accepted = sorted(f"{provider} {key}" for provider, key in keys)
        findings.doubled.append(f"{name} ({message['traffic']}) was accepted under {accepted}: {found}")


def _excused(message: asyncpg.Record, evidence: Evidence) -> bool:
    """An OTP rather goes out twice than not at all, where all but its last provider are on record as unknown."""
    accepting = {provider for provider, _ in evidence.sends[message["id"]]}
    tries = [a for a in evidence.attempts.get(message["id"], ()) if a["provider"] in accepting]
    if message["traffic"] != "otp" or not tries:
        return False
    return accepting - {tries[-1]["provider"]} <= {a["provider"] for a in tries if _was_unknown(a)}


def _was_unknown(attempt: asyncpg.Record) -> bool:
    """What comes later makes `accepted` of `unknown`, but what was unknown keeps its reason."""
    found_out = attempt["outcome"] == "accepted" and attempt["reason"] is not None
    return attempt["outcome"] in {"unknown", None} or found_out or attempt["calls"] > 1


def _check_webhooks(message: asyncpg.Record, evidence: Evidence, findings: Findings) -> None:
    if message["status"] not in ENDED - {"cancelled"} or not _wants_webhook(message, evidence):
        return
    name, deliveries = show("msg", message["id"]), evidence.deliveries.get(message["id"], ())
    if not any(delivery["status"] == message["status"] for delivery in deliveries):
        findings.missed.append(f"{name} is {message['status']} and has no such row in the outbox")
    for delivery in deliveries:
        unheard = findings.undrained if delivery["state"] == "pending" else findings.missed
        unheard += _unheard(delivery, name, evidence)


def _wants_webhook(message: asyncpg.Record, evidence: Evidence) -> bool:
    registered = any(endpoint["client_id"] == message["client_id"] for endpoint in evidence.endpoints)
    return message["callback_url"] is not None or registered


def _unheard(delivery: asyncpg.Record, name: str, evidence: Evidence) -> list[str]:
    webhook = f"{show('whd', delivery['id'])} of {name}"
    if delivery["last_error"] == "gone":
        return []
    if delivery["state"] != "delivered":
        return [f"{webhook} is {delivery['state']} ({delivery['last_error']}, try {delivery['attempts']})"]
    return [] if show("whd", delivery["id"]) in evidence.received else [f"{webhook} never reached its endpoint"]
