"""What is shipped: the wheel alone, without the repository around it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.cli.running import environment, free_ports, paste, running

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_is_what_runs_when_it_comes_first(shipped: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import service; print(service.__file__)"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=shipped),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(shipped / "service" / "__init__.py")


def test_the_installed_wheel_runs_from_an_empty_folder(shipped: Path, tmp_path: Path) -> None:
    port = free_ports()
    with running("dev", folder=tmp_path, PYTHONPATH=shipped, SMS_GATEWAY_PORT=port) as gateway:
        welcome = gateway.printed_until("Ctrl-C")
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/readyz").status_code == 200  # migrated
        for page in ("/docs", "/redoc"):
            assert "/static-offline-docs/" in httpx.get(f"{url}{page}").text
        assert httpx.get(f"{url}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
        command = welcome.partition("Send a message:")[2].partition("Take the primary")[0]
        sent = paste(" ".join(command.replace("\\\n", " ").split("\n")))
        assert sent.status_code == 200, sent.text
        assert gateway.stop() == 0
    assert (tmp_path / "data" / "api-key").exists()
