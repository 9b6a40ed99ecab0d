from __future__ import annotations

from service.storage.audit import Actor, AuditLog
from service.storage.pauses import PauseStore
from tests.storage.conftest import Store

BY = Actor("cli:ada")


async def test_a_pause_holds_until_it_is_taken_back(store: Store) -> None:
    pauses = PauseStore(store.database)
    await pauses.pause("held", "maintenance", BY)
    first = (await pauses.pauses())["held"]
    await pauses.pause("held", "still maintenance", Actor("cli:bob"))
    second = (await pauses.pauses())["held"]
    assert (first.reason, first.paused_by) == ("maintenance", "cli:ada")
    assert (second.reason, second.paused_by, second.paused_at) == ("still maintenance", "cli:bob", first.paused_at)
    assert await pauses.resume("held", BY)
    assert not await pauses.resume("held", BY)
    assert "held" not in await pauses.pauses()
    entries = await AuditLog(store.database).entries(limit=3)
    assert [(entry["action"], entry["actor"]) for entry in entries] == [
        ("provider.resume", "cli:ada"),
        ("provider.pause", "cli:bob"),
        ("provider.pause", "cli:ada"),
    ]
    assert {entry["object"] for entry in entries} == {"provider:held"}


async def test_calls_under_way_are_those_without_an_outcome(store: Store) -> None:
    pauses, worker_id = PauseStore(store.database), await store.worker()
    for provider in ("primary", "primary", "fallback"):
        await store.begin(worker_id, await store.claimed(worker_id), provider)
    await store.claimed(worker_id)
    assert await pauses.under_way() == {"primary": 2, "fallback": 1}
    await store.database.execute("UPDATE attempts SET outcome = 'accepted' WHERE provider = 'primary'")
    assert await pauses.under_way() == {"fallback": 1}
