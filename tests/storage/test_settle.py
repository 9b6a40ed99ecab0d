"""Settlements: where a message goes when its worker lets go of it, and what the outbox gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import pytest

from service.domain.ids import new_id
from service.errors import CommitUnknown
from service.storage.database import Database
from service.storage.queue import MessageQueue, Move, Settlement
from service.storage.receipts import News
from tests import rows
from tests.storage.conftest import Store

WAIT_S = 72 * 3600


@dataclass(frozen=True, slots=True)
class Case:
    """A message in a worker's hands with an attempt under way, and perhaps an older one in doubt."""

    store: Store
    message_id: UUID
    worker_id: UUID
    attempt_id: UUID
    doubt_id: UUID | None

    async def settle(self, move: Move, outcome: str | None = None, **changes: object) -> str | None:
        settlement = Settlement(
            self.message_id,
            self.worker_id,
            move,
            attempt_id=self.attempt_id if outcome else None,
            outcome=outcome,
            closes=outcome not in {None, "accepted", "unknown"},
            **changes,  # type: ignore[arg-type]
        )
        return await self.store.queue.settle(settlement)

    async def row(self) -> dict[str, object]:
        return await self.store.row(self.message_id)

    async def open(self) -> list[bool]:
        return [attempt["open"] for attempt in await rows.attempts(self.store.database, self.message_id)]

    async def webhooks(self) -> list[tuple[str, str | None]]:
        found = await rows.webhooks(self.store.database, self.message_id)
        return [(webhook["status"], webhook["reason"]) for webhook in found]


async def a_case(store: Store, *, in_doubt: bool = False, **changes: object) -> Case:
    worker_id = await store.worker()
    message_id = await store.claimed(worker_id, **changes)
    doubt_id = None
    if in_doubt:
        doubt_id = await store.begin(worker_id, message_id, "other")
        await store.queue.settle(Settlement(message_id, worker_id, Move.KEEP, doubt_id, "unknown"))
    attempt_id = await store.begin(worker_id, message_id)
    return Case(store, message_id, worker_id, attempt_id, doubt_id)


@pytest.mark.parametrize("in_doubt", [False, True])
async def test_sent_waits_for_its_receipt(store: Store, in_doubt: bool) -> None:
    case = await a_case(store, in_doubt=in_doubt)
    assert await case.settle(Move.SENT, "accepted", provider_message_id="p-1") == "sent"
    found = await case.row()
    assert (found["status"], found["reason"], found["worker_id"], found["ended_at"]) == ("sent", None, None, None)
    assert found["sent_at"] is not None
    assert found["due_in_s"] == pytest.approx(600 + WAIT_S, abs=5)
    assert all(await case.open())
    assert await case.webhooks() == []


class Silent(MessageQueue):
    """Stores settlements; of the first `times`, nothing is heard."""

    def __init__(self, database: Database, times: int) -> None:
        super().__init__(database, receipt_wait=timedelta(seconds=WAIT_S), settle_again_after_s=(0.0, 0.0))
        self.told = 0
        self._times = times

    async def _settle(self, items: Sequence[Settlement]) -> list[str | None]:
        statuses = await super()._settle(items)
        self.told += 1
        if self.told <= self._times:
            raise CommitUnknown("the connection broke")
        return statuses


@pytest.mark.parametrize(
    ("move", "outcome", "status"),
    [
        (Move.SENT, "accepted", "sent"),
        (Move.PUT_BACK, "unavailable", "queued"),
        (Move.KEEP, "unavailable", "sending"),
        (Move.FAIL, "rejected", "failed"),
    ],
)
async def test_what_was_settled_unheard_is_settled_again_and_changes_nothing(
    store: Store, move: Move, outcome: str, status: str
) -> None:
    case = await a_case(store, callback_url="https://shop.example/hook")
    queue = Silent(store.database, 2)
    settled = await replace(case, store=replace(store, queue=queue)).settle(move, outcome)
    assert (settled, queue.told) == (None, 3)
    found = await case.row()
    assert found["status"] == status
    [attempt] = await rows.attempts(store.database, case.message_id)
    assert (attempt["outcome"], attempt["open"]) == (outcome, outcome == "accepted")
    assert len(await case.webhooks()) == (status == "failed")


async def test_that_no_receipt_came_is_told_once_for_the_next_round_asks_again(store: Store) -> None:
    case = await a_case(store)
    queue = Silent(store.database, 1)
    with pytest.raises(CommitUnknown):
        await queue.settle(Settlement(case.message_id, None, Move.NO_RECEIPT))
    assert queue.told == 1


async def test_what_cannot_be_settled_is_told_in_the_end(store: Store) -> None:
    case = await a_case(store)
    with pytest.raises(CommitUnknown):
        await replace(case, store=replace(store, queue=Silent(store.database, 3))).settle(Move.SENT, "accepted")


async def test_kept_stays_with_its_worker(store: Store) -> None:
    case = await a_case(store)
    assert await case.settle(Move.KEEP, "refused", reason="no_funds", code="402") is None
    found = await case.row()
    assert (found["status"], found["worker_id"], found["due_at"]) == ("sending", case.worker_id, None)
    [attempt] = await rows.attempts(store.database, case.message_id)
    assert (attempt["outcome"], attempt["reason"], attempt["code"]) == ("refused", "no_funds", "402")
    assert attempt["ended_at"] is not None


@pytest.mark.parametrize(("in_doubt", "status"), [(False, "queued"), (True, "sending")])
async def test_put_back_is_queued_and_parked_while_an_attempt_is_open(
    store: Store, in_doubt: bool, status: str
) -> None:
    case = await a_case(store, in_doubt=in_doubt)
    assert await case.settle(Move.PUT_BACK, "unavailable", reason="provider_busy", delay_s=30.0) == status
    found = await case.row()
    assert (found["status"], found["reason"], found["worker_id"]) == (status, "provider_busy", None)
    assert found["due_in_s"] == pytest.approx(30, abs=5)


async def test_put_back_never_sleeps_past_its_expiry(store: Store) -> None:
    case = await a_case(store, validity_s=20.0)
    await case.settle(Move.PUT_BACK, "unavailable", delay_s=3600.0)
    found = await case.row()
    assert found["due_at"] == found["expires_at"]


async def test_hold_waits_for_a_receipt(store: Store) -> None:
    case = await a_case(store)
    assert await case.settle(Move.HOLD, "unknown", reason="submit_unknown") == "sending"
    found = await case.row()
    assert (found["status"], found["reason"], found["worker_id"]) == ("sending", "submit_unknown", None)
    assert found["due_in_s"] == pytest.approx(600 + WAIT_S, abs=5)
    assert await case.webhooks() == []


async def test_nothing_is_held_whose_last_attempt_was_closed_meanwhile(store: Store) -> None:
    case = await a_case(store)
    await case.settle(Move.KEEP, "unavailable", reason="not_called")
    assert await case.settle(Move.HOLD, reason="submit_unknown") == "queued"
    assert (await case.row())["due_in_s"] == pytest.approx(0, abs=5)


async def test_fail_ends_a_message_of_which_nothing_is_out(store: Store) -> None:
    case = await a_case(store)
    assert await case.settle(Move.FAIL, "rejected", reason="invalid_recipient", error_code=1) == "failed"
    found = await case.row()
    assert (found["status"], found["reason"], found["error_code"]) == ("failed", "invalid_recipient", 1)
    assert (found["due_at"], found["worker_id"]) == (None, None)
    assert found["ended_at"] is not None
    assert await case.webhooks() == [("failed", "invalid_recipient")]


async def test_fail_holds_a_message_that_may_be_out(store: Store) -> None:
    case = await a_case(store, in_doubt=True)
    assert await case.settle(Move.FAIL, "rejected", reason="invalid_recipient", error_code=1) == "sending"
    found = await case.row()
    assert found["error_code"] is None
    assert found["due_in_s"] == pytest.approx(600 + WAIT_S, abs=5)
    assert await case.open() == [True, False]
    assert await case.webhooks() == []


async def test_give_up_ends_a_message_whatever_is_out(store: Store) -> None:
    case = await a_case(store, in_doubt=True)
    assert await case.settle(Move.GIVE_UP, reason="submit_unknown") == "failed"
    assert await case.open() == [False, False]
    assert await case.webhooks() == [("failed", "submit_unknown")]


async def test_no_receipt_ends_a_sent_message_once_its_time_is_over(store: Store) -> None:
    case = await a_case(store)
    await case.settle(Move.SENT, "accepted")
    give_up = Settlement(case.message_id, None, Move.NO_RECEIPT, reason="no_receipt")
    assert await store.upkeep.without_receipt() == []
    assert await store.queue.settle(give_up) is None, "too early"
    await store.age(case.message_id, 600 + WAIT_S + 1)
    assert await store.upkeep.without_receipt() == [case.message_id]
    assert await store.queue.settle(give_up) == "undelivered"
    assert await store.queue.settle(give_up) is None
    assert await case.webhooks() == [("undelivered", "no_receipt")]
    assert await store.upkeep.without_receipt() == []


@pytest.mark.parametrize("move", [Move.SENT, Move.PUT_BACK, Move.HOLD, Move.FAIL, Move.GIVE_UP])
async def test_nobody_moves_a_message_that_is_not_theirs(store: Store, move: Move) -> None:
    case = await a_case(store)
    await store.database.execute("UPDATE messages SET worker_id = $1", new_id())
    assert await case.settle(move, "unknown", reason="x") is None
    assert (await case.row())["status"] == "sending"
    assert await case.webhooks() == []


@pytest.mark.parametrize("move", [Move.SENT, Move.PUT_BACK, Move.HOLD, Move.FAIL, Move.GIVE_UP])
async def test_nobody_moves_a_message_that_has_ended(store: Store, move: Move) -> None:
    case = await a_case(store)
    await store.receipts.apply(news(case.attempt_id, "delivered"))
    assert await case.settle(move, "unknown", reason="x") is None
    assert (await case.row())["status"] == "delivered"
    assert await case.webhooks() == [("delivered", None)]


@pytest.mark.parametrize("receipt", ["sent", "delivered", "undelivered"])
@pytest.mark.parametrize("outcome", ["unknown", "unavailable", "rejected"])
async def test_no_answer_overwrites_what_a_receipt_proved(store: Store, receipt: str, outcome: str) -> None:
    case = await a_case(store)
    await store.receipts.apply(news(case.attempt_id, receipt))
    await case.settle(Move.KEEP, outcome)
    [attempt] = await rows.attempts(store.database, case.message_id)
    assert attempt["outcome"] == "accepted"
    assert attempt["open"] is (receipt == "sent")


async def test_an_answer_after_the_receipt_adds_the_providers_id(store: Store) -> None:
    case = await a_case(store)
    await store.receipts.apply(news(case.attempt_id, "delivered"))
    await case.settle(Move.SENT, "accepted", provider_message_id="p-1")
    [attempt] = await rows.attempts(store.database, case.message_id)
    assert (attempt["provider_message_id"], attempt["open"]) == ("p-1", False)


async def test_unknown_is_cleared_by_accepted_only(store: Store) -> None:
    case = await a_case(store)
    await case.settle(Move.KEEP, "unknown")
    await store.begin(case.worker_id, case.message_id, "other")
    await case.settle(Move.SENT, "accepted", provider_message_id="p-2")
    first, _ = await rows.attempts(store.database, case.message_id)
    assert (first["outcome"], first["provider_message_id"]) == ("accepted", "p-2")
    await case.settle(Move.KEEP, "refused")
    first, _ = await rows.attempts(store.database, case.message_id)
    assert (first["outcome"], first["open"]) == ("accepted", True)


async def test_settlements_of_many_messages_go_through_together(store: Store) -> None:
    cases = [await a_case(store) for _ in range(10)]
    statuses = await asyncio.gather(
        *(
            case.settle(Move.SENT if number % 2 else Move.FAIL, "accepted" if number % 2 else "rejected")
            for number, case in enumerate(cases)
        )
    )
    assert statuses == ["failed", "sent"] * 5


async def an_endpoint(store: Store, *, events: list[str] | None = None, disabled: bool = False) -> UUID:
    endpoint_id = new_id()
    await store.database.execute(
        "INSERT INTO webhook_endpoints (id, client_id, url, secret, events, disabled_at)"
        " VALUES ($1, $2, 'http://shop.example/all', '', $3, CASE WHEN $4 THEN now() END)",
        endpoint_id,
        store.client_id,
        events,
        disabled,
    )
    return endpoint_id


@pytest.mark.parametrize("how", ["settlement", "receipt"])
async def test_the_outbox_gets_one_webhook_for_each_endpoint_that_wants_the_event(store: Store, how: str) -> None:
    all_events = await an_endpoint(store)
    failures = await an_endpoint(store, events=["message.failed"])
    await an_endpoint(store, events=["message.delivered", "message.undelivered"])
    await an_endpoint(store, disabled=True)
    case = await a_case(store, callback_url=None)
    if how == "settlement":
        await case.settle(Move.FAIL, "rejected", reason="content")
    else:
        await store.receipts.apply(news(case.attempt_id, "failed"))
    found = await rows.webhooks(store.database, case.message_id)
    assert {webhook["endpoint_id"] for webhook in found} == {all_events, failures}
    assert {webhook["target"] for webhook in found} == {str(all_events), str(failures)}
    assert len({webhook["id"] for webhook in found}) == len(found) == 2


@pytest.mark.parametrize("how", ["settlement", "receipt"])
async def test_a_callback_url_takes_the_place_of_the_endpoints(store: Store, how: str) -> None:
    await an_endpoint(store)
    case = await a_case(store, callback_url="https://Shop.Example:8443/hook?a=b")
    if how == "settlement":
        await case.settle(Move.FAIL, "rejected", reason="content")
    else:
        await store.receipts.apply(news(case.attempt_id, "failed"))
    [webhook] = await rows.webhooks(store.database, case.message_id)
    assert webhook["endpoint_id"] is None
    assert webhook["target"] == f"{store.client_id} https://shop.example:8443"
    assert (webhook["state"], webhook["attempts"]) == ("pending", 0)


async def test_a_message_without_anywhere_to_go_ends_all_the_same(store: Store) -> None:
    case = await a_case(store, callback_url=None)
    assert await case.settle(Move.FAIL, "rejected") == "failed"
    assert await case.webhooks() == []


async def test_a_callback_url_of_a_strange_form_does_not_keep_a_message_from_ending(store: Store) -> None:
    case = await a_case(store, callback_url="http:///nowhere")
    assert await case.settle(Move.FAIL, "rejected") == "failed"
    assert await case.webhooks() == [("failed", None)]


async def test_another_clients_endpoint_gets_nothing(store: Store) -> None:
    await an_endpoint(store)
    other_id = await rows.a_client(store.database, "other")
    case = await a_case(store, client_id=other_id, callback_url=None)
    await case.settle(Move.FAIL, "rejected")
    assert await case.webhooks() == []


def news(attempt_id: UUID, status: str) -> News:
    return News("primary", attempt_id, None, status, None, None, None)
