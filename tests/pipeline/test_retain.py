"""Recovery's rounds remove what is past its time."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from service.domain.ids import smallest_at
from service.pipeline.notify import Notify
from service.pipeline.recover import Recover
from tests.pipeline.world import World


async def test_a_round_purges_texts_drops_old_months_and_makes_new_ones(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    database, this_month = world.database, f"{datetime.now(UTC):%Y_%m}"
    old = await world.accept(id=UUID(int=smallest_at(datetime(2024, 5, 17, tzinfo=UTC)).int + 1))
    late = await world.accept()
    await database.execute(
        "UPDATE messages SET status = 'delivered', due_at = NULL, ended_at = now() - interval '8 days' WHERE id <> $1",
        old,
    )
    await database.execute("UPDATE messages SET status = 'failed', due_at = NULL, ended_at = now() WHERE id = $1", old)
    await database.execute("SELECT make_partition('messages', '2024-05-01')")
    await database.execute(f"DROP TABLE batches_{this_month}")
    recover = Recover(world.runtime, world.lease, world.deliver, world.receive, Notify(world.runtime, world.lease))
    for _ in range(2):
        await recover.tidy_round()
    assert [dict(row) for row in await database.fetch("SELECT id, body FROM messages")] == [{"id": late, "body": None}]
    assert await database.fetch("SELECT FROM pg_class WHERE relname = $1", f"batches_{this_month}")
    [told] = [record for record in caplog.records if record.message == "dropped a partition"]
    assert told.__dict__["partition"] == "messages_2024_05"
    errors = world.runtime.metrics.registry.get_sample_value("sms_gateway_worker_errors_total", {"task": "recover"})
    assert not errors
