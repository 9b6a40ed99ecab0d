"""What `kubectl kustomize` makes of k8s/, and how its parts refer to each other."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import yaml

ROOT: Final = Path(__file__).parent.parent.parent
K8S: Final = ROOT / "k8s"
OLDEST_KUSTOMIZE: Final = 5
QUIET_POSTGRES: Final = ["postgres", "-c", "log_error_verbosity=terse", "-c", "log_parameter_max_length=0"]
"""How a PostgreSQL is started whose log quotes neither rows nor parameters."""

Object: TypeAlias = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """Every object of a kustomization."""
    rendered = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    assert "Warning" not in rendered.stderr
    return [it for it in yaml.safe_load_all(rendered.stdout) if it]


def render_changed(overlay: str, change: Callable[[str], str], folder: Path) -> list[Object]:
    """Every object of an overlay, once its kustomization.yaml is changed: in a copy, made in `folder`."""
    for path in (K8S / "overlays" / overlay).iterdir():
        (folder / path.name).write_text(path.read_text())
    file = folder / "kustomization.yaml"
    text = change(file.read_text())
    assert text != file.read_text()
    file.write_text(text.replace("../../", f"{relpath(K8S, folder)}/"))
    return render(folder)


def need_kubectl() -> None:
    """Skips the test where there is no kubectl, or one that is too old for components and labels."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed (on Debian 13: apt install kubernetes-client)")
    command = ["kubectl", "version", "--client", "--output", "json"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    version = said.get("kustomizeVersion", "v0")
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_KUSTOMIZE:
        pytest.skip(f"kubectl is too old: it has kustomize {version}, and {OLDEST_KUSTOMIZE} is needed")


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet or Job."""

    whole: Object

    @property
    def name(self) -> str:
        return name_of(self.whole)

    @property
    def pod(self) -> Object:
        """The specification of its pods."""
        spec: Object = self.whole["spec"]["template"]["spec"]
        return spec

    @property
    def labels(self) -> Mapping[str, str]:
        """Those of its pods."""
        labels: Mapping[str, str] = self.whole["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def containers(self) -> list[Object]:
        """All of them, those that run first included."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def port_names(self) -> set[str]:
        return {port["name"] for container in self.pod["containers"] for port in container.get("ports", ())}

    @property
    def is_ours(self) -> bool:
        """Whether it runs our image."""
        return all("sms-gateway" in container["image"] for container in self.containers)


class Cluster:
    """The objects of one overlay."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects
        self.workloads = [Workload(it) for it in objects if it["kind"] in {"Deployment", "StatefulSet", "Job"}]

    def all(self, kind: str) -> list[Object]:
        return [it for it in self.objects if it["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """The object of that name. A ConfigMap is found without the hash behind its name."""
        named = {name_of(it): it for it in self.all(kind)}
        if kind == "ConfigMap" and name not in named:
            named |= {full.rpartition("-")[0]: it for full, it in named.items()}
        return named[name]

    def selected(self, selector: Mapping[str, Any]) -> list[Workload]:
        """The workloads whose pods a label selector selects."""
        return [it for it in self.workloads if _selects(selector, it.labels)]

    def environment(self, container: Object) -> dict[str, str]:
        """The variables of a container that have a value in the manifests."""
        variables: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            variables |= self.one("ConfigMap", source["configMapRef"]["name"])["data"]
        variables |= {it["name"]: it["value"] for it in container.get("env", ()) if "value" in it}
        return variables

    def files(self, workload: Workload, container: Object) -> Iterator[tuple[str, Object, str]]:
        """Where a container's volumes of ConfigMaps and Secrets are mounted: path, the volume, its source's name."""
        volumes = {it["name"]: it for it in workload.pod.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            volume = volumes.get(mount["name"], {})
            if "secret" in volume:
                yield mount["mountPath"], volume, volume["secret"]["secretName"]
            elif "configMap" in volume:
                yield mount["mountPath"], volume, volume["configMap"]["name"]


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted: Iterable[tuple[str, str]] = selector.get("matchLabels", {}).items()
    if any(labels.get(key) != value for key, value in wanted):
        return False
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def name_of(thing: Object) -> str:
    name: str = thing["metadata"]["name"]
    return name
