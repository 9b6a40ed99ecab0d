from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from service.metrics import Metrics
from service.pipeline.loop_watch import LoopWatch, watching


class Clocks:
    """Time that passes, and the part of it that the thread computed, as a test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.computed_s = 3.0

    def now(self) -> float:
        return self.now_s

    def computed(self) -> float:
        return self.computed_s

    def pass_s(self, seconds: float, computed_s: float = 0.0) -> None:
        self.now_s += seconds
        self.computed_s += computed_s


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def watch(metrics: Metrics, clocks: Clocks) -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(metrics, clock=clocks.now, computed=clocks.computed)
    watch.tick()
    yield watch
    watch.stop()


def lag(metrics: Metrics, what: str = "sum", **labels: str) -> float:
    value = metrics.registry.get_sample_value(f"sms_gateway_loop_lag_seconds_{what}", labels)
    assert value is not None
    return value


async def test_a_call_in_time_is_no_lag(watch: LoopWatch, metrics: Metrics, clocks: Clocks) -> None:
    clocks.pass_s(0.025)
    watch.tick()
    assert lag(metrics, "count") == 2
    assert lag(metrics) == pytest.approx(0, abs=1e-9)


async def test_what_is_over_the_interval_is_the_lag(
    watch: LoopWatch, metrics: Metrics, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.pass_s(0.025 + 0.03)
    watch.tick()
    assert lag(metrics) == pytest.approx(0.03)
    assert lag(metrics, "bucket", le="0.02") == lag(metrics, "count") - 1
    assert caplog.records == []


async def test_over_50_ms_the_log_tells_how_much_of_it_was_our_own_computing(
    watch: LoopWatch, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.pass_s(0.005, computed_s=0.005)
    clocks.pass_s(0.085, computed_s=0.02)
    watch.tick()
    [record] = caplog.records
    assert (record.message, vars(record)["ms"], vars(record)["computed_ms"]) == ("the event loop was held up", 65, 25)
    clocks.pass_s(0.025)
    watch.tick()
    assert len(caplog.records) == 1, "a gap is told once"


async def test_what_holds_the_loop_is_seen(metrics: Metrics) -> None:
    async with watching(metrics):
        await until_seen(metrics, 3)
        before, seen = lag(metrics), lag(metrics, "count")
        time.sleep(0.1)  # noqa: ASYNC251 - it holds the loop, which is the point
        await until_seen(metrics, seen + 1)
    assert lag(metrics) - before >= 0.07
    ended = lag(metrics, "count")
    await asyncio.sleep(0.06)
    assert lag(metrics, "count") == ended, "it ends with its body"


async def until_seen(metrics: Metrics, times: float) -> None:
    async with asyncio.timeout(60):
        while True:
            if lag(metrics, "count") >= times:
                return
            await asyncio.sleep(0.001)
