"""deploy/grafana by itself: the file is what its makers write, and Grafana and Prometheus will find what it names."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import yaml
from prometheus_support import DASHBOARD, DEPLOY, dashboard, dashboard_queries, known_names, names_in, panels

GRAFANA = DEPLOY / "grafana"
COLUMNS = 24


def test_the_file_is_current() -> None:
    maker = [sys.executable, str(GRAFANA / "make_dashboard.py")]
    made = subprocess.run(maker, capture_output=True, text=True, check=True, timeout=60).stdout
    assert DASHBOARD.read_text() == made, (
        "run: python deploy/grafana/make_dashboard.py > deploy/grafana/dashboards/raftkv.json"
    )


def test_it_asks_only_for_what_there_is() -> None:
    asked = {name for _, query in dashboard_queries("1m") for name in names_in(query)}
    assert len(asked) > 60
    assert asked <= known_names()


def test_every_panel_is_of_the_chosen_cluster() -> None:
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert 'job="$cluster"' in target["expr"], panel["title"]
            assert "$S" not in target["expr"]


def test_variables() -> None:
    variables = {each["name"]: each for each in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["instance"]["includeAll"]


def test_nothing_lies_on_top_of_anything_else() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert grid["x"] + grid["w"] <= COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells
    tops = [panel["gridPos"]["y"] for panel in everything]
    assert all(upper <= lower for upper, lower in pairwise(tops)), "in reading order"


def test_what_is_provisioned() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/raftkv.yaml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
