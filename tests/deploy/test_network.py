"""Who may reach what: the Ingress and the network policies."""

from __future__ import annotations

from urllib.parse import urlsplit

from service.api.receipts import router as receipts
from tests.deploy.rendered import Cluster, Object, name_of

WORKER = "sms-gateway-worker"


def test_the_ingress_lets_only_receipts_in(production: Cluster) -> None:
    [ingress] = production.all("Ingress")
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/v1/receipts", "Prefix")
    assert "defaultBackend" not in ingress["spec"]
    assert all(str(getattr(route, "path", "")).startswith("/v1/receipts/") for route in receipts.routes)
    service = production.one("Service", path["backend"]["service"]["name"])
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    [workload] = production.selected({"matchLabels": service["spec"]["selector"]})
    assert workload.name == "sms-gateway-serve"


def test_the_ingress_writes_no_access_log_because_its_paths_hold_tokens(production: Cluster) -> None:
    [ingress] = production.all("Ingress")
    assert ingress["spec"]["ingressClassName"] == "nginx", "the annotation is of its controller"
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/enable-access-log"] == "false"


def test_the_public_url_is_the_host_of_the_ingress(production: Cluster) -> None:
    [ingress] = production.all("Ingress")
    [rule] = ingress["spec"]["rules"]
    url = urlsplit(production.one("ConfigMap", "sms-gateway-environment")["data"]["SMS_GATEWAY_PUBLIC_URL"])
    assert (url.scheme, url.hostname) == ("https", rule["host"])
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]


def test_nothing_goes_in_or_out_without_being_named(cluster: Cluster) -> None:
    denial = cluster.one("NetworkPolicy", "deny-all")["spec"]
    assert denial == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in cluster.all("NetworkPolicy"):
        selected = cluster.selected(policy["spec"]["podSelector"])
        assert selected, name_of(policy)
        for port in inward_ports(policy):
            assert all(port in workload.port_names for workload in selected), name_of(policy)


def inward_ports(policy: Object) -> set[str]:
    """The ports that a policy opens to others."""
    return {port["port"] for rule in policy["spec"].get("ingress", ()) for port in rule.get("ports", ())}


def test_in_production_serve_hears_only_labelled_namespaces_the_ingress_and_prometheus(production: Cluster) -> None:
    heard: dict[str, list[dict[str, str]]] = {"sms-gateway-serve": [], WORKER: [], "migrate": []}
    for policy in production.all("NetworkPolicy"):
        sources = [peer for rule in policy["spec"].get("ingress", ()) for peer in rule["from"]]
        for workload in production.selected(policy["spec"]["podSelector"]):
            name = "migrate" if workload.whole["kind"] == "Job" else workload.name
            heard[name] += [peer["namespaceSelector"]["matchLabels"] for peer in sources]
    prometheus = {"kubernetes.io/metadata.name": "monitoring"}
    ingress = {"kubernetes.io/metadata.name": "ingress-nginx"}
    assert heard["migrate"] == []
    assert heard[WORKER] == [prometheus]
    assert sorted(map(str, heard["sms-gateway-serve"])) == sorted(
        map(str, [{"sms-gateway/caller": "true"}, ingress, prometheus])
    )


def test_in_production_pods_reach_dns_postgresql_and_https_only(production: Cluster) -> None:
    reached: dict[str, set[int]] = {}
    for policy in production.all("NetworkPolicy"):
        ports = {port["port"] for rule in policy["spec"].get("egress", ()) for port in rule["ports"]}
        for workload in production.selected(policy["spec"]["podSelector"]):
            reached.setdefault(workload.whole["kind"], set()).update(ports)
    assert reached == {"Deployment": {53, 5432, 443}, "Job": {53, 5432}}
