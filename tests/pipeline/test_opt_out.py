"""A provider says that the recipient opted out: the number is suppressed, and nothing else depends on that."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from service.domain.outcome import Rejected, Unknown
from service.errors import StoreOverloaded
from service.pipeline.deliver import Deliver
from service.pipeline.screen import Screen
from service.pipeline.submit import Submit
from service.storage.suppressions import SuppressionStore
from tests import rows
from tests.pipeline.world import World

NUMBER = "+15555550100"
OPTED_OUT = Rejected("opted_out", code="30")


class Full(SuppressionStore):
    async def opt_out(self, attempt_id: UUID) -> None:
        raise StoreOverloaded(f"no space for {attempt_id}")


async def _listed(world: World) -> list[tuple[str, str, str]]:
    found = await world.runtime.suppressions.page(world.client_id, limit=10)
    return [(row["number"], row["reason"], row["source"]) for row in found]


async def test_the_number_is_suppressed_for_the_client_that_sent(world: World) -> None:
    world.http.script("primary", OPTED_OUT)
    first = await world.send()
    assert await world.where(first) == ("failed", "opted_out")
    assert await _listed(world) == [(NUMBER, "opted_out", "provider:primary")]
    second = await world.send()
    assert await world.where(second) == ("failed", "suppressed")
    assert world.http.called() == ["primary"], "no provider is asked again, nor another one for the first"
    other = await rows.a_client(world.database, "other", world.runtime.keyring.seal("whsec_" + "c2VjcmV0" * 4))
    third = rows.a_message(other)
    await world.runtime.messages.add(third, None)
    await world.step()
    assert await world.where(third.id) == ("sent", None), "another client's recipients have not opted out"


async def test_it_counts_when_a_repeat_brings_it_to_light(world: World) -> None:
    world.http.script("primary", Unknown("http_500"), OPTED_OUT)
    message_id = await world.send("marketing")
    await world.again()
    assert await world.where(message_id) == ("failed", "opted_out")
    assert await _listed(world) == [(NUMBER, "opted_out", "provider:primary")]


async def test_another_rejection_suppresses_nothing(world: World) -> None:
    world.http.script("primary", Rejected("invalid_number"))
    await world.send()
    assert await _listed(world) == []


async def test_a_suppression_that_cannot_be_stored_loses_no_settlement(world: World) -> None:
    runtime = replace(world.runtime, suppressions=Full(world.database))
    world.deliver = Deliver(runtime, world.lease, Screen(runtime, world.lookup), Submit(runtime))
    world.http.script("primary", OPTED_OUT)
    message_id = await world.send()
    assert await world.where(message_id) == ("failed", "opted_out")
    assert await world.attempts(message_id) == [("primary", "rejected", False, 1)]
    assert len(await rows.webhooks(world.database, message_id)) == 1
    assert await _listed(world) == []
