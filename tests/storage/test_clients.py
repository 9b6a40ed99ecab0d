from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from service.domain.ids import new_id
from service.domain.keyring import key_hash
from service.storage.audit import Actor, AuditLog, record
from service.storage.callers import Callers
from service.storage.clients import ClientChange, ClientStore, KeyTerms, Principal
from tests.storage.conftest import Store

BY = Actor("cli:ada", "req_1")
DAY = timedelta(days=1)


async def called(store: Store, api_key: str) -> Principal | None:
    """Who calls with that key."""
    return await Callers(store.database).of_key(key_hash(api_key))


async def test_a_client_is_made_once_and_keeps_its_secret(store: Store) -> None:
    clients = ClientStore(store.database)
    first = await clients.ensure_client("bank", b"one")
    assert await clients.ensure_client("bank", b"two") == first
    assert first[1] == b"one"
    await clients.set_webhook_secret(first[0], b"three")
    assert await clients.ensure_client("bank", b"four") == (first[0], b"three")


async def test_a_key_says_who_calls_and_what_is_allowed(store: Store) -> None:
    clients = ClientStore(store.database)
    await clients.add_key(store.client_id, "sk_a-long-random-key", KeyTerms(["send", "read"]))
    principal = await called(store, "sk_a-long-random-key")
    assert principal is not None
    assert (principal.client_id, principal.client) == (store.client_id, "shop")
    assert principal.scopes == {"send", "read"}
    assert principal.actor.startswith("key:")
    assert (principal.require_idempotency_key, principal.senders, principal.countries) == (False, None, None)


async def test_a_client_may_be_bound_to_senders_and_countries(store: Store) -> None:
    clients = ClientStore(store.database)
    await clients.add_key(store.client_id, "sk_x", KeyTerms(["send"]))
    await store.database.execute(
        "UPDATE clients SET senders = ARRAY['MyApp'], countries = ARRAY['US', 'GB'], require_idempotency_key = true"
    )
    principal = await called(store, "sk_x")
    assert principal is not None
    assert principal.senders == frozenset({"MyApp"})
    assert principal.countries == frozenset({"US", "GB"})
    assert principal.require_idempotency_key


async def test_a_revoked_key_is_no_key(store: Store) -> None:
    clients = ClientStore(store.database)
    key_id = await clients.add_key(store.client_id, "sk_a-long-random-key", KeyTerms(["send"]))
    assert await clients.revoke_key(key_id)
    assert not await clients.revoke_key(key_id)
    assert not await clients.revoke_key(new_id())
    assert await called(store, "sk_a-long-random-key") is None
    [listed] = await clients.keys(UUID(int=0), 500)
    assert (listed["client"], listed["hint"], listed["scopes"]) == ("shop", "sk_a-long-", ["send"])
    assert listed["revoked_at"] is not None


async def test_a_key_stored_twice_is_one_key(store: Store) -> None:
    clients = ClientStore(store.database)
    for _ in range(2):
        await clients.add_key(store.client_id, "sk_same", KeyTerms(["send"]))
    assert len(await clients.keys(UUID(int=0), 500)) == 1


async def test_a_key_with_an_end_is_no_key_after_it(store: Store) -> None:
    clients = ClientStore(store.database)
    await clients.add_key(store.client_id, "sk_short", KeyTerms(["send"], lasts=timedelta(hours=1)))
    principal = await called(store, "sk_short")
    assert principal is not None
    assert principal.expires_at is not None
    assert timedelta(minutes=59) < principal.expires_at - datetime.now(UTC) <= timedelta(hours=1)
    await store.database.execute("UPDATE api_keys SET expires_at = now()")
    assert await called(store, "sk_short") is None


async def test_a_rotated_key_works_until_the_overlap_ends(store: Store) -> None:
    clients = ClientStore(store.database)
    terms = KeyTerms(["send"], senders=["MyApp"], countries=["US"], lasts=90 * DAY)
    old = await clients.add_key(store.client_id, "sk_old", terms)
    made = await clients.rotate_key(old, "sk_new", overlap=DAY)
    assert made is not None
    first, second = await called(store, "sk_old"), await called(store, "sk_new")
    assert first is not None
    assert second is not None
    assert (second.scopes, second.senders, second.countries) == (first.scopes, first.senders, first.countries)
    assert (first.expires_at, second.expires_at) == (made.old_expires_at, made.expires_at)
    assert made.expires_at is not None
    assert timedelta(0) < made.old_expires_at - datetime.now(UTC) <= DAY
    assert 89 * DAY < made.expires_at - datetime.now(UTC) <= 90 * DAY


async def test_a_rotation_without_overlap_ends_the_key_at_once_and_never_lengthens_its_life(store: Store) -> None:
    clients = ClientStore(store.database)
    old = await clients.add_key(store.client_id, "sk_old", KeyTerms(["send"], lasts=timedelta(hours=1)))
    made = await clients.rotate_key(old, "sk_new", overlap=DAY, lasts=2 * DAY)
    assert made is not None
    assert made.old_expires_at - datetime.now(UTC) <= timedelta(hours=1)
    last = await clients.rotate_key(made.key_id, "sk_last", overlap=timedelta(0))
    assert last is not None
    known = {key: await called(store, key) is not None for key in ("sk_old", "sk_new", "sk_last")}
    assert known == {"sk_old": True, "sk_new": False, "sk_last": True}
    assert last.expires_at is not None
    assert last.expires_at - datetime.now(UTC) > DAY
    assert await clients.rotate_key(made.key_id, "sk_none", overlap=DAY) is None
    assert await clients.rotate_key(new_id(), "sk_none", overlap=DAY) is None


async def test_the_last_use_is_written_once_though_many_processes_note_it(store: Store) -> None:
    clients = ClientStore(store.database)
    await clients.add_key(store.client_id, "sk_a", KeyTerms(["send"]))
    await clients.add_key(store.client_id, "sk_b", KeyTerms(["send"]))
    used = []
    for _ in range(2):
        await Callers(store.database).note_use([key_hash("sk_a")])
        used.append([key["last_used_at"] for key in await clients.keys(UUID(int=0), 500)])
    assert used[0] == used[1]
    assert used[0][0] is not None
    assert used[0][1] is None


async def test_lists_of_a_client_are_set_and_taken_back(store: Store) -> None:
    clients = ClientStore(store.database)
    assert not await clients.set_client("nobody", ClientChange())

    async def changed(**change: object) -> tuple[object, ...]:
        assert await clients.set_client("shop", ClientChange(**change))  # type: ignore[arg-type]
        [row] = await clients.clients("", 500)
        return row["senders"], row["countries"], row["special_rates"], row["require_idempotency_key"]

    assert await changed(senders=["MyApp"], special_rates=True) == (["MyApp"], None, True, False)
    assert await changed(countries=["US"], require_idempotency_key=True) == (["MyApp"], ["US"], True, True)
    assert await changed(senders=[], special_rates=False) == (None, ["US"], False, True)


async def test_every_act_is_noted_with_who_did_it_and_without_secrets(store: Store) -> None:
    clients, log = ClientStore(store.database), AuditLog(store.database)
    newest = [entry["id"] for entry in await log.entries(limit=1)]
    client_id, _ = await clients.ensure_client("bank", b"sealed", BY)
    await clients.ensure_client("bank", b"sealed", BY)
    await clients.set_webhook_secret(client_id, b"other", BY)
    await clients.set_client("bank", ClientChange(countries=["DE"]), BY)
    await clients.set_client("nobody", ClientChange(countries=["DE"]), BY)
    old = await clients.add_key(client_id, "sk_first-secret", KeyTerms(["send"], lasts=DAY), BY)
    await clients.add_key(client_id, "sk_first-secret", KeyTerms(["send"]), BY)
    made = await clients.rotate_key(old, "sk_second-secret", overlap=DAY, by=BY)
    assert made is not None
    await clients.revoke_key(old, BY)
    await clients.revoke_key(old, BY)
    entries = [entry for entry in await log.entries(limit=50) if [entry["id"]] > newest]
    assert [(entry["action"], entry["object"]) for entry in reversed(entries)] == [
        ("client.create", "client:bank"),
        ("client.set_webhook_secret", "client:bank"),
        ("client.set", "client:bank"),
        ("key.create", f"key:{old}"),
        ("key.rotate", f"key:{old}"),
        ("key.revoke", f"key:{old}"),
    ]
    assert {(entry["actor"], entry["request_id"]) for entry in entries} == {("cli:ada", "req_1")}
    details = {entry["action"]: json.loads(entry["details"]) for entry in entries}
    assert details["client.set"] == {"countries": ["DE"]}
    assert details["key.create"] == {"client": "bank", "scopes": ["send"], "lasts": 1.0}
    assert details["key.rotate"]["successor"] == str(made.key_id)
    assert not any(secret in json.dumps(details) for secret in ("sk_", "first-secret", "second-secret", "sealed"))


@pytest.mark.parametrize("change", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"])
async def test_the_audit_log_is_only_added_to(store: Store, change: str) -> None:
    async with store.database.writing() as connection:
        with pytest.raises(asyncpg.RaiseError, match="only added to"):
            await connection.execute(change)


async def test_what_did_not_happen_is_not_noted(store: Store) -> None:
    log = AuditLog(store.database)
    before = await log.entries(limit=1)
    async with store.database.writing() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await record(connection, BY, "client.create", "client:none")
        await transaction.rollback()
    async with store.database.writing() as connection:
        with pytest.raises(AssertionError):
            await record(connection, BY, "client.create", "client:none")
    assert await log.entries(limit=1) == before
