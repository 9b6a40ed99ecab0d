"""compose.yaml against the schema of the specification, and against the service that it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from service import __version__
from service.cli import app
from service.config_file import ConfigFile
from service.environment import PREFIX, Environment
from service.simulator.settings import CONTROL_OFFSET
from tests.deploy.rendered import QUIET_POSTGRES, ROOT

GATEWAY = ("serve", "worker")
OURS = (*GATEWAY, "migrate", "simulator")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def test_it_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_all_of_ours_run_the_image_of_this_version_read_only_and_without_rights(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["image"] == f"sms-gateway:{__version__}"
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_migration_comes_first(compose: dict[str, Any]) -> None:
    for name in GATEWAY:
        assert compose["services"][name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert compose["services"]["migrate"]["depends_on"] == {"postgresql": {"condition": "service_healthy"}}


def test_every_command_and_variable_exists(compose: dict[str, Any]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    of_simulator = {str(it.envvar) for it in group.commands["simulator"].params if getattr(it, "envvar", None)}
    in_gateway_yaml = set(re.findall(r"\$\{(\w+)\}", (ROOT / "compose" / "gateway.yaml").read_text()))
    for name in OURS:
        service = compose["services"][name]
        [command] = service["command"]
        assert command == name
        assert command in group.commands
        ours = {it for it in service["environment"] if it.startswith(PREFIX)}
        assert {it.removeprefix(PREFIX).lower().removesuffix("_file") for it in ours} <= set(Environment.__slots__)
        assert service["environment"].keys() - ours <= of_simulator | in_gateway_yaml


@pytest.mark.parametrize("name", GATEWAY)
def test_the_gateway_starts_with_its_variables_secrets_and_gateway_yaml(
    compose: dict[str, Any], name: str, tmp_path: Path
) -> None:
    service = compose["services"][name]
    environ: dict[str, str] = dict(service["environment"])
    for variable, path in environ.items():
        if variable.endswith("_FILE"):
            secret = path.removeprefix("/run/secrets/")
            assert secret in service["secrets"]
            assert secret in compose["secrets"]
            (tmp_path / secret).write_text("x" * 40)
            environ[variable] = str(tmp_path / secret)

    environment = Environment.read(environ)
    [mounted] = service["configs"]
    file = ConfigFile.load(ROOT / compose["configs"][mounted["source"]]["file"], environ)

    assert environment.database_url is not None
    assert environment.secret_key is not None
    assert str(file.config.providers["simulator"].base_url) == "http://simulator:8081/"
    assert float(service["stop_grace_period"].removesuffix("s")) > environment.drain_s + 5


def test_postgresql_logs_neither_rows_nor_parameters(compose: dict[str, Any]) -> None:
    assert compose["services"]["postgresql"]["command"] == QUIET_POSTGRES


def test_the_simulator_has_the_keys_and_ports_that_the_gateway_knows(compose: dict[str, Any]) -> None:
    gateway, simulator = (compose["services"][name]["environment"] for name in ("serve", "simulator"))
    for what in ("API_KEY", "WEBHOOK_SECRET"):
        assert gateway[f"SIMULATOR_{what}"] == simulator[f"SMS_SIMULATOR_{what}"]
    control = int(simulator["SMS_SIMULATOR_PORT"]) + CONTROL_OFFSET
    assert compose["services"]["simulator"]["ports"] == [f"127.0.0.1:{control}:{control}"]


def test_prometheus_scrapes_every_process_and_nothing_is_open_to_other_machines(compose: dict[str, Any]) -> None:
    scraped = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())
    [job] = scraped["scrape_configs"]
    [found] = job["dns_sd_configs"]
    assert (found["names"], found["port"]) == (list(GATEWAY), Environment().port)
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_secrets_are_neither_in_the_repository_nor_in_the_image(compose: dict[str, Any]) -> None:
    assert {secret["file"].partition("/")[0] for secret in compose["secrets"].values()} == {"secrets"}
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    said = (ROOT / "docs" / "kubernetes.md").read_text()
    assert all(f"> {secret['file']}" in said for secret in compose["secrets"].values())
