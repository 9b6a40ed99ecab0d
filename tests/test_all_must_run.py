from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.all_must_run import VARIABLE
from tests.cli.running import environment
from tests.deploy.rendered import ROOT

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="pgbouncer is not installed")
def test_marked(): pass

def test_inside(): pytest.skip("kubectl is not installed")

@pytest.fixture
def program(): pytest.skip("promtool is not installed")

def test_of_a_fixture(program): pass

def test_of_the_machine(): pytest.skip("only root has rights to drop")

@pytest.mark.xfail
def test_known(): assert False

def test_that_runs(): pass
"""


@pytest.mark.parametrize(
    ("variable", "summary"), [("", "1 passed, 4 skipped, 1 xfailed"), ("1", "1 passed, 1 skipped, 1 xfailed, ")]
)
def test_what_is_skipped_fails_where_all_must_run(variable: str, summary: str, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.all_must_run", "-c", "/dev/null", "-p", "no:cacheprovider"]
    env = environment(PYTHONPATH=ROOT) | {VARIABLE: variable}
    done = subprocess.run(
        [*command, tmp_path / "test_some.py"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert summary in done.stdout, done.stdout
    missing = {name for name in ("pgbouncer", "kubectl", "promtool") if f"{name} is not installed" in done.stdout}
    assert missing == ({"pgbouncer", "kubectl", "promtool"} if variable else set())


def test_ci_lets_nothing_be_skipped() -> None:
    assert f"export {VARIABLE}=1" in (ROOT / ".ci" / "run").read_text().splitlines()
