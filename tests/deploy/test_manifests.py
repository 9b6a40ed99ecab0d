"""k8s/ against the schemas of Kubernetes, and against the service that it runs."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer
from typer.core import TyperGroup

from service import __version__
from service.api.health import router as health
from service.cli import app
from service.config_file import ConfigFile
from service.environment import PREFIX, Environment
from service.metrics import Metrics
from tests.deploy.rendered import QUIET_POSTGRES, ROOT, Cluster, Workload, name_of, render_changed

KUBERNETES = ("1.35", "1.36", "1.37")
DEFINED_ELSEWHERE = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}
"""Kinds that operators bring along; the schemas of Kubernetes do not know them."""
WORKER = "sms-gateway-worker"


@pytest.fixture
def with_keda(production: Cluster, tmp_path: Path) -> Cluster:
    """Production as it is with the other of the two components that scale the workers."""
    del production  # it says whether there is a kubectl

    def change(text: str) -> str:
        return text.replace("components/worker-scaling ", "components/worker-scaling-keda ")

    return Cluster(render_changed("production", change, tmp_path))


def commands() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_fits_the_schema_of_kubernetes(cluster: Cluster, version: str) -> None:
    for it in cluster.objects:
        if it["kind"] not in DEFINED_ELSEWHERE:
            kubernetes_validate.validate(it, version, strict=True)


def test_the_schemas_find_a_misspelt_field() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"selektor": {}}}
    for version in KUBERNETES:
        with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
            kubernetes_validate.validate(service, version, strict=True)


def test_everything_is_in_the_namespace_whose_pods_are_restricted(cluster: Cluster) -> None:
    [namespace] = cluster.all("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [it for it in cluster.objects if it is not namespace]
    assert {it["metadata"].get("namespace") for it in others} == {name_of(namespace)}


def test_every_pod_meets_the_restricted_profile_and_more(cluster: Cluster) -> None:
    for workload in cluster.workloads:
        pod = workload.pod
        assert pod["securityContext"]["runAsNonRoot"] is True, workload.name
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"secret", "configMap", "emptyDir"}


def test_every_container_meets_the_restricted_profile_and_more(cluster: Cluster) -> None:
    for container in (container for workload in cluster.workloads for container in workload.containers):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, container["name"]
        assert not any("hostPort" in port for port in container.get("ports", ()))
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}


def test_our_image_has_the_tag_of_the_project_everywhere(cluster: Cluster) -> None:
    images = [container["image"] for it in cluster.workloads if it.is_ours for container in it.containers]
    assert len(images) >= 5
    assert {image.rpartition(":")[2] for image in images} == {__version__}


def test_each_version_has_a_migration_of_its_own_that_no_setting_changes(cluster: Cluster) -> None:
    [job] = cluster.all("Job")
    assert name_of(job) == f"sms-gateway-migrate-{__version__}"
    [container] = Workload(job).containers
    assert container["args"] == ["migrate"]
    assert "envFrom" not in container, "a Job cannot be changed, and the name of the ConfigMap would change it"


@pytest.mark.parametrize("mode", ["serve", "worker"])
def test_the_gateway_waits_for_the_migration_and_its_rollout_waits_longer(cluster: Cluster, mode: str) -> None:
    deployment = cluster.one("Deployment", f"sms-gateway-{mode}")
    [waiting] = Workload(deployment).pod["initContainers"]
    command, option, seconds = waiting["args"]
    assert (command, option) == ("migrate", "--wait")
    assert deployment["spec"]["progressDeadlineSeconds"] > float(seconds)


def test_every_command_and_option_exists(cluster: Cluster) -> None:
    for workload in (it for it in cluster.workloads if it.is_ours):
        for container in workload.containers:
            name, *options = container["args"]
            commands().commands[name].make_context(name, options)


def test_every_variable_is_a_setting_or_named_in_gateway_yaml(cluster: Cluster) -> None:
    in_gateway_yaml = set(
        re.findall(r"\$\{(\w+)\}", cluster.one("ConfigMap", "sms-gateway-config")["data"]["gateway.yaml"])
    )
    of_simulator = {str(it.envvar) for it in commands().commands["simulator"].params if getattr(it, "envvar", None)}
    for workload in (it for it in cluster.workloads if it.is_ours):
        for container in workload.containers:
            names = cluster.environment(container).keys() | {it["name"] for it in container.get("env", ())}
            ours = {name.removeprefix(PREFIX).lower() for name in names if name.startswith(PREFIX)}
            assert {name.removesuffix("_file") for name in ours} <= set(Environment.__slots__)
            others = {name.removesuffix("_FILE") for name in names if not name.startswith(PREFIX)}
            assert others <= in_gateway_yaml | of_simulator


@pytest.mark.parametrize("mode", ["serve", "worker"])
def test_the_gateway_starts_with_its_variables_files_and_gateway_yaml(
    cluster: Cluster, mode: str, tmp_path: Path
) -> None:
    workload = Workload(cluster.one("Deployment", f"sms-gateway-{mode}"))
    [container] = workload.pod["containers"]
    folders = {path: name for path, volume, name in cluster.files(workload, container) if "secret" in volume}
    environ = cluster.environment(container)
    for name, path in environ.items():
        if name.endswith("_FILE"):
            folder, _, key = path.rpartition("/")
            (tmp_path / key).write_text(secret(cluster, folders[folder], key))
            environ[name] = str(tmp_path / key)

    environment = Environment.read(environ)
    text = cluster.one("ConfigMap", "sms-gateway-config")["data"]["gateway.yaml"]
    config = ConfigFile.parse(text, environ).config

    assert environment.database_url is not None
    assert environment.secret_key is not None
    assert all(provider.api_key for provider in config.providers.values())
    assert "/etc/sms-gateway" in {
        path for path, volume, _ in cluster.files(workload, container) if "configMap" in volume
    }


def secret(cluster: Cluster, name: str, key: str) -> str:
    """A Secret's value, where the overlay brings it; else docs/kubernetes.md must say how it is made."""
    secrets = {name_of(it): it for it in cluster.all("Secret")}
    if secrets:
        return str(secrets[name]["data"][key])
    said = (ROOT / "docs" / "kubernetes.md").read_text()
    assert re.search(rf"create secret generic {name} [^`]*?--from-file={key}=", said), f"{name}: {key}"
    return "x" * 40


def test_every_config_map_and_secret_that_is_mounted_exists_or_is_documented(cluster: Cluster, overlay: str) -> None:
    documented = {"sms-gateway", "sms-gateway-providers"} if overlay == "production" else set()
    exist = {name_of(it) for kind in ("ConfigMap", "Secret") for it in cluster.all(kind)} | documented
    for workload in cluster.workloads:
        for container in workload.containers:
            assert {name for _, _, name in cluster.files(workload, container)} <= exist
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            claimed = {name_of(it) for it in workload.whole["spec"].get("volumeClaimTemplates", ())}
            assert mounted <= {it["name"] for it in workload.pod.get("volumes", ())} | claimed


def test_every_service_leads_to_one_workload_and_a_port_that_it_has(cluster: Cluster) -> None:
    for service in cluster.all("Service"):
        [workload] = cluster.selected({"matchLabels": service["spec"]["selector"]})
        assert service["metadata"]["labels"].items() <= workload.labels.items(), "it leads to what it is named for"
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= workload.port_names


def test_the_ports_are_those_that_the_processes_listen_on(cluster: Cluster) -> None:
    for workload in (it for it in cluster.workloads if it.is_ours and it.port_names == {"http"}):
        [container] = workload.pod["containers"]
        [port] = container["ports"]
        environ = {name: it for name, it in cluster.environment(container).items() if not name.endswith("_FILE")}
        assert (
            port["containerPort"] == Environment.read({it: environ[it] for it in environ if it.startswith(PREFIX)}).port
        )


def test_every_workload_selects_its_own_pods_and_no_others(cluster: Cluster) -> None:
    for workload in cluster.workloads:
        if workload.whole["kind"] != "Job":
            assert cluster.selected(workload.whole["spec"]["selector"]) == [workload]
        for spread in workload.pod.get("topologySpreadConstraints", ()):
            assert cluster.selected(spread["labelSelector"]) == [workload]


def test_probes_ask_for_routes_that_the_process_has(cluster: Cluster) -> None:
    routes = {route.path for route in health.routes if hasattr(route, "path")}
    for mode in ("serve", "worker"):
        workload = Workload(cluster.one("Deployment", f"sms-gateway-{mode}"))
        [container] = workload.pod["containers"]
        probes = {it: container[f"{it}Probe"]["httpGet"] for it in ("startup", "liveness", "readiness")}
        assert {it["path"] for it in probes.values()} <= routes
        assert {it["port"] for it in probes.values()} <= workload.port_names
        assert (probes["liveness"]["path"], probes["readiness"]["path"]) == ("/healthz", "/readyz")
        assert container["readinessProbe"]["timeoutSeconds"] > 1, "/readyz gives PostgreSQL a second"


def test_pods_get_more_time_to_end_than_they_take(cluster: Cluster) -> None:
    for mode in ("serve", "worker"):
        workload = Workload(cluster.one("Deployment", f"sms-gateway-{mode}"))
        [container] = workload.pod["containers"]
        before_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain_s = float(cluster.environment(container)["SMS_GATEWAY_DRAIN_S"])
        closing_s = 10  # of the pool, and of what else is closed after the drain
        assert workload.pod["terminationGracePeriodSeconds"] >= before_s + drain_s + closing_s


def test_what_scales_and_what_limits_disruption_names_our_deployments(production: Cluster) -> None:
    ours = {"sms-gateway-serve", WORKER}
    scaled = production.all("HorizontalPodAutoscaler")
    assert {it["spec"]["scaleTargetRef"]["name"] for it in scaled} == ours
    for it in scaled:
        assert it["spec"]["minReplicas"] >= 2
        assert "replicas" not in production.one("Deployment", it["spec"]["scaleTargetRef"]["name"])["spec"]
    limited = [production.selected(it["spec"]["selector"]) for it in production.all("PodDisruptionBudget")]
    assert sorted(workload.name for [workload] in limited) == sorted(ours)


def test_a_postgresql_of_ours_logs_neither_rows_nor_parameters(cluster: Cluster, overlay: str) -> None:
    args = [container["args"] for it in cluster.workloads if not it.is_ours for container in it.containers]
    assert args == {"dev": [QUIET_POSTGRES], "production": []}[overlay]


def test_workers_are_scaled_by_a_metric_that_exists(production: Cluster, with_keda: Cluster) -> None:
    exported = {metric.name for metric in Metrics().registry.collect()}
    autoscaler = production.one("HorizontalPodAutoscaler", WORKER)
    [metric] = [it["external"]["metric"]["name"] for it in autoscaler["spec"]["metrics"]]
    assert metric in exported

    [scaled] = with_keda.all("ScaledObject")
    [trigger] = scaled["spec"]["triggers"]
    assert f"{metric}{{" in trigger["metadata"]["query"]
    assert with_keda.one("Deployment", scaled["spec"]["scaleTargetRef"]["name"])
    autoscaled = {it["spec"]["scaleTargetRef"]["name"] for it in with_keda.all("HorizontalPodAutoscaler")}
    assert autoscaled == {"sms-gateway-serve"}, "two autoscalers would pull at the workers"
