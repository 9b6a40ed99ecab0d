"""The documentation pages in a real browser that cannot reach the internet."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from service.app import create_app
from service.runtime import Runtime
from tests.gateway import migrated_database, open_gateway, serve

CONFIG = """
providers: {primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}}
senders: {MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
"""

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


async def _rendered(url: str, profile: Path) -> str:
    """The page's DOM after its scripts have run. Every host but loopback is unknown to the browser."""
    process = await asyncio.create_subprocess_exec(
        BROWSER or "",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await asyncio.wait_for(process.communicate(), timeout=60)
    return output.decode()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt install chromium)")
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_a_docs_page_shows_the_routes_without_internet(
    page: str, postgres: str, template: str, tmp_path: Path
) -> None:
    async with migrated_database(postgres, template) as dsn, open_gateway(CONFIG, dsn) as runtime:
        dom = await _page(runtime, page, tmp_path)
    assert "Send one message" in dom
    assert "/v1/hlr/{number}" in dom.replace("<wbr>", "").replace("&#8203;", "").replace("\u200b", "")


async def _page(runtime: Runtime, page: str, profile: Path) -> str:
    async with serve(create_app(runtime)) as url:
        return await _rendered(f"{url}{page}", profile)
