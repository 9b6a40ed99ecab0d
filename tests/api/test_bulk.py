from __future__ import annotations

from typing import Any

import pytest

from service.api.message_models import MessageReply
from service.api.models import Accepted, BatchReply, BulkReply, Rejected
from service.runtime import Runtime
from tests.api.client import BRITISH, NUMBER, GatewayClient, bulk_body, problem
from tests.gateway import make_key


async def test_bad_numbers_do_not_sink_the_good_ones(api: GatewayClient) -> None:
    response = await api.bulk(bulk_body(NUMBER, "nonsense", BRITISH, NUMBER, 17, "+1555"))
    assert response.status_code == 200
    reply = BulkReply.model_validate_json(response.content)
    assert (reply.accepted, reply.rejected) == (2, 4)
    assert [_shown(result) for result in reply.results] == [
        (NUMBER, None),
        ("nonsense", "number_missing_plus"),
        (BRITISH, None),
        (NUMBER, "duplicate_recipient"),
        (None, "invalid_number"),
        ("+1555", "number_too_short"),
    ]


async def test_every_accepted_recipient_has_a_message_of_the_batch(api: GatewayClient) -> None:
    reply = (await api.bulk(bulk_body(NUMBER, BRITISH, reference="spring"))).json()
    for result in reply["results"]:
        response = await api.http.get(f"/v1/messages/{result['message_id']}")
        message = MessageReply.model_validate_json(response.content)
        assert (message.to, message.batch_id, message.reference) == (result["to"], reply["batch_id"], "spring")


async def test_a_batch_is_done_when_its_messages_have_ended(api: GatewayClient, runtime: Runtime) -> None:
    bulk = (await api.bulk(bulk_body(NUMBER, BRITISH, "nonsense"))).json()
    before = await _batch(api, bulk["batch_id"])
    assert (before.accepted, before.rejected, before.done) == (2, 1, False)
    assert {status.value: count for status, count in before.counts.items() if count} == {"queued": 2}
    await runtime.database.execute("UPDATE messages SET status = 'delivered' WHERE recipient = $1", NUMBER)
    await runtime.database.execute("UPDATE messages SET status = 'failed' WHERE recipient = $1", BRITISH)
    after = await _batch(api, bulk["batch_id"])
    assert after.done
    assert {status.value: count for status, count in after.counts.items() if count} == {"delivered": 1, "failed": 1}


async def test_a_bulk_of_several_chunks_is_stored_whole(api: GatewayClient) -> None:
    numbers = [f"+1555555{number:04}" for number in range(1200)]
    bulk = (await api.bulk(bulk_body(*numbers))).json()
    assert [result["to"] for result in bulk["results"]] == numbers
    assert (await _batch(api, bulk["batch_id"])).counts["queued"] == 1200  # type: ignore[index]


@pytest.mark.parametrize("batch_id", ["bat_" + "0" * 32, "nonsense", "msg_" + "0" * 32])
async def test_an_unknown_batch_is_a_404(api: GatewayClient, batch_id: str) -> None:
    assert problem(await api.http.get(f"/v1/batches/{batch_id}"), 404).code == "batch_not_found"


async def test_the_batch_of_another_client_is_a_404(api: GatewayClient, runtime: Runtime) -> None:
    bulk = (await api.bulk(bulk_body(NUMBER))).json()
    stranger = {"Authorization": f"Bearer {await make_key(runtime, 'read', client='stranger')}"}
    response = await api.http.get(f"/v1/batches/{bulk['batch_id']}", headers=stranger)
    assert problem(response, 404).code == "batch_not_found"


def _shown(result: Accepted | Rejected) -> tuple[Any, Any]:
    return result.to, result.error.code if isinstance(result, Rejected) else None


async def _batch(api: GatewayClient, batch_id: str) -> BatchReply:
    response = await api.http.get(f"/v1/batches/{batch_id}")
    assert response.status_code == 200, response.text
    return BatchReply.model_validate_json(response.content)
