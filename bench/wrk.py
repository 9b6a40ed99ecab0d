"""The load of `bench.load` made by wrk, which takes a tenth of the CPU; without wrk, by `bench.load` itself."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench import load
from bench.load import Plan, Result

WRK = shutil.which("wrk")
_SCRIPT = Path(__file__).with_suffix(".lua")


async def measure(plan: Plan) -> Result:
    """Run a plan as fast as it goes: a GET where its body is empty. `statuses` are `2xx` and `other`."""
    if WRK is None:
        return await load.measure(plan)
    target = urlsplit(plan.url)
    environment = {
        "WRK_METHOD": "POST" if plan.body else "GET",
        "WRK_PATH": target.path + (f"?{target.query}" if target.query else ""),
        "WRK_HEADERS": "\n".join(f"{name}: {value}" for name, value in _headers(plan).items()),
        "WRK_BODY": plan.body,
        "WRK_FIRST": str(time.time_ns()),
    }
    began_s, cpu_s = time.perf_counter(), _cpu_s()
    process = await asyncio.create_subprocess_exec(
        WRK, "-t1", f"-c{plan.connections}", f"-d{plan.seconds:.0f}s", "-s", _SCRIPT, f"http://{target.netloc}",
        env=os.environ | environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    said = json.loads(output.splitlines()[-1])
    bad = said["refused"] + said["broken"]
    return Result(
        rate=said["requests"] / said["took_s"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        statuses={"2xx": said["requests"] - said["refused"]} | ({"other": bad} if bad else {}),
        cpu=(_cpu_s() - cpu_s) / (time.perf_counter() - began_s),
    )


def _headers(plan: Plan) -> dict[str, str]:
    return plan.headers | ({"Content-Type": "application/json"} if plan.body else {})


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def measure_all(plans: list[Plan]) -> Result:
    """Run plans at once, as one load: the rates add up, and the worst p99 is everybody's."""
    results = await asyncio.gather(*(measure(plan) for plan in plans))
    return Result(
        rate=sum(result.rate for result in results),
        p50_ms=sum(result.p50_ms for result in results) / len(results),
        p99_ms=max(result.p99_ms for result in results),
        statuses={status: count for result in results for status, count in result.statuses.items()},
        cpu=max(result.cpu for result in results),
    )
