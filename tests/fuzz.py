"""Fuzzing of a whole gateway by what its OpenAPI document says: `scripts/fuzz --cases 5000`."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections import Counter
from ipaddress import IPv4Network
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

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
_OPERATIONS: Final = 25


class Fuzzed(NamedTuple):
    """What came of it. `passed`: every answer was as the document says. `cases`: how many answers were judged."""

    passed: bool
    cases: int
    output: str


async def fuzz(base_url: str, api_key: str, token: str, *, examples: int, seed: int = 1) -> Fuzzed:
    """Call every operation with at most `examples` random cases, and those of the document and of its boundaries.

    `token` is that of the receipts of `fallback`.
    """
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(_SETTINGS)),
            *("run", f"{base_url}/openapi.json", "--max-examples", str(examples), "--seed", str(seed)),
            *("--report", "json", "--report-json-path", str(report)),
            cwd=folder,
            env=os.environ | {"API_KEY": api_key, "TOKEN": token},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        made = json.loads(report.read_text(encoding="utf-8"))["test_cases"] if report.exists() else Counter[str]()
    return Fuzzed(process.returncode == 0, made["generated"] - made["without_checks"], output.decode())


async def fuzz_a_world(dsn: str, folder: Path, *, examples: int, seed: int = 1) -> Fuzzed:
    """The same to gateway, worker and providers that begin with one delivered message. Calls nobody outside."""
    async with a_world(dsn, folder, _CONFIG) as world:
        api_key = await make_key(world.runtime, "send", "read", "hlr", "admin")
        headers = {"Authorization": f"Bearer {api_key}"}
        await world.http.post("/v1/webhooks", json={"url": f"{world.listener.url}/hook"}, headers=headers)
        await world.send(callback_url=None)
        await world.listener.wait_for(1)
        token = world.runtime.keyring.account_token("fallback")
        return await fuzz(str(world.http.base_url), api_key, token, examples=examples, seed=seed)


async def _fuzz_until(wanted: int) -> bool:
    """Runs with one seed after the other until `wanted` answers were judged."""
    done = 0
    with TemporaryDirectory() as folder:
        async with postgres_for_tests(Path(folder) / "postgres") as admin_dsn:
            template = await migrated_template(admin_dsn)
            for seed in count(1):
                state = Path(folder) / str(seed)
                state.mkdir()
                async with migrated_database(admin_dsn, template) as dsn:
                    fuzzed = await fuzz_a_world(dsn, state, examples=wanted // _OPERATIONS + 1, seed=seed)
                done += fuzzed.cases
                print(f"{fuzzed.output}\n{done} of {wanted} cases")  # noqa: T201 - a command-line program
                if done >= wanted or not fuzzed.passed:
                    return fuzzed.passed
    raise AssertionError("seeds do not end")


def main() -> None:
    """Fuzz; exit status 1 where an answer was not as documented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5_000, help="how many at least (%(default)s)")
    logging.disable(logging.WARNING)  # a forged callback is nothing to warn of here
    sys.exit(not asyncio.run(_fuzz_until(parser.parse_args().cases)))


if __name__ == "__main__":
    main()
