"""Where `TESTS_MUST_ALL_RUN` is set, a test that is skipped has failed: or a proof could vanish, and nobody would see.

`.ci/run` sets it. On a developer's machine what needs a program that is not installed is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any, Final

import pytest

VARIABLE: Final = "TESTS_MUST_ALL_RUN"
OF_THE_MACHINE: Final = (
    "only root has rights to drop",
    "only Linux ends a child with its parent",
    "user namespaces are not allowed here",
    "nobody cannot read the wheel here",
)
"""Reasons that no program mends: what is tested there does not exist on such a machine."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get(VARIABLE) and not _reason(report.longrepr).endswith(OF_THE_MACHINE):
        report.outcome = "failed"
        report.longrepr = f"{VARIABLE} is set, but this was skipped. {_reason(report.longrepr)}"
    return report


def _reason(longrepr: Any) -> str:
    """Why it was skipped: pytest keeps file, line and reason."""
    return str(longrepr[2])
