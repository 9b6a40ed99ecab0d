from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from service.cli import app
from service.cli.config_docs import all_tables, with_tables
from service.config_file import ConfigFile
from service.environment import Environment
from service.errors import ConfigurationError
from service.providers import ADAPTERS
from service.settings import GatewayConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_says_what_the_settings_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run `sms-gateway config-docs docs/configuration.md`"


def test_the_command_brings_a_page_up_to_date(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = tmp_path / "page.md"
    stale.write_text(page.replace("| `8080` |", "| `8081` |"), encoding="utf-8")
    result = CliRunner().invoke(app, ["config-docs", str(stale)])
    assert result.exit_code == 0, result.output
    assert stale.read_text(encoding="utf-8") == page


@pytest.mark.parametrize("change", [("settings: Hlr", "settings: Hlrs"), ("<!-- settings: Route -->", "")])
def test_a_page_that_leaves_a_section_out_is_refused(change: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="a table for each of"):
        with_tables(PAGE.read_text(encoding="utf-8").replace(*change))


def test_every_setting_is_in_a_table_with_a_meaning() -> None:
    tables = all_tables()
    for field in fields(Environment):
        assert f"| `SMS_GATEWAY_{field.name.upper()}` |" in tables["Environment"]
    for field_name in GatewayConfig.model_fields:
        assert f"| `{field_name}` |" in tables["GatewayConfig"]
    rows = [row for table in tables.values() for row in table.splitlines() if row.startswith("| `")]
    assert len(rows) > 50
    assert all(row.removesuffix(" |").rpartition("| ")[2] for row in rows)


def test_bounds_and_defaults_are_those_that_are_checked() -> None:
    tables = all_tables()
    assert "| `SMS_GATEWAY_PORT` | `8080` | 1 to 65,535 |" in tables["Environment"]
    assert "| `lease_s` | `13` | from 3 to 3,600 |" in tables["Deliver"]
    assert "| `otp_reserve` | `0.2` | from 0 below 1 |" in tables["Provider"]
    assert "| `hlr_fail` | `open` | `open`, `closed` |" in tables["Route"]
    assert (
        "| `lanes` | otp `512`, transactional `1024`, marketing `1024` | each from 1 to 100,000 |" in tables["Deliver"]
    )


def test_every_adapter_is_named() -> None:
    for adapter in ADAPTERS:
        assert f"`{adapter}`" in all_tables()["Provider"]


def test_the_example_of_the_page_is_a_usable_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    block = page.partition("## gateway.yaml\n\n")[2].partition("\n\nIt is plain YAML")[0]
    text = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    keys = {"ACME_API_KEY": "a", "ACME_SECRET": "whsec_c2VjcmV0c2VjcmV0", "OTHER_API_KEY": "b"}
    config = ConfigFile.parse(text, keys).config
    assert set(yaml.safe_load(text)) <= set(GatewayConfig.model_fields)
    assert [*config.providers] == ["acme", "other"]
