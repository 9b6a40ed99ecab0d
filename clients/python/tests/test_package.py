"""What is shipped: the wheel, without the repository around it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_ALONE = """
import importlib.util, sys
sys.path[:0] = sys.argv[1:]
import sms_gateway_client
print(sms_gateway_client.__file__)
assert importlib.util.find_spec("service") is None, "the gateway itself is in reach: this shows nothing"
with sms_gateway_client.SmsGateway("http://127.0.0.1:8080", "sk_key"):
    print("ready")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_with_its_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = Parser().parsestr(archive.read("sms_gateway_client-0.1.0.dist-info/METADATA").decode())
    here = {f"sms_gateway_client/{path.name}" for path in (ROOT / "sms_gateway_client").glob("*.py*") if path.is_file()}
    assert names == here | {"sms_gateway_client/py.typed"}
    needed = [requirement.partition(">")[0] for requirement in metadata.get_all("Requires-Dist", [])]
    assert needed == ["httpx", "standardwebhooks"]
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_wheel_installs_and_runs_without_the_gateway(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    # Without `site`, nothing of the environment's own editable installs is in reach, but the libraries are.
    alone = [sys.executable, "-I", "-S", "-c", _ALONE, str(tmp_path), sysconfig.get_path("purelib")]
    printed = subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert printed == [str(tmp_path / "sms_gateway_client" / "__init__.py"), "ready"]
