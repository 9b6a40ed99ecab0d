"""A bounded run of `scripts/fuzz`: no 5xx, and every answer as the document says."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from tests.fuzz import every_phase, fuzz, fuzz_a_world, stateful
from tests.gateway import migrated_database, serve


async def test_every_answer_is_as_documented(postgres: str, template: str, tmp_path: Path) -> None:
    async with migrated_database(postgres, template) as dsn:
        fuzzed = await fuzz_a_world(dsn, tmp_path, every_phase(30))
    assert fuzzed.passed, fuzzed.output
    assert fuzzed.cases > 1_000, fuzzed.output


# Each can only succeed with an id out of an earlier answer.
BEHIND_LINKS = {
    "GET /v1/messages/{message_id}",
    "GET /v1/batches/{batch_id}",
    "GET /v1/webhooks/{endpoint_id}",
    "PATCH /v1/webhooks/{endpoint_id}",
    "POST /v1/webhooks/{endpoint_id}/rotate",
    "GET /v1/webhooks/{endpoint_id}/deliveries",
    "DELETE /v1/webhooks/{endpoint_id}",
}


async def test_every_answer_on_the_way_from_operation_to_operation_is_as_documented(
    postgres: str, template: str, tmp_path: Path
) -> None:
    reached: set[str] = set()
    for run in range(12):  # how far ten seconds lead depends on chance and on the machine
        (folder := tmp_path / str(run)).mkdir()
        # A database of its own: a run leaves messages and webhooks behind that would be delivered first.
        async with migrated_database(postgres, template) as dsn:
            fuzzed = await fuzz_a_world(dsn, folder, stateful(10), seed=run + 1)
        assert fuzzed.passed, fuzzed.output
        reached |= fuzzed.succeeded
        if reached >= BEHIND_LINKS:
            return
    raise AssertionError(f"never reached: {BEHIND_LINKS - reached}")


async def test_an_answer_that_is_not_as_documented_is_found() -> None:
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> int:
        return "no number"  # type: ignore[return-value]

    async with serve(app) as url:
        fuzzed = await fuzz(url, "key", "token", every_phase(1))
    assert not fuzzed.passed
    assert "Server error" in fuzzed.output
