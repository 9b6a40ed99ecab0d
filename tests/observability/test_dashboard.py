"""The dashboard is one that Grafana shows, and docs/observability.md tells what it showed in a real run."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.observability.monitoring import Panel, dashboard, panels
from tests.observability.prometheus import Series
from tests.observability.run import Answer
from tests.observability.table import PAGE, queries_in, shown, written


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    all_panels = dashboard()["panels"]
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    for one, other in combinations((panel["gridPos"] for panel in all_panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@pytest.mark.parametrize(
    "panel", [one for one in dashboard()["panels"] if one["type"] != "row"], ids=lambda one: one["title"]
)
def test_a_panel_asks_the_chosen_prometheus_for_the_chosen_namespace(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    targets = panel["targets"]
    assert len({target["refId"] for target in targets}) == len(targets) > 0
    assert all('namespace=~"$namespace"' in target["expr"] for target in targets)


def test_the_variables_that_queries_use_are_defined() -> None:
    assert {variable["name"] for variable in dashboard()["templating"]["list"]} == {"datasource", "namespace"}


def test_the_docs_show_a_result_of_every_panel() -> None:
    """Renew the table with `python -m tests.observability.table`."""
    assert queries_in(PAGE.read_text()) == [shown(panel) for panel in panels()]


def test_a_row_without_a_result_is_not_taken_for_one() -> None:
    panel = Panel("Requests", 'a{b=~"c|d"}', "")
    page = written("text\n", [Answer(panel, [Series({"traffic": "otp"}, 1.0), Series({}, 2.0)])])
    assert queries_in(page) == [shown(panel)]
    assert queries_in(page.replace("| 2 | 2 |", "| 0 |  |")) == []
