"""deploy/grafana/render.py, the tool that draws docs/images: what it does with the answers of a Prometheus."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_support import DEPLOY

pytest.importorskip("matplotlib", reason="no matplotlib: pip install --group pictures")
sys.path.insert(0, str(DEPLOY / "grafana"))
render: Any = pytest.importorskip("render")

MADE_UP = {"instance": "m0", "grpc_method": "Put", "grpc_code": "Internal", "To": "7", "prefix": "p", "port": "client"}


class Answers:
    """In the place of a Prometheus: two minutes with a hole in them."""

    span = render.Span(1000.0, 1120.0)

    def lines(self, query: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        if "leader_changes" in query and "max" in query:
            return [({}, [(60.0, 1.0), (61.0, 1.0), (90.0, 1.0)])]
        return [(MADE_UP, [(float(at), at * 0.001) for at in range(120) if not 50 < at < 70])]

    def newest(self, query: str) -> list[tuple[dict[str, str], float]]:
        return [(MADE_UP, float("ALERTS" in query))]


def test_every_row_of_the_dashboard_is_drawn(tmp_path: Path) -> None:
    source = Answers()
    assert render.leader_changes(source) == [60.0, 90.0], "the first moment of each"
    titles = []
    for title, panels in render.rows():
        figure = render.draw_row(title, panels, source, [60.0])
        assert [axes.get_title(loc="left") for axes in figure.axes] == [panel["title"] for panel in panels]
        figure.savefig(tmp_path / "row.png", dpi=20)
        render.pyplot.close(figure)
        titles.append(title)
    assert titles[0] == "Cluster"


def test_a_line_ends_where_there_is_nothing() -> None:
    points = [(1.0, 5.0), (2.0, 6.0), (9.0, 7.0)]
    found = list(render.with_gaps(points, 1.0))
    assert [at for at, _ in found] == [1.0, 2.0, 8.0, 9.0]
    assert math.isnan(found[2][1])


def test_words_behind_values_and_in_legends() -> None:
    assert render.scale("s", 0.02) == (1e-3, "ms")
    assert render.scale("bytes", 3 << 20) == (1 << 20, "MiB")
    assert render.scale("s", 0.0) == (1, "s")
    assert render.scale("none", 7.0) == (1, "")
    assert render.legend("99 % {{instance}} to {{To}}{{missing}}", MADE_UP) == "99 % m0 to 7"
