"""Writes dashboards/raftkv.json: `python deploy/grafana/make_dashboard.py > deploy/grafana/dashboards/raftkv.json`.

What is shown, `panels` says; how Grafana wants it told (ids, grid positions, the same options in every panel) is made
here. A test compares the file with what this writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from panels import ROWS, Panel, Stat

SCHEMA = 41
"""Of Grafana 12; newer ones read it."""
SELECTOR = 'job="$cluster", instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 7
STAT_WIDTH, STAT_HEIGHT = 4, 3
COLUMNS = 24


def dashboard() -> dict[str, Any]:
    return {
        "uid": "raftkv",
        "title": "raftkv",
        "description": "A cluster of raftkv, or of etcd: what has an etcd_ name is the same there.",
        "tags": ["raftkv", "etcd"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_leader_changes()]},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    members = "etcd_server_has_leader"
    for name, label, values in (
        ("cluster", "Cluster", f"label_values({members}, job)"),
        ("instance", "Members", f'label_values({members}{{job="$cluster"}}, instance)'),
    ):
        variable: dict[str, Any] = {"name": name, "label": label, "type": "query", "datasource": SOURCE}
        variable |= {"query": {"query": values, "refId": name}, "definition": values, "refresh": 2, "sort": 1}
        if name == "instance":
            variable |= {
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
            }
        yield variable


def _leader_changes() -> dict[str, Any]:
    query = 'max(changes(etcd_server_leader_changes_seen_total{job="$cluster"}[15s])) > 0'
    line = {"name": "Leader changes", "enable": True, "iconColor": "orange", "datasource": SOURCE}
    return line | {"expr": query, "titleFormat": "The leader changed", "step": "15s"}


def _panels() -> Iterator[dict[str, Any]]:
    number = y = 0
    for title, row in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        y += 1
        x = height = 0
        for panel in row:
            is_stat = isinstance(panel, Stat)
            w, h = (STAT_WIDTH, STAT_HEIGHT) if is_stat else (WIDTH, HEIGHT)
            if x + w > COLUMNS:
                x, y = 0, y + height
            number += 1
            height = h
            grid = {"x": x, "y": y, "w": w, "h": h}
            head = {
                "id": number,
                "title": panel.title,
                "description": panel.about,
                "datasource": SOURCE,
                "gridPos": grid,
            }
            yield (
                head | (_stat(panel) if isinstance(panel, Stat) else _graph(panel)) | {"targets": list(_targets(panel))}
            )
            x += w
        y += height


def _targets(panel: Panel | Stat) -> Iterator[dict[str, Any]]:
    for at, (legend, query) in enumerate(panel.queries.items()):
        yield {
            "refId": chr(ord("A") + at),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": query.replace("$S", SELECTOR),
            "legendFormat": legend,
            "instant": isinstance(panel, Stat),
            "range": not isinstance(panel, Stat),
        }


def _graph(panel: Panel) -> dict[str, Any]:
    lines = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {
        "type": "timeseries",
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": lines}, "overrides": []},
        "options": {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def _stat(panel: Stat) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.is_bad_above_zero:
        steps.append({"color": "red", "value": 1})
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {
        "type": "stat",
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "reduceOptions": reduced,
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "name" if panel.shows_name else "value",
        },
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
