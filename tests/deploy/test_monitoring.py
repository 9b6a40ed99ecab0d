"""An overlay with the component for monitoring, as docs/kubernetes.md says to put it on."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.deploy.rendered import Cluster, Object, render_changed

COMPONENT = "../../components/monitoring"
DURATION = re.compile(r"([0-9]+h)?([0-9]+m)?([0-9]+s)?")


@pytest.fixture
def with_monitoring(overlay: str, cluster: Cluster, tmp_path: Path) -> Cluster:
    """Each overlay with it. Its own objects are those that the plain overlay has not."""

    def change(text: str) -> str:
        if overlay == "production":
            return text.replace(f"# - {COMPONENT}", f"- {COMPONENT}")  # what its comment offers
        return f"{text}components: [{COMPONENT}]\n"

    changed = Cluster(render_changed(overlay, change, tmp_path))
    assert all(it in changed.objects for it in cluster.objects), "it only adds"
    return changed


def test_it_adds_what_it_names_in_the_namespace_of_the_rest(with_monitoring: Cluster, cluster: Cluster) -> None:
    added = [it for it in with_monitoring.objects if it not in cluster.objects]
    assert sorted(it["kind"] for it in added) == ["ConfigMap", "PrometheusRule", "Service", "ServiceMonitor"]
    assert {it["metadata"]["namespace"] for it in added} == {"sms-gateway"}
    for it in added:
        if it["apiVersion"] == "v1":
            kubernetes_validate.validate(it, "1.37", strict=True)


def test_its_service_selects_every_serve_and_worker_and_nothing_else(with_monitoring: Cluster) -> None:
    service = with_monitoring.one("Service", "sms-gateway-metrics")["spec"]
    selected = with_monitoring.selected({"matchLabels": service["selector"]})
    assert {it.name for it in selected} == {"sms-gateway-serve", "sms-gateway-worker"}, "a migration answers nobody"
    assert service["clusterIP"] == "None", "behind one address a scrape would hit one pod or the other"
    [port] = service["ports"]
    assert all(port["targetPort"] in it.port_names for it in selected)


def test_its_monitor_selects_its_service_and_no_other(with_monitoring: Cluster) -> None:
    [monitor] = with_monitoring.all("ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    [service] = [it for it in with_monitoring.all("Service") if wanted <= it["metadata"]["labels"].items()]
    assert service["metadata"]["name"] == "sms-gateway-metrics"
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "sms-gateway"
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_prometheus_is_let_in_to_all_that_it_scrapes(with_monitoring: Cluster) -> None:
    service = with_monitoring.one("Service", "sms-gateway-metrics")["spec"]
    policy = with_monitoring.one("NetworkPolicy", "metrics")["spec"]
    scraped = with_monitoring.selected({"matchLabels": service["selector"]})
    assert with_monitoring.selected(policy["podSelector"]) == scraped
    [rule] = policy["ingress"]
    assert {port["port"] for port in rule["ports"]} == {port["targetPort"] for port in service["ports"]}


def test_its_objects_of_the_operator_have_the_fields_that_the_operator_knows(with_monitoring: Cluster) -> None:
    """Those that we use, by its API `monitoring.coreos.com/v1`: it drops what it does not know, in silence."""
    [monitor], [rules] = with_monitoring.all("ServiceMonitor"), with_monitoring.all("PrometheusRule")
    assert {monitor["apiVersion"], rules["apiVersion"]} == {"monitoring.coreos.com/v1"}
    assert monitor["spec"].keys() == {"jobLabel", "selector", "endpoints"}
    for endpoint in monitor["spec"]["endpoints"]:
        assert endpoint.keys() == {"port", "path", "interval", "scrapeTimeout"}
        assert _seconds(endpoint["scrapeTimeout"]) <= _seconds(endpoint["interval"]), "Prometheus refuses that"
    assert rules["spec"].keys() == {"groups"}
    groups = rules["spec"]["groups"]
    assert len({group["name"] for group in groups}) == len(groups), "they are a map by name"
    for group in groups:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            _check_rule(rule)


def _check_rule(rule: Object) -> None:
    if "record" in rule:
        assert rule.keys() == {"record", "expr"}
        return
    assert (
        {"alert", "expr", "labels", "annotations"} <= rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    )
    assert _seconds(rule.get("for", "1s")) > 0
    for texts in (rule["labels"], rule["annotations"]):
        assert all(isinstance(text, str) for text in texts.values())


def _seconds(duration: str) -> int:
    """What a duration of Prometheus comes to."""
    found = DURATION.fullmatch(duration)
    assert found is not None, duration
    hours, minutes, seconds = (int(part[:-1]) if part else 0 for part in found.groups())
    return (hours * 60 + minutes) * 60 + seconds
