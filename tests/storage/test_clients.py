from __future__ import annotations

from service.domain.ids import new_id
from service.domain.keyring import key_hash
from service.storage.clients import ClientStore
from tests.storage.conftest import Store


async def test_a_client_is_made_once_and_keeps_its_secret(store: Store) -> None:
    clients = ClientStore(store.database)
    first = await clients.ensure_client("bank", b"one")
    assert await clients.ensure_client("bank", b"two") == first
    assert first[1] == b"one"
    await clients.set_webhook_secret(first[0], b"three")
    assert await clients.ensure_client("bank", b"four") == (first[0], b"three")


async def test_a_key_says_who_calls_and_what_is_allowed(store: Store) -> None:
    clients = ClientStore(store.database)
    await clients.add_key(store.client_id, "sk_a-long-random-key", ["send", "read"])
    principal = (await clients.principals())[key_hash("sk_a-long-random-key")]
    assert (principal.client_id, principal.client) == (store.client_id, "shop")
    assert principal.scopes == {"send", "read"}
    assert (principal.require_idempotency_key, principal.senders, principal.countries) == (False, None, None)


async def test_a_client_may_be_bound_to_senders_and_countries(store: Store) -> None:
    clients = ClientStore(store.database)
    await clients.add_key(store.client_id, "sk_x", ["send"])
    await store.database.execute(
        "UPDATE clients SET senders = ARRAY['MyApp'], countries = ARRAY['US', 'GB'], require_idempotency_key = true"
    )
    [principal] = (await clients.principals()).values()
    assert principal.senders == frozenset({"MyApp"})
    assert principal.countries == frozenset({"US", "GB"})
    assert principal.require_idempotency_key


async def test_a_revoked_key_is_no_key(store: Store) -> None:
    clients = ClientStore(store.database)
    key_id = await clients.add_key(store.client_id, "sk_a-long-random-key", ["send"])
    assert await clients.revoke_key(key_id)
    assert not await clients.revoke_key(key_id)
    assert not await clients.revoke_key(new_id())
    assert await clients.principals() == {}
    [listed] = await clients.keys()
    assert (listed["client"], listed["hint"], listed["scopes"]) == ("shop", "sk_a-long-", ["send"])
    assert listed["revoked_at"] is not None


async def test_a_key_stored_twice_is_one_key(store: Store) -> None:
    clients = ClientStore(store.database)
    for _ in range(2):
        await clients.add_key(store.client_id, "sk_same", ["send"])
    assert len(await clients.keys()) == 1
