"""What a member shows on /metrics, read for tests."""

from __future__ import annotations

import http.client
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

LIST = Path(__file__).with_name("etcd_metrics.toml")
_LINE = re.compile(r"# TYPE (\S+) (\S+)\n")
_SAMPLE = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Listed(NamedTuple):
    """A row of the list."""

    kind: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    absent: bool
    in_35: bool
    """etcd 3.5 has it as well."""


def listed() -> dict[str, Listed]:
    sections: dict[str, dict[str, Any]] = tomllib.loads(LIST.read_text())
    return {name: _row(row) for section in sections.values() for name, row in section.items()}


def _row(row: Any) -> Listed:
    if isinstance(row, str):
        row = {"type": row}
    bounds = tuple(row.get("bounds", ()))
    if "buckets" in row:
        start, factor, count = row["buckets"]
        bounds = tuple(start * factor**power for power in range(count))
    in_35 = "since" not in row and not row.get("later")
    return Listed(row["type"], tuple(row.get("labels", ())), bounds, row.get("absent", False), in_35)


class Page:
    """One answer of /metrics."""

    def __init__(self, status: int, content_type: str, text: str) -> None:
        self.status = status
        self.content_type = content_type
        self.text = text
        self.types: dict[str, str] = dict(_LINE.findall(text))
        """Name of a family, as the page has it -> type."""
        self.samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        """Name of a sample -> its labels, sorted -> value."""
        for line in text.splitlines():
            if not line.startswith("#"):
                self._take(line)

    def _take(self, line: str) -> None:
        # prometheus_client's parser would give a counter the suffix `_total` that etcd's has not.
        sample = _SAMPLE.fullmatch(line)
        assert sample is not None, line
        name, labels, value = sample.groups()
        pairs = [(key, _unescaped(text)) for key, text in _LABEL.findall(labels or "")]
        series = self.samples.setdefault(name, {})
        key = tuple(sorted(pairs))
        assert key not in series, f"twice: {line}"
        series[key] = float(value)

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of all samples that have these labels; 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for key, value in self.samples.get(name, {}).items() if wanted <= set(key))

    def label_names(self, name: str) -> set[tuple[str, ...]]:
        """Of the series of a family, without `le`."""
        sample = f"{name}_count" if self.types[name] == "histogram" else name
        return {tuple(key for key, _ in labels) for labels in self.samples.get(sample, {})}

    def bucket_ends(self, name: str) -> list[str]:
        """The texts of `le` of the first series, in the order of the page."""
        ends: list[str] = re.findall(rf'^{name}_bucket{{.*?le="([^"]+)"', self.text, re.MULTILINE)
        return ends[: ends.index("+Inf") + 1]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)


def get(port: int, path: str = "/metrics") -> tuple[int, str, str]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("content-type", ""), response.read().decode()
    finally:
        connection.close()


def scrape(port: int) -> Page:
    return Page(*get(port))
