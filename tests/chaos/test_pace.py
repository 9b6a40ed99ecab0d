"""The providers of a round that is far away stay far away, whatever happens to them."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from tests.chaos.config import PROVIDERS_OF_THE_WORLD, VARIANTS, config_of, far_away
from tests.chaos.processes import free_port
from tests.chaos.stage import Provider


async def plan_of(provider: Provider) -> dict[str, object]:
    async with aiohttp.ClientSession() as http, http.get(f"{provider.control_url}/faults") as answer:
        plan: dict[str, object] = await answer.json()
        return plan


async def test_a_provider_keeps_its_pace_over_faults_and_restarts(tmp_path: Path) -> None:
    provider = Provider("primary", free_port(set(), 10), tmp_path)
    provider.pace = PROVIDERS_OF_THE_WORLD
    await provider.start()
    try:
        assert await plan_of(provider) == {"fault": "none", "rate": 1.0, **PROVIDERS_OF_THE_WORLD}
        await provider.fault("error", rate=0.5)
        assert await plan_of(provider) == {"fault": "error", "rate": 0.5, **PROVIDERS_OF_THE_WORLD}
        await provider.restart()
        assert await plan_of(provider) == {"fault": "none", "rate": 1.0, **PROVIDERS_OF_THE_WORLD}
    finally:
        await provider.kill()


def test_a_third_of_the_rounds_of_each_variant_are_far_away() -> None:
    for variant in VARIANTS:
        away = [far_away(seed) for seed in range(15_000, 15_090) if config_of(seed) == variant]
        assert (len(away), sum(away)) == (30, 10)
