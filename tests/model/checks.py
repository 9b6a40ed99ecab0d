"""What must hold after each step, and once everything works again."""

from __future__ import annotations

from uuid import UUID

from service.domain.message import MessageStatus, may_become
from tests.model.edges import Answer
from tests.model.gateway import Gateway

WATCH = """
CREATE TABLE IF NOT EXISTS moves (n bigint GENERATED ALWAYS AS IDENTITY, id uuid, old text, new text, reason text);
CREATE OR REPLACE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO moves (id, old, new, reason) VALUES (new.id, old.status, new.status, old.reason);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER note_move AFTER UPDATE OF status ON messages
    FOR EACH ROW WHEN (old.status <> new.status) EXECUTE FUNCTION note_move();
CREATE OR REPLACE FUNCTION pass_time(gone interval) RETURNS void LANGUAGE sql BEGIN ATOMIC
    UPDATE messages SET due_at = due_at - gone, send_at = send_at - gone, expires_at = expires_at - gone;
    UPDATE attempts SET started_at = started_at - gone;
    UPDATE idempotency_keys SET expires_at = expires_at - gone;
    UPDATE webhook_deliveries SET due_at = due_at - gone;
    UPDATE webhook_targets SET blocked_until = blocked_until - gone;
END;
"""


async def check(gateway: Gateway) -> None:
    """The gateway is where the model is, and came there by legal moves."""
    database = gateway.base.database
    for move in await database.fetch("DELETE FROM moves RETURNING n, old, new, reason"):
        assert may_become(MessageStatus(move["old"]), MessageStatus(move["new"]), reason=move["reason"]), move
    found = {row["id"]: row for row in await database.fetch("SELECT * FROM messages")}
    assert found.keys() == gateway.messages.keys()
    attempts = {row["id"]: row for row in await database.fetch("SELECT * FROM attempts")}
    assert len(attempts) == sum(len(message.attempts) for message in gateway.messages.values())
    events: dict[UUID, list[tuple[str, str | None]]] = {message_id: [] for message_id in found}
    for row in await database.fetch("SELECT * FROM webhook_deliveries ORDER BY created_at, id"):
        events[row["message_id"]].append((row["status"], row["reason"]))
        assert (row["state"] == "delivered") is (row["id"] in gateway.hooks.acknowledged), row
        assert row["id"] not in gateway.hooks.gone or row["state"] == "dead"
    for message in gateway.messages.values():
        row = found[message.id]
        assert (row["status"], row["worker_id"]) == (message.status, message.turn and message.turn.worker), message
        assert not message.ended or row["reason"] == message.reason, message
        assert (row["due_at"] is None) is (message.ended or message.turn is not None), message
        for attempt_id, attempt in message.attempts.items():
            is_ = attempts[attempt_id]
            assert (is_["open"], is_["outcome"], is_["calls"]) == (attempt.open, attempt.outcome, attempt.calls)
        assert events[message.id] == message.events, message
        may_double = message.traffic == "otp" and message.was_in_doubt
        assert gateway.providers.sends(message.id) <= 1 or may_double, f"doubled: {message}"


async def drain(gateway: Gateway) -> None:
    """Everything works again and goes on for long enough: then everything has ended, and everybody knows."""
    while gateway.hanging:
        await gateway.answer(0, Answer())
    for _ in range(2):
        await gateway.recover(0)
    for seconds in (1_500, 1_500, 1_500, 200_000, 300_000, 300_000):
        await gateway.work(0, [Answer()])
        await gateway.recover(0)
        await check(gateway)
        await gateway.pass_time(seconds)
    for message in gateway.messages.values():
        assert message.ended, f"lost: {message}"
    for message, attempt_id in gateway.reportable():
        await gateway.receipts([(message, attempt_id, "delivered")])
    await check(gateway)
    pending = "SELECT FROM webhook_deliveries WHERE state = 'pending'"
    for _ in range(40):
        if not await gateway.base.database.fetch(pending):
            break
        await gateway.notify(0, {})
        await gateway.pass_time(100_000)
    await check(gateway)
    dead = await gateway.base.database.fetch("SELECT attempts, last_error FROM webhook_deliveries WHERE state = 'dead'")
    assert all(row["last_error"] in {"gone", "endpoint_disabled"} or row["attempts"] == 10 for row in dead), dead
