"""A real Prometheus that scrapes real processes."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from tests.chaos.processes import free_port
from tests.observability.monitoring import ROOT

NAMESPACE: Final = "sms"
_UP_WITHIN_S: Final = 40.0


def needed(program: str) -> str:
    """The path of a program of the Debian package `prometheus`; the test is skipped where there is none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install prometheus")
    return found


def rule_file() -> str:
    """What scripts/prometheus-rules prints."""
    return subprocess.run([ROOT / "scripts" / "prometheus-rules"], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer, and its newest value."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """Asks a Prometheus over its HTTP API."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str, **parameters: str) -> Any:
        """What it answers.

        Raises:
            AssertionError: an error, for example in a query.
        """
        answer = (await self._http.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", (answer, parameters)
        return answer["data"]

    async def query(self, expr: str) -> list[Series]:
        """The series of a query, without those that are no numbers (a quantile of nothing)."""
        answer = await self.get("query", query=expr)
        if answer["resultType"] == "scalar":
            return [Series({}, float(answer["result"][1]))]
        found = [Series(one["metric"], float(one["value"][1])) for one in answer["result"]]
        return [series for series in found if not math.isnan(series.value)]

    async def number(self, expr: str) -> float:
        """The value of a query that has one series; 0 where it has none."""
        found = await self.query(expr)
        assert len(found) <= 1, found
        return found[0].value if found else 0.0


@asynccontextmanager
async def prometheus(folder: Path, targets: Sequence[str]) -> AsyncIterator[Prometheus]:
    """One that scrapes the `targets` (host:port) every second and knows our rules."""
    program, address = needed("prometheus"), f"127.0.0.1:{free_port(set())}"
    (folder / "rules.yml").write_text(rule_file())
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    scraped = {"targets": list(targets), "labels": {"namespace": NAMESPACE}}
    jobs = [{"job_name": "sms-gateway", "static_configs": [scraped]}]
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": every, "rule_files": ["rules.yml"], "scrape_configs": jobs}))
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
            stdout=output,
            stderr=output,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as http:
            await _until_ready(http, process, log)
            yield Prometheus(http)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(http: httpx.AsyncClient, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(_UP_WITHIN_S):
        while True:
            if process.returncode is not None:
                raise AssertionError(await asyncio.to_thread(log.read_text))
            try:
                if (await http.get("/-/ready")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
