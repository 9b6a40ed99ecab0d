"""What receipts do to attempts and messages, in every order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.ids import new_attempt_id, new_id
from service.domain.message import OWN_GUESSES, MessageStatus, may_become
from service.storage.database import Database
from service.storage.receipts import News, OrphanWalk
from tests import rows
from tests.storage.conftest import Store, store_over

ORPHANS = (
    "INSERT INTO orphan_receipts (provider, provider_message_id, status, received_at)"
    " SELECT 'primary', 'p-' || lpad(n::text, 5, '0'), 'delivered', now() - interval '1 hour'"
    " FROM generate_series(1, $1::int) AS n"
)
STATUSES = ("sent", "delivered", "undelivered", "failed", "unknown")
FEW = settings(max_examples=60, deadline=None)


def news(attempt_id: UUID | None, status: str, error_code: int | None = None, provider_id: str | None = None) -> News:
    return News("primary", attempt_id, provider_id, status, error_code, None, None)


async def a_sent_message(
    store: Store, *outcomes: str | None, status: str = "sent", **columns: Any
) -> tuple[UUID, list[UUID]]:
    """A message with an open attempt for each outcome."""
    message_id = await store.add()
    columns = {"status": status, "worker_id": None} | columns
    await store.database.execute(
        "UPDATE messages SET status = $2, reason = $3, worker_id = $4, ended_at = CASE WHEN $2 = ANY"
        " (ARRAY['delivered', 'undelivered', 'failed', 'cancelled']) THEN now() END WHERE id = $1",
        message_id,
        columns["status"],
        columns.get("reason"),
        columns["worker_id"],
    )
    attempt_ids = sorted(new_attempt_id(message_id) for _ in outcomes)
    for attempt_id, outcome in zip(attempt_ids, outcomes, strict=True):
        await store.database.execute(
            "INSERT INTO attempts (id, message_id, provider, outcome) VALUES ($1, $2, 'primary', $3)",
            attempt_id,
            message_id,
            outcome,
        )
    return message_id, attempt_ids


@dataclass
class Model:
    """What DESIGN.md says of receipts, in Python."""

    status: str
    reason: str | None
    claimed: bool
    open: list[bool]
    webhooks: int = 0
    seen: set[tuple[int, str]] = field(default_factory=set)

    def apply(self, attempt: int, status: str) -> None:
        if (attempt, status) in self.seen:
            return
        self.seen.add((attempt, status))
        if status == "unknown":
            return
        was_open = self.open[attempt]
        if status != "sent":
            self.open[attempt] = False
        if status == "delivered":
            guessed = self.status in {"undelivered", "failed"} and self.reason in OWN_GUESSES
            if self.status in {"queued", "sending", "sent"} or guessed:
                self._end(status)
        elif status == "sent":
            if self.status == "sending" and not self.claimed:
                self.status = "sent"
        elif was_open and not any(self.open) and self.status in {"sending", "sent"}:
            self._end(status)

    def _end(self, status: str) -> None:
        self.status, self.reason, self.claimed = status, None, False
        self.webhooks += 1

    def copy(self) -> Model:
        return replace(self, open=list(self.open), seen=set(self.seen))

    @property
    def shown(self) -> tuple[str, int]:
        return self.status, self.webhooks


BEGINNINGS = st.sampled_from(
    [
        ("sent", None, False),
        ("sending", "submit_unknown", False),
        ("sending", None, True),
        ("queued", None, False),
        ("undelivered", "no_receipt", False),
        ("failed", "submit_unknown", False),
        ("failed", "expired", False),
        ("undelivered", "carrier_failed", False),
        ("delivered", None, False),
        ("cancelled", None, False),
    ]
)
OUTCOMES = st.lists(st.sampled_from(["accepted", "unknown"]), min_size=1, max_size=3)
RECEIPTS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(STATUSES)), min_size=1, max_size=8)


async def begin(database: Database, beginning: tuple[str, str | None, bool], outcomes: list[str]) -> tuple[Any, ...]:
    status, reason, claimed = beginning
    store = store_over(database, await rows.a_client(database))
    message_id, attempt_ids = await a_sent_message(
        store, *outcomes, status=status, reason=reason, worker_id=new_id() if claimed else None
    )
    return store, message_id, attempt_ids, Model(status, reason, claimed, [True] * len(outcomes))


async def shown(store: Store, message_id: UUID) -> tuple[str, int]:
    message = await rows.row(store.database, message_id)
    return message["status"], len(await rows.webhooks(store.database, message_id))


@FEW
@given(beginning=BEGINNINGS, outcomes=OUTCOMES, receipts=RECEIPTS)
async def test_receipts_one_after_the_other_do_what_the_model_says(
    database: Database, beginning: tuple[str, str | None, bool], outcomes: list[str], receipts: list[tuple[int, str]]
) -> None:
    store, message_id, attempt_ids, model = await begin(database, beginning, outcomes)
    for number, status in receipts:
        attempt = number % len(attempt_ids)
        before, reason = model.status, model.reason
        fresh = (attempt, status) not in model.seen
        model.apply(attempt, status)
        applied = await store.receipts.apply(news(attempt_ids[attempt], status))
        assert await shown(store, message_id) == model.shown
        assert applied.fresh is fresh
        assert (applied.became is not None) is (model.status != before)
        if applied.became is not None:
            assert may_become(MessageStatus(before), MessageStatus(applied.became), reason=reason)
    found = await rows.attempts(database, message_id)
    assert [attempt["open"] for attempt in found] == model.open
    for attempt, row in enumerate(found):
        spoken = any(number == attempt and status != "unknown" for number, status in model.seen)
        assert row["outcome"] == ("accepted" if spoken else outcomes[attempt]), "a receipt proves that it was accepted"


@FEW
@given(
    beginning=BEGINNINGS,
    outcomes=OUTCOMES,
    receipts=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(STATUSES)), min_size=2, max_size=4),
)
async def test_receipts_in_one_batch_do_what_they_would_have_done_in_some_order(
    database: Database, beginning: tuple[str, str | None, bool], outcomes: list[str], receipts: list[tuple[int, str]]
) -> None:
    store, message_id, attempt_ids, model = await begin(database, beginning, outcomes)
    named = [(number % len(attempt_ids), status) for number, status in receipts]
    possible = set()
    for order in permutations(named):
        one = model.copy()
        for attempt, status in order:
            one.apply(attempt, status)
        possible.add((one.status, one.webhooks, tuple(one.open)))
    await asyncio.gather(*(store.receipts.apply(news(attempt_ids[attempt], status)) for attempt, status in named))
    found = await rows.attempts(database, message_id)
    state = (*await shown(store, message_id), tuple(attempt["open"] for attempt in found))
    assert state in possible


async def test_of_several_receipts_in_a_batch_only_the_one_that_moved_the_message_says_so(store: Store) -> None:
    _, [attempt_id] = await a_sent_message(store, "accepted")
    both = (store.receipts.apply(news(attempt_id, status)) for status in ("sent", "delivered"))
    assert [(applied.fresh, applied.became) for applied in await asyncio.gather(*both)] == [
        (True, None),
        (True, "delivered"),
    ]


async def test_two_duplicates_in_one_batch_count_once(store: Store) -> None:
    message_id, [attempt_id] = await a_sent_message(store, "accepted")
    answers = await asyncio.gather(*(store.receipts.apply(news(attempt_id, "delivered")) for _ in range(5)))
    assert sorted(answer.fresh for answer in answers) == [False] * 4 + [True]
    assert [answer.recipient is not None for answer in answers] == [True] * 5
    assert await shown(store, message_id) == ("delivered", 1)


async def test_a_negative_receipt_of_one_of_two_attempts_leaves_the_message_waiting(store: Store) -> None:
    message_id, [first, second] = await a_sent_message(store, "unknown", "accepted")
    assert (await store.receipts.apply(news(first, "undelivered", 27))).became is None
    assert await shown(store, message_id) == ("sent", 0)
    assert (await store.receipts.apply(news(second, "failed", None))).became == "failed"
    message = await rows.row(store.database, message_id)
    assert (message["status"], message["reason"]) == ("failed", "provider_failed")


async def test_a_late_word_of_a_closed_attempt_does_not_hide_the_end_of_the_last_one(store: Store) -> None:
    message_id, [closed, last] = await a_sent_message(store, "accepted", "accepted")
    await store.receipts.apply(news(closed, "failed"))
    await asyncio.gather(store.receipts.apply(news(closed, "undelivered")), store.receipts.apply(news(last, "failed")))
    assert await shown(store, message_id) == ("failed", 1)


@pytest.mark.parametrize(
    ("status", "error_code", "reason"),
    [
        ("undelivered", 1, "unknown_subscriber"),
        ("undelivered", 27, "absent_subscriber"),
        ("undelivered", None, "carrier_failed"),
        ("failed", 0, "provider_failed"),
    ],
)
async def test_a_negative_receipt_says_why(store: Store, status: str, error_code: int | None, reason: str) -> None:
    message_id, [attempt_id] = await a_sent_message(store, "accepted")
    await store.receipts.apply(news(attempt_id, status, error_code))
    message = await rows.row(store.database, message_id)
    assert (message["reason"], message["error_code"]) == (reason, error_code)
    [webhook] = await rows.webhooks(store.database, message_id)
    assert (webhook["reason"], webhook["error_code"]) == (reason, error_code)


async def test_a_sent_receipt_moves_a_parked_message_to_its_receipt_deadline(store: Store) -> None:
    message_id, [attempt_id] = await a_sent_message(store, "unknown", status="sending", reason="submit_unknown")
    applied = await store.receipts.apply(news(attempt_id, "sent"))
    message = await rows.row(store.database, message_id)
    assert (applied.became, message["reason"], message["ended_at"]) == ("sent", None, None)
    assert message["due_in_s"] == pytest.approx(600 + 72 * 3600, abs=5)


async def test_a_message_that_a_worker_holds_is_not_sent_behind_its_back(store: Store) -> None:
    worker_id = new_id()
    message_id, [attempt_id] = await a_sent_message(store, None, status="sending", worker_id=worker_id)
    assert (await store.receipts.apply(news(attempt_id, "sent"))).became is None
    assert (await rows.row(store.database, message_id))["worker_id"] == worker_id


async def test_the_providers_id_is_learnt_from_a_receipt_where_the_answer_never_came(store: Store) -> None:
    message_id, [attempt_id] = await a_sent_message(store, "unknown")
    await store.receipts.apply(news(attempt_id, "sent", provider_id="p-1"))
    await store.receipts.apply(news(attempt_id, "unknown", provider_id="p-2"))
    [attempt] = await rows.attempts(store.database, message_id)
    assert attempt["provider_message_id"] == "p-1"


async def test_a_providers_id_that_is_known_stays(store: Store) -> None:
    message_id, [attempt_id] = await a_sent_message(store, "accepted")
    await store.database.execute("UPDATE attempts SET provider_message_id = 'p-1' WHERE id = $1", attempt_id)
    await store.receipts.apply(news(attempt_id, "sent", provider_id="p-2"))
    await store.receipts.apply(news(attempt_id, "delivered"))
    [attempt] = await rows.attempts(store.database, message_id)
    assert attempt["provider_message_id"] == "p-1"


async def test_receipts_match_by_the_providers_id(store: Store) -> None:
    message_id, [attempt_id] = await a_sent_message(store, "accepted")
    await store.database.execute("UPDATE attempts SET receipt_key = 'p-1' WHERE id = $1", attempt_id)
    other = replace(news(None, "delivered", provider_id="p-1"), provider="fallback")
    assert (await store.receipts.apply(other)).recipient is None, "another account's id"
    assert (await store.receipts.apply(news(None, "delivered", provider_id="p-1"))).recipient == "+15555550100"
    assert await shown(store, message_id) == ("delivered", 1)


async def test_orphans_are_kept_once_found_once_known_and_forgotten(store: Store) -> None:
    orphan = news(None, "delivered", provider_id="p-7")
    for _ in range(2):
        assert (await store.receipts.apply(orphan)).recipient is None
    assert await store.receipts.matched_orphans() == []
    _, [attempt_id] = await a_sent_message(store, "accepted")
    await store.database.execute("UPDATE attempts SET receipt_key = 'p-7' WHERE id = $1", attempt_id)
    assert await store.receipts.matched_orphans() == [replace(orphan, attempt_id=attempt_id)]
    await store.receipts.forget_orphans([orphan])
    assert await store.receipts.matched_orphans() == []


async def test_orphans_are_looked_at_a_thousand_at_a_time_and_round_again(store: Store) -> None:
    await store.database.execute(ORPHANS, 2_500)
    _, [attempt_id] = await a_sent_message(store, "accepted")
    await store.database.execute("UPDATE attempts SET receipt_key = 'p-01500' WHERE id = $1", attempt_id)
    walk = OrphanWalk()
    looks = [[one.provider_message_id for one in await store.receipts.matched_orphans(walk)] for _ in range(6)]
    assert looks == [[], ["p-01500"], []] * 2


async def test_a_provider_fills_the_orphans_up_to_its_bound_and_its_newest_stay(store: Store) -> None:
    await store.database.execute(ORPHANS, 55_000)
    await store.receipts.apply(replace(news(None, "delivered", provider_id="p-1"), provider="fallback"))
    flood = [news(None, "delivered", provider_id=f"new-{number}") for number in range(1_000)]
    await asyncio.gather(*map(store.receipts.apply, flood))
    rows_ = await store.database.fetch(
        "SELECT provider, count(*), count(*) FILTER (WHERE provider_message_id LIKE 'new-%') AS new"
        " FROM orphan_receipts GROUP BY provider ORDER BY provider"
    )
    assert [tuple(row) for row in rows_] == [("fallback", 1, 0), ("primary", 50_000, 1_000)]


async def test_a_receipt_that_names_nobody_is_dropped(store: Store) -> None:
    assert (await store.receipts.apply(news(None, "delivered"))).recipient is None
    assert await store.database.fetch("SELECT FROM orphan_receipts") == []


async def test_old_orphans_are_forgotten(store: Store) -> None:
    for number in range(2):
        await store.receipts.apply(news(None, "delivered", provider_id=f"p-{number}"))
    await store.database.execute(
        "UPDATE orphan_receipts SET received_at = now() - interval '8 days' WHERE provider_message_id = 'p-0'"
    )
    await store.receipts.forget_old_orphans(timedelta(days=7))
    [left] = await store.database.fetch("SELECT provider_message_id FROM orphan_receipts")
    assert left["provider_message_id"] == "p-1"


async def test_many_receipts_of_many_messages_go_through_together(store: Store) -> None:
    messages = [await a_sent_message(store, "accepted") for _ in range(20)]
    await asyncio.gather(
        *(
            store.receipts.apply(news(attempt_id, status))
            for _, [attempt_id] in messages
            for status in ("sent", "delivered")
        )
    )
    assert [await shown(store, message_id) for message_id, _ in messages] == [("delivered", 1)] * 20
