"""The failover's own judgement, on made-up seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from tests.chaos.failover import Failover
from tests.chaos.rounds import Report

_DRIFT: Final = {second: (2 * (second - 15), 100 - 2 * (second - 15)) for second in range(16, 58)}
"""From nothing to four fifths in 42 s."""
_AS_PROMISED: Final = Failover(
    report=Report(1, 8000, 1),
    shares={-1: (100, 0), **dict.fromkeys(range(16), (0, 100)), **_DRIFT},
    accepted=dict.fromkeys(range(58), 100),
    rate=100,
    carried=400,
    strays=0,
    late=(),
    back_s=7.2,
)


def test_traffic_that_drifts_back_is_as_promised() -> None:
    assert _AS_PROMISED.broken() == []
    assert len(_AS_PROMISED.spans) == 4


def _with(changed: Mapping[int, tuple[int, int]]) -> Failover:
    return replace(_AS_PROMISED, shares={**_AS_PROMISED.shares, **changed})


@pytest.mark.parametrize(
    ("failover", "sentence"),
    [
        (replace(_AS_PROMISED, carried=0), "nothing failed over"),
        (replace(_AS_PROMISED, strays=1), "1 messages were tried and did not go out"),
        (replace(_AS_PROMISED, late=("msg_1",)), "late: msg_1"),
        (_with(dict.fromkeys(_DRIFT, (0, 100))), "no traffic after its return"),
        (_with({17: (90, 10)}), "traffic jumped back: 90 to 10 in second 17"),
        (_with(dict.fromkeys(range(36, 46), (10, 90))), "share fell from 31% to 10%"),
        (_with(dict.fromkeys(range(16, 58), (10, 90))), "share does not grow"),
    ],
)
def test_everything_else_is_found(failover: Failover, sentence: str) -> None:
    assert [line for line in failover.broken() if sentence in line]
