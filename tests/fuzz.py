"""Fuzzing of a whole gateway by what its OpenAPI document says: `scripts/fuzz --cases 20000 [--stateful]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Network
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from service.runtime import Runtime
from tests.gateway import make_key, migrated_database, migrated_template
from tests.journeys.world import a_world
from tests.postgres import postgres_for_tests

_SETTINGS: Final = Path(__file__).with_name("schemathesis.toml")
# Made-up URLs are registered and called: nothing but this machine may be reached.
_ELSEWHERE: Final = ["::/0", *map(str, IPv4Network("0.0.0.0/0").address_exclude(IPv4Network("127.0.0.0/8")))]
# Receipts of `fallback` are not signed, so that made-up ones are read.
_CONFIG: Final = f"""
providers:
  primary: {{{{adapter: smsroute, base_url: "{{primary}}", api_key: key, webhook_secret: "{{secret}}", timeout_s: 1}}}}
  fallback: {{{{adapter: smsroute, base_url: "{{fallback}}", api_key: key, timeout_s: 1}}}}
senders:
  MyAppOTP: {{{{traffic: otp}}}}
  MyApp: {{{{traffic: transactional}}}}
  MyAppPromo: {{{{traffic: marketing}}}}
routes:
  - {{{{providers: [primary, fallback]}}}}
hlr: {{{{provider: primary, timeout_s: 0.5}}}}
webhooks: {{{{allow_loopback: true, timeout_s: 1, denied_networks: {json.dumps(_ELSEWHERE)}}}}}
"""
_OPERATIONS: Final = 27
_STATEFUL_S: Final = 60


class Fuzzed(NamedTuple):
    """What came of it. `passed`: every answer was as the document says. `cases`: how many answers were judged.

    `succeeded`: which operations answered with a 2xx, where that is known.
    """

    passed: bool
    cases: int
    output: str
    succeeded: frozenset[str] = frozenset()


def every_phase(examples: int) -> tuple[str, ...]:
    """At most `examples` random cases an operation, those of the document and of its boundaries, and ways by links."""
    return ("--max-examples", str(examples))


def stateful(seconds: int) -> tuple[str, ...]:
    """Only the ways from operation to operation, one after the other for so long."""
    return ("--phases", "stateful", "--max-time", str(seconds))


async def fuzz(base_url: str, api_key: str, token: str, options: Sequence[str], seed: int = 1) -> Fuzzed:
    """Call every operation with generated cases. `token` is that of the receipts of `fallback`."""
    # How far it comes in its time must not depend on whether the coverage of the tests is measured.
    uncovered = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_SETTINGS)),
            *("run", f"{base_url}/openapi.json", *options, "--seed", str(seed)),
            *("--report", "json", "--report-json-path", str(report)),
            cwd=folder,
            env=uncovered | {"API_KEY": api_key, "TOKEN": token},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        made = json.loads(report.read_text(encoding="utf-8"))["test_cases"] if report.exists() else Counter[str]()
    return Fuzzed(process.returncode == 0, made["generated"] - made["without_checks"], output.decode())


async def fuzz_a_world(dsn: str, folder: Path, options: Sequence[str], seed: int = 1) -> Fuzzed:
    """The same to gateway, worker and providers that begin with one delivered message. Calls nobody outside."""
    async with a_world(dsn, folder, _CONFIG) as world:
        api_key = await make_key(world.runtime, "send", "read", "hlr", "admin")
        headers = {"Authorization": f"Bearer {api_key}"}
        await world.http.post("/v1/webhooks", json={"url": f"{world.listener.url}/hook"}, headers=headers)
        await world.send(callback_url=None)
        await world.listener.wait_for(1)
        before = _succeeded(world.runtime)
        token = world.runtime.keyring.account_token("fallback")
        fuzzed = await fuzz(str(world.http.base_url), api_key, token, options, seed)
        return fuzzed._replace(succeeded=frozenset(_succeeded(world.runtime) - before))


def _succeeded(runtime: Runtime) -> Counter[str]:
    """How often each operation has answered with a 2xx."""
    [requests] = runtime.metrics.requests.collect()
    return Counter(
        {
            f"{sample.labels['method']} {sample.labels['route']}": int(sample.value)
            for sample in requests.samples
            if sample.labels["status"].startswith("2")
        }
    )


async def _fuzz_until(wanted: int, *, links_only: bool) -> bool:
    """Runs with one seed after the other until `wanted` answers were judged."""
    options = stateful(_STATEFUL_S) if links_only else every_phase(wanted // _OPERATIONS + 1)
    done, succeeded = 0, frozenset[str]()
    with TemporaryDirectory() as folder:
        async with postgres_for_tests(Path(folder) / "postgres") as admin_dsn:
            template = await migrated_template(admin_dsn)
            for seed in count(1):
                state = Path(folder) / str(seed)
                state.mkdir()
                async with migrated_database(admin_dsn, template) as dsn:
                    fuzzed = await fuzz_a_world(dsn, state, options, seed)
                done += fuzzed.cases
                succeeded |= fuzzed.succeeded
                print(f"{fuzzed.output}\n{done} of {wanted} cases; a 2xx of {len(succeeded)} operations")  # noqa: T201 - a command-line program
                if done >= wanted or not fuzzed.passed:
                    return fuzzed.passed
    raise AssertionError("seeds do not end")


def main() -> None:
    """Fuzz; exit status 1 where an answer was not as documented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5_000, help="how many at least (%(default)s)")
    parser.add_argument("--stateful", action="store_true", help="only ways from operation to operation along links")
    parser.add_argument("--model", type=int, metavar="N", help="instead: N programs against the model (tests/model)")
    asked = parser.parse_args()
    if asked.model:
        os.environ["MODEL_PROGRAMS"] = str(asked.model)
        model = Path(__file__).with_name("model")
        os.execv(sys.executable, [sys.executable, "-m", "pytest", "-q", str(model)])  # noqa: S606 - no shell is meant
    logging.disable(logging.WARNING)  # a forged callback is nothing to warn of here
    sys.exit(not asyncio.run(_fuzz_until(asked.cases, links_only=asked.stateful)))


if __name__ == "__main__":
    main()
