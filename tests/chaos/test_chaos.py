"""A bounded run of the chaos suite. `scripts/chaos --rounds N` is the long one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.config import config_of
from tests.chaos.conftest import InTime
from tests.chaos.failover import FAILOVER_CONFIG, failover
from tests.chaos.faults import FAULTS
from tests.chaos.rounds import LOAD_S, Theatre, a_theatre, at_random, play
from tests.chaos.sabotage import SABOTAGES, provoked
from tests.chaos.scene import Scene

_ROUNDS = 2
_SHORT_DRAIN_S = 6.0
"""A broken promise shows long before all is drained."""


@pytest.fixture(scope="module")
async def theatre(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    async with a_theatre(tmp_path_factory.mktemp("theatre"), cluster) as theatre:
        yield theatre


@pytest.mark.parametrize("number", range(_ROUNDS))
async def test_nothing_is_lost_doubled_or_missed_whatever_fails(theatre: Theatre, number: int, in_time: InTime) -> None:
    """The rounds have all faults between them, and providers with and without idempotency keys."""
    async with in_time(theatre.stage.folder):
        await theatre.stage.change(config_of(number))
        await theatre.move(away=number == 0)
        report = await play(theatre, seed=number, plot=at_random(sorted(FAULTS)[number::_ROUNDS], LOAD_S))

    assert report.findings.lines() == [], theatre.stage.logs()
    assert report.messages > 100


@pytest.mark.parametrize(
    ("sabotage", "sentences"),
    [
        ("async-commit", ["was answered 200 and is not in the database"]),
        ("ack-before-commit", ["was answered 200 and is not in the database"]),
        ("no-lease", ["was accepted under"]),
        ("no-drain", [": 500 ", "abandoned"]),
        (
            "early-fail",
            [
                "before its validity was over",
                "(refused_by_providers), which nothing excuses",
                "(no_route), which nothing excuses",
            ],
        ),
        ("resend", ["was accepted under"]),
    ],
)
async def test_a_broken_promise_is_found(
    sabotage: str, sentences: list[str], cluster: Path, tmp_path: Path, in_time: InTime
) -> None:
    async with in_time(tmp_path), provoked(sabotage, tmp_path, cluster) as (theatre, plot):
        report = await play(theatre, seed=1, plot=plot, load_s=None, drained_within_s=_SHORT_DRAIN_S)

    broken = report.findings.broken()
    assert [sentence for sentence in sentences if not any(sentence in line for line in broken)] == [], broken


async def test_what_brings_broken_promises_to_light_does_no_harm_to_kept_ones(
    theatre: Theatre, in_time: InTime
) -> None:
    """The same plots and load as above, at once and with no sabotage; but SIGTERM is in the rounds.

    It is drained to the end, which takes a slow machine longer: on the way to it nothing can be told from a loss.
    """

    async def all_of_it(scene: Scene) -> None:
        await asyncio.gather(*(one.plot(scene) for name, one in SABOTAGES.items() if name != "no-drain"))

    async with in_time(theatre.stage.folder):
        report = await play(theatre, 1, all_of_it, load_s=None)

    assert report.findings.lines() == [], theatre.stage.logs()


async def test_a_killed_primary_is_replaced_at_once_and_comes_back(
    cluster: Path, tmp_path: Path, in_time: InTime
) -> None:
    async with in_time(tmp_path), a_theatre(tmp_path, cluster, config=FAILOVER_CONFIG) as theatre:
        result = await failover(theatre, seed=1, rate=200, watch_s=5)

    print(*result.lines(), sep="\n")  # noqa: T201 - the figures, with `pytest -s`
    assert result.report.findings.lines() == [], theatre.stage.logs()
    assert result.broken() == []
