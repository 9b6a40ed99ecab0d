"""The alerts: promtool's own tests, a runbook section for each, and nothing asked for that nobody counts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import Metrics
from tests.observability.monitoring import (
    COMPONENT,
    ROOT,
    TARGET_LABELS,
    Rule,
    Selector,
    alerts,
    dashboard,
    grouped_by,
    groups,
    panels,
    rules,
    selectors,
)
from tests.observability.prometheus import needed, rule_file

CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
QUERIES = [*((rule.name, rule.expr) for rule in rules()), *((panel.title, panel.expr) for panel in panels())]


def promtool(*arguments: object, folder: Path) -> None:
    program = needed("promtool")
    (folder / "rules.yml").write_text(rule_file())
    done = subprocess.run(
        [program, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    promtool("check", "rules", "rules.yml", folder=tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_fire_when_they_should_and_only_then(case: Path, tmp_path: Path) -> None:
    shutil.copy(case, tmp_path)
    promtool("test", "rules", case.name, folder=tmp_path)


def test_the_prometheus_of_compose_is_configured_right() -> None:
    done = subprocess.run(
        [needed("promtool"), "check", "config", ROOT / "compose" / "prometheus.yml"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_rule_file_holds_the_rules_of_kubernetes() -> None:
    assert yaml.safe_load(rule_file()) == {"groups": groups()}


def alerts_in_cases(fires: bool) -> set[str]:
    tests: list[dict[str, Any]] = [test for case in CASES for test in yaml.safe_load(case.read_text())["tests"]]
    expectations = [expectation for test in tests for expectation in test["promql_expr_test"]]
    names = [re.search(r'alertname="(\w+)"', one["expr"]) for one in expectations if ("exp_samples" in one) is fires]
    return {name[1] for name in names if name}


@pytest.mark.parametrize("fires", [True, False])
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(fires: bool) -> None:
    assert alerts_in_cases(fires) == {alert.name for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: Rule) -> None:
    assert alert.labels["severity"] in {"critical", "warning"}
    assert alert.annotations["summary"]
    assert alert.annotations["runbook_url"] == f"docs/runbook.md#{alert.name.lower()}"


def test_the_runbook_has_a_section_for_every_alert_and_for_nothing_else() -> None:
    sections = re.split(r"^## (SmsGateway\w+)\n", RUNBOOK, flags=re.MULTILINE)[1:]
    assert sections[::2] == [alert.name for alert in alerts()]
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in text, name


def labels_by_series() -> dict[str, set[str]]:
    """The labels of every series that a process or a rule makes."""
    metrics = Metrics()
    known = {sample.name: set(sample.labels) for family in metrics.registry.collect() for sample in family.samples}
    for metric in vars(metrics).values():
        if metric is metrics.registry:
            continue
        [family] = metric.describe()
        labels = set(metric._labelnames)  # noqa: SLF001 - prometheus_client does not tell them in any other way
        names = {"counter": ["total"], "gauge": [""], "histogram": ["count", "sum", "bucket"]}[family.type]
        for suffix in names:
            more = {"le"} if suffix == "bucket" else set()
            known["_".join(filter(None, (family.name, suffix)))] = labels | more
    for rule in rules():
        if not rule.alert:
            known[rule.name] = grouped_by(rule.expr)
    return {name: labels | TARGET_LABELS for name, labels in known.items()} | {"up": set(TARGET_LABELS)}


KNOWN = labels_by_series()


@pytest.mark.parametrize(("name", "expr"), QUERIES)
def test_every_metric_and_label_that_is_asked_for_exists(name: str, expr: str) -> None:
    asked = selectors(expr)
    assert asked, name
    for selector in asked:
        assert {label for label, _, _ in selector.matchers} <= KNOWN[selector.name]
    for label in grouped_by(expr):
        assert any(label in KNOWN[selector.name] for selector in asked), label


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel.title)
def test_every_label_of_a_legend_exists(panel: Any) -> None:
    for label in re.findall(r"\{\{(\w+)\}\}", panel.legend):
        assert any(label in KNOWN[selector.name] for selector in selectors(panel.expr))


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_every_label_of_a_summary_is_on_the_alert(alert: Rule) -> None:
    grouped = grouped_by(alert.expr)
    for label in re.findall(r"\$labels\.(\w+)", alert.annotations["summary"]):
        assert label in grouped or any(label in KNOWN[selector.name] for selector in selectors(alert.expr))


def counted() -> list[Selector]:
    """What the alerts count events of."""
    return [selector for rule in rules() for selector in selectors(rule.expr) if selector.name.endswith("_total")]


@pytest.mark.parametrize("selector", counted(), ids=str)
def test_what_alerts_count_is_there_before_it_first_happens(selector: Selector) -> None:
    """Or else its first event makes a series that begins at 1, and Prometheus sees no rise."""
    metrics = Metrics()
    metrics.begin_at_zero(["primary"])
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    for matcher in selector.matchers:
        samples_left = [sample for sample in samples if sample.name == selector.name and _fits(sample.labels, matcher)]
        assert samples_left, matcher
        samples = samples_left


def _fits(labels: dict[str, str], matcher: tuple[str, str, str]) -> bool:
    label, operator, value = matcher
    if operator in {"=", "!="}:
        return (labels[label] == value) is (operator == "=")
    return bool(re.fullmatch(value, labels[label])) is (operator == "=~")


def test_what_every_worker_reports_of_the_whole_queue_is_never_summed() -> None:
    whole = {"sms_gateway_lane_due_messages", "sms_gateway_lane_oldest_due_seconds"}
    asking = [expr for _, expr in QUERIES if whole & {selector.name for selector in selectors(expr)}]
    assert len(asking) == len(whole)
    assert all(expr.startswith("max by (namespace, traffic)") for expr in asking)


def test_the_component_holds_what_it_names() -> None:
    component = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())
    assert component["kind"] == "Component"
    [dashboards] = component["configMapGenerator"]
    files = [*component["resources"], *(one.partition("=")[2] for one in dashboards["files"])]
    assert all((COMPONENT / file).is_file() for file in files)
    assert dashboards["options"]["labels"] == {"grafana_dashboard": "1"}


def test_kustomize_takes_the_component(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    shutil.copytree(COMPONENT, tmp_path / "monitoring")
    overlay = {"namespace": "sms", "components": ["monitoring"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    rendered = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    objects = {one["kind"]: one for one in yaml.safe_load_all(rendered.stdout)}
    assert set(objects) == {"Service", "ServiceMonitor", "PrometheusRule", "ConfigMap"}
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"sms"}
    assert json.loads(objects["ConfigMap"]["data"]["sms-gateway.json"]) == dashboard()


def test_the_service_monitor_finds_its_service_and_names_the_job_that_alerts_know() -> None:
    service = yaml.safe_load((COMPONENT / "service.yaml").read_text())
    monitor = yaml.safe_load((COMPONENT / "servicemonitor.yaml").read_text())
    labels = service["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["spec"]["jobLabel"]] == "sms-gateway"
    assert [one["port"] for one in monitor["spec"]["endpoints"]] == [one["name"] for one in service["spec"]["ports"]]
