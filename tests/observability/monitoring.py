"""What k8s/components/monitoring holds, as the tests look at it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPONENT: Final = ROOT / "k8s" / "components" / "monitoring"
TARGET_LABELS: Final = frozenset({"job", "instance", "namespace"})
"""What Prometheus itself puts on every series of a target."""

_SELECTOR: Final = re.compile(r"\b((?:sms_gateway|process)[\w:]*|up)\b(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert, or a series that is recorded."""

    name: str
    expr: str
    alert: bool
    labels: dict[str, str]
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class Panel:
    """One query of a panel."""

    title: str
    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Selector:
    """A series that a query asks for, and its matchers: label, operator, value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


@cache
def groups() -> list[dict[str, Any]]:
    """The groups of the PrometheusRule."""
    rule = yaml.safe_load((COMPONENT / "prometheusrule.yaml").read_text())
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


@cache
def rules() -> list[Rule]:
    """Every rule, in order."""
    return [
        Rule(
            name=rule.get("alert") or rule["record"],
            expr=rule["expr"],
            alert="alert" in rule,
            labels=rule.get("labels", {}),
            annotations=rule.get("annotations", {}),
        )
        for group in groups()
        for rule in group["rules"]
    ]


def alerts() -> list[Rule]:
    """Every alert."""
    return [rule for rule in rules() if rule.alert]


@cache
def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    found: dict[str, Any] = json.loads((COMPONENT / "dashboard.json").read_text())
    return found


@cache
def panels() -> list[Panel]:
    """Every query of every panel, in order."""
    return [
        Panel(panel["title"], target["expr"], target["legendFormat"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def selectors(expr: str) -> list[Selector]:
    """What a query asks for."""
    return [
        Selector(found[1], tuple((each[1], each[2], each[3]) for each in _MATCHER.finditer(found[2] or "")))
        for found in _SELECTOR.finditer(expr)
    ]


def grouped_by(expr: str) -> set[str]:
    """The labels that a query groups or matches by."""
    return {label.strip() for found in _GROUPING.finditer(expr) for label in found[1].split(",")}
