"""Providers that an operator has paused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.errors import StoreOverloaded
from service.storage.audit import GATEWAY
from tests.gateway import unreachable
from tests.pipeline.world import World


@pytest.fixture
async def paused(world: World) -> AsyncIterator[World]:
    """A world in which `primary` is paused."""
    await world.runtime.pauses.pause("primary", "maintenance", GATEWAY)
    await world.submit.health.follow_pauses()
    yield world
    await world.database.execute("DELETE FROM provider_pauses")


@pytest.mark.parametrize("traffic", ["otp", "transactional"])
async def test_a_paused_provider_gets_nothing_and_the_next_one_of_the_route_does(paused: World, traffic: str) -> None:
    message_id = await paused.send(traffic)
    assert paused.http.called() == ["fallback"]
    assert (await paused.message(message_id))["status"] == "sent"
    assert paused.runtime.metrics.paused.labels("primary")._value.get() == 1  # noqa: SLF001 - what would be scraped


async def test_after_the_resumption_it_is_first_again(paused: World) -> None:
    await paused.runtime.pauses.resume("primary", GATEWAY)
    await paused.submit.health.follow_pauses()
    await paused.send()
    assert paused.http.called() == ["primary"]


async def test_messages_wait_where_every_provider_is_paused(paused: World) -> None:
    await paused.runtime.pauses.pause("fallback", "maintenance", GATEWAY)
    await paused.submit.health.follow_pauses()
    message_id = await paused.send()
    assert paused.http.called() == []
    assert await paused.where(message_id) == ("queued", "no_provider_available")
    await paused.runtime.pauses.resume("fallback", GATEWAY)
    await paused.submit.health.follow_pauses()
    await paused.again()
    assert paused.http.called() == ["fallback"]


async def test_pauses_hold_while_the_database_is_away(paused: World, postgres: str) -> None:
    async with unreachable(postgres, str(paused.runtime.settings.environment.database_url)):
        with pytest.raises(StoreOverloaded):
            await paused.submit.health.follow_pauses()
    await paused.send()
    assert paused.http.called() == ["fallback"]
