"""A bounded run of `scripts/fuzz`: no 5xx, and every answer as the document says."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI

from tests.fuzz import fuzz, fuzz_a_world
from tests.gateway import migrated_database, serve


async def test_every_answer_is_as_documented(postgres: str, template: str, tmp_path: Path) -> None:
    async with migrated_database(postgres, template) as dsn:
        fuzzed = await fuzz_a_world(dsn, tmp_path, examples=30)
    assert fuzzed.passed, fuzzed.output
    assert fuzzed.cases > 1_000, fuzzed.output


async def test_an_answer_that_is_not_as_documented_is_found() -> None:
    app = FastAPI()

    @app.get("/broken")
    async def broken() -> int:
        return "no number"  # type: ignore[return-value]

    async with serve(app) as url:
        fuzzed = await fuzz(url, "key", "token", examples=1)
    assert not fuzzed.passed
    assert "Server error" in fuzzed.output
