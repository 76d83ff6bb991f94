"""The files under deploy/ that Prometheus and Grafana read, and a real Prometheus to try them with."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.processes import free_port
from helpers.waiting import wait_until

from raftkv.metrics import BY_NAME
from raftkv.metrics.family import Kind

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "raftkv.rules.yaml"
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml"))
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "raftkv.json"
JOB = "etcd"
_NAME = re.compile(r"\b(?:etcd|raftkv|grpc|process|os|instance)[a-z0-9_:]*[_:][a-z0-9_]+")
_IN_BRACES = re.compile(r"\{[^}]*\}|\b(?:by|on|group_left|group_right|without|ignoring) \([^)]*\)|\"[^\"]*\"")

OF_PROMETHEUS_CLIENT = {
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}


def tool(name: str) -> str:
    """The path of a program of Debian's package prometheus; skips the test without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on the PATH: it is in Debian's package prometheus")
    return found


# --- the files --------------------------------------------------------------------------------------------------------


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def records() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def dashboard() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return parsed


def panels() -> list[dict[str, Any]]:
    """Without the heads of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries(window: str) -> Iterator[tuple[str, str]]:
    """Title and legend -> query as Grafana would send it, for all members of the cluster."""
    values = {"$cluster": JOB, "$instance": ".*", "$__rate_interval": window}
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in values.items():
                query = query.replace(variable, value)
            yield f"{panel['title']}: {target['legendFormat']}", query


def names_in(query: str) -> set[str]:
    """Of the series that a query asks for."""
    return set(_NAME.findall(_IN_BRACES.sub("", query)))


def known_names() -> set[str]:
    """Every series that a raftkv shows, by docs/metrics.md, and those that the rules record."""
    names = OF_PROMETHEUS_CLIENT | set(records())
    for name, family in BY_NAME.items():
        suffixes = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
        names |= {name + suffix for suffix in suffixes}
    return names


# --- Prometheus -------------------------------------------------------------------------------------------------------


class Prometheus:
    """A Prometheus of the test's own, that scrapes every other second and has raftkv's rules."""

    def __init__(self, directory: Path, targets: dict[str, str]) -> None:
        """`targets`: what each is called -> its address."""
        self._directory = directory
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        named = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": JOB, "static_configs": named}],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def start(self) -> Prometheus:
        command = [
            tool("prometheus"),
            f"--config.file={self._directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until("Prometheus is ready", self._ready)
        return self

    @property
    def _log(self) -> Path:
        return self._directory / "prometheus.log"

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{parameters}: {refusal.read().decode()}") from None

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """What a query answers now: labels and value of each series. What is not a number is left out."""
        found = self.get("query", query=query)["result"]
        series = [(each["metric"], float(each["value"][1])) for each in found]
        return [(labels, value) for labels, value in series if not math.isnan(value)]
