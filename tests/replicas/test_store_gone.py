"""PostgreSQL goes away, or becomes read-only, under light traffic: 503 in time, and on by itself afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import pytest

from tests.chaos.stage import Stage
from tests.replicas.proof import assert_delivered_once, until
from tests.replicas.traffic import repeat_unanswered, traffic

ANSWERED_WITHIN_S: Final = 10.0
ON_AGAIN_WITHIN_S: Final = 10.0
REFUSED: Final = 60
"""So many 503s are waited for before the store comes back: three seconds of traffic at least."""


@asynccontextmanager
async def killed(stage: Stage) -> AsyncIterator[None]:
    await stage.postgres.kill()
    try:
        yield
    finally:
        await stage.postgres.start()


@asynccontextmanager
async def read_only(stage: Stage) -> AsyncIterator[None]:
    """As after a failover: every connection is cut, and who connects again finds a server that takes no writes."""
    [row] = await stage.fetch("SELECT current_database() AS name")
    await stage.execute(f"ALTER DATABASE {row['name']} SET default_transaction_read_only = on")
    await stage.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    try:
        yield
    finally:
        async with stage.connection() as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f"ALTER DATABASE {row['name']} RESET default_transaction_read_only")


@pytest.mark.parametrize("gone", [killed, read_only])
async def test_every_caller_is_answered_in_time_and_all_goes_on_by_itself(
    stage: Stage, gone: Callable[[Stage], AbstractAsyncContextManager[None]]
) -> None:
    async with traffic(stage) as seen:
        await until(lambda: seen.ok_in_a_row() >= 20)
        async with gone(stage):
            await until(lambda: seen.count(503) >= REFUSED)
        await until(lambda: seen.ok_in_a_row() >= 40, ON_AGAIN_WITHIN_S)
    assert {reply.status for reply in seen.replies} == {200, 503}
    assert max(reply.after_s for reply in seen.replies) <= ANSWERED_WITHIN_S
    assert all(int(reply.retry_after or 0) >= 1 for reply in seen.replies if reply.status == 503)
    await repeat_unanswered(stage, seen)
    await assert_delivered_once(stage, seen.reference, seen.message_ids, within_s=30)
    assert all(command.running for command in stage.commands)
