"""Draws the dashboard from what a Prometheus has, without Grafana: one picture for each row, for docs/dashboard.md.

    python deploy/grafana/render.py --prometheus http://127.0.0.1:9090 --seconds 120 --into docs/images

Reads dashboards/raftkv.json, asks Prometheus the very queries of its panels, and draws the answers with matplotlib,
which `pip install --group pictures` brings. The pictures show what Grafana would; they are not pictures of Grafana.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

DASHBOARD = Path(__file__).with_name("dashboards") / "raftkv.json"
STEPS = 120
"""Points in each line."""
MAX_LINES = 8
"""Of one panel; the rest are named in its title."""
CELL_INCHES = (0.5, 0.36)
"""One cell of Grafana's grid."""
DPI = 80
GRID = "#e3e3e8"
SCALES = {
    "s": ((1e-6, "µs"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"), (86400, "d")),
    "bytes": ((1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")),
    "Bps": ((1, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s")),
    "percentunit": ((0.01, "%"),),
    "ops": ((1, "/s"), (1e3, "k/s")),
    "reqps": ((1, "/s"), (1e3, "k/s")),
    "short": ((1, ""), (1e3, "k"), (1e6, "M")),
}
"""Grafana's unit -> sizes from which another word is used."""


class Span(NamedTuple):
    start_s: float
    end_s: float

    @property
    def step_s(self) -> float:
        return max(1.0, (self.end_s - self.start_s) / STEPS)


class Source:
    def __init__(self, url: str, cluster: str, window: str, span: Span) -> None:
        self._url = url.rstrip("/")
        self._values = {"$cluster": cluster, "$instance": ".*", "$__rate_interval": window}
        self.span = span

    def lines(self, query: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Labels -> (seconds since the start, value)."""
        start, end, step = self.span.start_s, self.span.end_s, self.span.step_s
        found = self._ask("query_range", self._filled(query), start=start, end=end, step=step)
        return [(each["metric"], [(at - start, float(value)) for at, value in each["values"]]) for each in found]

    def newest(self, query: str) -> list[tuple[dict[str, str], float]]:
        found = self._ask("query", self._filled(query), time=self.span.end_s)
        return [(each["metric"], float(each["value"][1])) for each in found]

    def _filled(self, query: str) -> str:
        for variable, value in self._values.items():
            query = query.replace(variable, value)
        return query

    def _ask(self, path: str, query: str, **parameters: float) -> Any:
        encoded = urllib.parse.urlencode({"query": query, **parameters})
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{encoded}", timeout=30) as answer:
            return json.load(answer)["data"]["result"]


# --- one panel --------------------------------------------------------------------------------------------------------


def legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), form)


def scale(unit: str, largest: float) -> tuple[float, str]:
    """By what values are divided, and the word behind them."""
    sizes = SCALES.get(unit, ((1, ""),))
    fitting = [each for each in sizes if each[0] <= largest]
    return fitting[-1] if fitting else sizes[0 if largest or unit != "s" else 2]


def with_gaps(points: list[tuple[float, float]], step_s: float) -> Iterator[tuple[float, float]]:
    """A line that ends where there is nothing, as in Grafana."""
    before = math.inf
    for at, value in points:
        if at - before > 1.5 * step_s:
            yield at - step_s, math.nan
        yield at, value
        before = at


def draw_graph(axes: Axes, panel: dict[str, Any], source: Source, marks: list[float]) -> None:
    lines = [
        (legend(target["legendFormat"], labels), points)
        for target in panel["targets"]
        for labels, points in source.lines(target["expr"])
    ]
    lines.sort(key=lambda line: -max((value for _, value in line[1] if math.isfinite(value)), default=0))
    unit = panel["fieldConfig"]["defaults"]["unit"]
    largest = max((value for _, points in lines for _, value in points if math.isfinite(value)), default=0.0)
    divisor, word = scale(unit, largest)
    for name, points in sorted(lines[:MAX_LINES]):
        moments, values = zip(*with_gaps(points, source.span.step_s), strict=True)
        axes.plot(moments, [value / divisor for value in values], linewidth=1.1, label=name)
    title = panel["title"]
    if len(lines) > MAX_LINES:
        title += f" ({MAX_LINES} of {len(lines)} lines)"
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:.4g} {word}".rstrip()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _at: f"{int(at) // 60}:{int(at) % 60:02d}"))
    axes.set_xlim(0, source.span.end_s - source.span.start_s)
    axes.set_ylim(bottom=0, top=None if largest else 1)
    for at in marks:
        axes.axvline(at, color="orange", linestyle="--", linewidth=0.9)
    if lines:
        axes.legend(fontsize=6.5, ncols=2, loc="upper left", bbox_to_anchor=(-0.02, -0.1), frameon=False)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="gray")


def draw_stat(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    [target] = panel["targets"]
    found = source.newest(target["expr"])
    if panel["options"]["textMode"] == "name":
        shown = ", ".join(legend(target["legendFormat"], labels) for labels, _ in found)
    else:
        shown = ", ".join(f"{value:,.0f}" for _, value in found)
    is_bad = any(step["color"] == "red" for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"])
    color = "#c4162a" if is_bad and any(value for _, value in found) else "#37872d"
    axes.set_axis_off()
    axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
    axes.text(0, 0.3, shown or "-", va="center", fontsize=18 if len(shown) < 10 else 12, color=color)


# --- rows -------------------------------------------------------------------------------------------------------------


def rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    heads = [at for at, panel in enumerate(panels) if panel["type"] == "row"]
    for at, until in zip(heads, [*heads[1:], len(panels)], strict=True):
        yield panels[at]["title"], panels[at + 1 : until]


def draw_row(title: str, panels: list[dict[str, Any]], source: Source, marks: list[float]) -> Any:
    top = panels[0]["gridPos"]["y"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) - top
    cell_w, cell_h = CELL_INCHES
    figure = pyplot.figure(figsize=(24 * cell_w, height * cell_h + 0.3))
    figure.suptitle(title, x=0.01, y=0.995, ha="left", va="top", fontsize=11)
    for panel in panels:
        place = panel["gridPos"]
        # In parts of the picture: room on the left for figures, above for the title, below for the legend.
        below = 0.2 if panel["type"] == "stat" else 2.2
        left, bottom = (place["x"] + 1.2) / 24, 1 - (place["y"] - top + place["h"] - below) / height * 0.97 - 0.03
        axes = figure.add_axes((left, bottom, (place["w"] - 1.6) / 24, (place["h"] - below - 0.9) / height * 0.97))
        axes.tick_params(labelsize=7, length=2)
        axes.grid(color=GRID, linewidth=0.6)
        for side in axes.spines.values():
            side.set_color(GRID)
        if panel["type"] == "stat":
            draw_stat(axes, panel, source)
        else:
            draw_graph(axes, panel, source, marks)
    return figure


def leader_changes(source: Source) -> list[float]:
    """Seconds since the start at which the dashboard marks one: the first moment of each."""
    [annotation] = json.loads(DASHBOARD.read_text())["annotations"]["list"]
    moments = [at for _, points in source.lines(annotation["expr"]) for at, _ in points]
    earlier = [-math.inf, *moments]
    return [at for before, at in zip(earlier, moments, strict=False) if at - before > 1.5 * source.span.step_s]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the dashboard from what a Prometheus has.")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--cluster", default="etcd", metavar="JOB", help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="the last; default %(default)s")
    parser.add_argument("--window", default="20s", metavar="T", help="of rates; default %(default)s")
    parser.add_argument("--into", type=Path, default=Path("docs/images"), metavar="DIR", help="default %(default)s")
    options = parser.parse_args()
    now = time.time()
    source = Source(options.prometheus, options.cluster, options.window, Span(now - options.seconds, now))
    marks = leader_changes(source)
    options.into.mkdir(parents=True, exist_ok=True)
    for title, panels in rows():
        path = options.into / f"dashboard-{title.lower().replace(' ', '-')}.png"
        draw_row(title, panels, source, marks).savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
        pyplot.close("all")


if __name__ == "__main__":
    main()
