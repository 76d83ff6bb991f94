"""deploy/prometheus/raftkv.rules.yaml by itself: promtool judges it, and every alert is seen to fire, and not to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_support import RULE_TESTS, RULES, alerts, known_names, names_in, records, rules, tool

SEVERITIES = {"critical", "warning"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_promtool_can_read_the_rules() -> None:
    checked = run(tool("promtool"), "check", "rules", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    tested = run(tool("promtool"), "test", "rules", str(path))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_seen_to_fire_and_each_story_has_a_quiet_time() -> None:
    fired: set[tuple[str, str]] = set()
    for path in RULE_TESTS:
        for story in yaml.safe_load(path.read_text())["tests"]:
            looks = story["promql_expr_test"]
            assert all("ALERTS" in look["expr"] for look in looks), story["name"]
            fired |= {_which(sample["labels"]) for look in looks for sample in look["exp_samples"]}
            # Where a certificate is about to end from the start, the other members' are the quiet ones.
            assert any(not look["exp_samples"] for look in looks) or "certificates" in story["name"], story["name"]
    there = {(alert["alert"], alert["labels"]["severity"]) for alert in alerts()}
    assert {(name, severity) for name, severity in fired if severity} == there


def _which(labels: str) -> tuple[str, str]:
    pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    return pairs["alertname"], pairs.get("severity", "")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"Raftkv([A-Z][a-z]+)+", alert["alert"])
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    told = alert["annotations"]
    assert told.keys() == {"summary", "description", "runbook"}
    assert told["summary"].endswith(".")
    assert "{{" not in told["summary"]
    assert "{{ $labels." in told["description"], "who it is about"
    assert told["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_rules_ask_only_for_what_there_is() -> None:
    asked = {name for rule in rules() for name in names_in(rule["expr"])}
    assert len(asked) > 40
    assert asked <= known_names()
    used = {name for alert in alerts() for name in names_in(alert["expr"])}
    assert set(records()) <= used, "nothing is recorded for nobody"
