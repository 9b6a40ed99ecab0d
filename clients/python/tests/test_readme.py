"""The README's examples, run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from service.config_file import ConfigFile
from tests.journeys.world import SIGNING_SECRET, World

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)

RULES = (ROOT.parents[1] / "README.md").read_text(encoding="utf-8").partition("## Four rules")[2]


async def run(program: str, folder: Path, url: str, key: str, **more: str) -> list[str]:
    """What the program prints, line by line."""
    (folder / "example.py").write_text(program, encoding="utf-8")
    told = {"SMS_URL": url, "SMS_API_KEY": key, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | more
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "example.py",
        cwd=folder,
        env=os.environ | told,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output.splitlines()


@pytest.mark.parametrize(("block", "lines"), [(0, 10), (1, 12)], ids=["sync", "async"])
async def test_its_lines_send_follow_and_look_up(block: int, lines: int, tmp_path: Path, url: str, key: str) -> None:
    program = BLOCKS[block]
    assert len([line for line in program.splitlines() if line.strip()]) <= lines
    printed = await run(program, tmp_path, url, key)
    assert printed == ["delivered primary", "2 accepted, 1 rejected: number_missing_plus", "active"]


async def test_its_handler_takes_a_real_webhook_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SIGNING_SECRET)
    sent = await world.send()
    await world.webhook(sent["message_id"])
    received = next(one for one in world.listener.received if one.json()["message_id"] == sent["message_id"])
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[2], "README.md", "exec"), names)  # noqa: S102 - our own words
    assert names["handle"](received.body, received.headers) == 204
    assert names["handle"](received.body + b" ", received.headers) == 400
    assert names["seen"] == {received.headers["webhook-id"]}


async def test_its_errors_are_caught_as_it_says(tmp_path: Path, url: str, key: str) -> None:
    printed = await run(BLOCKS[3], tmp_path, url, key)
    assert printed == ["number_missing_plus"]


def gateway_readme(language: str) -> list[str]:
    """The examples of the four rules, in the gateway's own README."""
    return re.findall(rf"^```{language}\n(.*?)^```$", RULES, re.MULTILINE | re.DOTALL)


async def test_the_first_rule_brings_the_receipt(world: World, tmp_path: Path, url: str, key: str) -> None:
    before = len(world.listener.received)
    await run(gateway_readme("python")[0], tmp_path, url, key, RECEIPTS_URL=f"{world.listener.url}/rule")
    received = await world.listener.wait_for(before + 1)
    assert [(one.path, one.json()["reference"]) for one in received[before:]] == [("/rule", "order-4711")]


@pytest.mark.parametrize(
    ("rule", "printed"),
    [
        (1, ["+447700900123 ok", "07700 900123 number_missing_plus", "00447700900123 number_missing_plus"]),
        (2, ["True"]),
        (3, ["otp", "traffic_mismatch"]),
    ],
)
async def test_the_other_rules_do_as_they_say(
    rule: int, printed: list[str], tmp_path: Path, url: str, key: str
) -> None:
    assert await run(gateway_readme("python")[rule], tmp_path, url, key) == printed


def test_the_routes_of_the_fourth_rule_are_usable() -> None:
    account = '{adapter: smsroute, base_url: "https://sms.example.com", api_key: key}'
    (routes,) = gateway_readme("yaml")
    config = ConfigFile.parse(f"providers: {{fast: {account}, cheap: {account}}}\n{routes}", {}).config
    assert [(route.traffic, route.providers[0]) for route in config.routes] == [("otp", "fast"), (None, "cheap")]
