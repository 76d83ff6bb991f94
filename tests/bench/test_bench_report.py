"""From measurements to rows with a verdict, and from rows to each form in which they are shown."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench import report, suite
from bench.load import LoadResult
from bench.machine import look
from bench.report import BEGIN, END, Facts, PageError, Table
from bench.suite import Comparison, Measurement, Target


def _result(per_s: float, errors: dict[str, int] | None = None) -> LoadResult:
    return LoadResult(
        workload="put",
        connections=64,
        clients=64,
        seconds=1.0,
        operations=int(per_s),
        per_s=per_s,
        mean_ms=1.0,
        p50_ms=1.0,
        p90_ms=2.0,
        p99_ms=3.0,
        max_ms=4.0,
        received_mb_per_s=1.0,
        errors=errors or {},
        generator_cpu=0.5,
        generator_cpu_us=10.0,
        server_cpu=1.0,
        server_cpu_us=20.0,
        other_cpu=0.0,
        server_rss_bytes=100_000_000,
        server_anon_bytes=20_000_000,
        server_file_bytes=0,
    )


def _comparison(raftkv_rates: list[float], errors: dict[str, int] | None = None) -> Comparison:
    (case,) = suite.chosen(["put, 64 clients on 64"])
    measurements = []
    for number, rate in enumerate(raftkv_rates):
        measurements.append(Measurement(case.title, "etcd", number, _result(1000)))
        measurements.append(Measurement(case.title, "raftkv", number, _result(rate, errors)))
    rows = suite.rows_of(case, measurements)
    plan = suite.DEFAULT._replace(rounds=len(raftkv_rates))
    return Comparison(plan, (case,), _result(60_000), rows, measurements)


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts(look(tmp_path), "2026-01-01 00:00 UTC", "3.5.1", "0.1.0", "python -m bench")


@pytest.mark.parametrize(
    ("rates", "ratio", "met"),
    [([1400, 1600, 9000], 1.6, True), ([1499, 1499, 1600], 1.499, False)],
)
def test_the_median_of_the_rounds_decides(rates: list[float], ratio: float, met: bool) -> None:
    row = _comparison(rates).rows[0]
    assert row.ratio == pytest.approx(ratio)
    assert row.met is met
    assert row.raftkv_spread == pytest.approx((max(rates) - min(rates)) / 2 / sorted(rates)[1])


def test_a_target_is_not_met_by_failing_calls() -> None:
    row = _comparison([9000], {"UNKNOWN: x": 1}).rows[0]
    assert row.met is False
    assert row.doubtful
    assert row.notes == ("raftkv: 1 x UNKNOWN: x",)


def test_a_row_that_others_disturbed_is_marked() -> None:
    comparison = _comparison([1600])
    disturbed = [
        measurement._replace(result=measurement.result._replace(other_cpu=0.6))
        for measurement in comparison.measurements
    ]
    rows = suite.rows_of(comparison.cases[0], disturbed)
    assert rows[0].met
    assert rows[0].notes == tuple(f"{name}: other programs took up to 0.6 cores" for name in ("etcd", "raftkv"))
    shown = report.ratio_table(comparison._replace(rows=rows)).rows[0]
    assert shown[-1] == "yes?"
    assert report.ratio_table(comparison).rows[0][-1] == "yes"


def test_targets_are_inclusive() -> None:
    assert Target(1.1, at_most=True).met(1.1)
    assert Target(1.5, at_most=False).met(1.5)
    assert not Target(1.1, at_most=True).met(1.11)


def test_a_plain_table_has_aligned_columns() -> None:
    table = Table("t", ("name", "n"), [("a", "1"), ("longer", "1,000")], words=1)
    assert report.plain(table) == "name        n\na           1\nlonger  1,000\n"


def test_a_markdown_table_keeps_its_cells_apart() -> None:
    table = Table("t", ("name", "n"), [("a|b", "1")], words=1)
    assert report.markdown(table) == "| name | n |\n| --- | --: |\n| a\\|b | 1 |\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_both_tables_and_the_remarks_are_printed(facts: Facts, terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=200, no_color=True)
    report.print_comparison(_comparison([1600]), facts, console)
    text = shown.getvalue()
    assert "put, 64 clients on 64 connections" in text
    assert "1,600/s" in text
    assert "≥ 1.5" in text
    assert "60,000 puts/s" in text
    assert ("\x1b[" in text) is terminal


def test_json_holds_rows_and_measurements(facts: Facts) -> None:
    data = json.loads(report.as_json(_comparison([1600]), facts))
    assert data["rows"][0]["met"] is True
    assert data["measurements"][1]["result"]["per_s"] == 1600
    assert data["versions"] == {"etcd": "3.5.1", "raftkv": "0.1.0"}


def test_a_page_keeps_what_is_outside_the_marks(tmp_path: Path, facts: Facts) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"by hand, before\n{BEGIN}\nold results\n{END}\nby hand, after\n")
    for _ in range(2):
        report.write_page(page, _comparison([1600]), facts)
    text = page.read_text()
    assert text.startswith(f"by hand, before\n{BEGIN}\n- 2026-01-01")
    assert text.endswith(f"{END}\nby hand, after\n")
    assert "old results" not in text
    assert "- Command: `python -m bench`" in text


def test_a_missing_page_is_made_and_one_without_marks_is_refused(tmp_path: Path, facts: Facts) -> None:
    report.write_page(tmp_path / "new.md", _comparison([1600]), facts)
    assert BEGIN in (tmp_path / "new.md").read_text()
    (tmp_path / "other.md").write_text("no marks")
    with pytest.raises(PageError):
        report.check_page(tmp_path / "other.md")


def test_the_page_of_the_repository_has_its_marks() -> None:
    report.check_page(Path(report.__file__).parent.parent / "docs" / "benchmarks.md")
