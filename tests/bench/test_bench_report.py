"""Each form in which results are shown: terminal, pipe, JSON, page."""

import io
import json
from pathlib import Path

import pytest
from bench_support import result
from rich.console import Console

from bench import cases, report, rows
from bench.machine import look
from bench.probing import ProbeResult
from bench.report import Comparison, Facts, PageError, Results, Table, marks
from bench.rows import Measurement
from bench.suite import CLUSTER, SINGLE, SUITES, Suite


def _comparison(suite: Suite = SINGLE, raftkv_rates: tuple[float, ...] = (1600,)) -> Comparison:
    part = suite.chosen(["64 clients on 64"])
    assert part is not None
    (stage,) = part.stages
    (case,) = stage.cases
    measurements = []
    for number, rate in enumerate(raftkv_rates):
        measurements.append(Measurement(case.title, "etcd", number, result(per_s=1000)))
        measurements.append(Measurement(case.title, "raftkv", number, result(per_s=rate)))
    plan = cases.DEFAULT._replace(rounds=len(raftkv_rates))
    return Comparison(part, plan, rows.rows_of(case, measurements), measurements)


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    return Facts(look(tmp_path), "2026-01-01 00:00 UTC", "3.5.1", "0.1.0", "python -m bench")


@pytest.fixture
def both(facts: Facts) -> Results:
    return Results(facts, result(per_s=60_000), [_comparison(SINGLE, (1600,)), _comparison(CLUSTER, (2500,))])


def test_a_doubtful_verdict_is_marked() -> None:
    comparison = _comparison()
    doubtful = [row._replace(doubtful=True) for row in comparison.rows]
    assert report.ratio_table(comparison).rows[0][-1] == "yes"
    assert report.ratio_table(comparison._replace(rows=doubtful)).rows[0][-1] == "yes?"


def test_what_has_no_ratio_shows_none() -> None:
    row = rows.words_row("catch-up", "caught up by", {"etcd": "log", "raftkv": "snapshot"})
    shown = report.ratio_table(_comparison()._replace(rows=[row])).rows
    assert shown == [("catch-up", "caught up by", "log", "snapshot", "", "", "")]


def test_the_details_are_of_the_last_round_of_each_case() -> None:
    comparison = _comparison(SINGLE, (1500, 1700))
    fewer_rounds = Measurement("catch-up: away", "etcd", 0, result(per_s=500))
    table = report.detail_table(comparison._replace(measurements=[*comparison.measurements, fewer_rounds]))
    assert [row[:3] for row in table.rows] == [
        ("put, 64 clients on 64 connections", "etcd", "1,000"),
        ("put, 64 clients on 64 connections", "raftkv", "1,700"),
        ("catch-up: away", "etcd", "500"),
    ]


def test_each_reason_to_doubt_is_told_once_for_each_case() -> None:
    comparison = _comparison()
    noted = [row._replace(notes=("raftkv: 1 x UNKNOWN: x",)) for row in comparison.rows]
    told = report.remarks(comparison._replace(rows=noted))
    assert told == ["put, 64 clients on 64 connections: raftkv: 1 x UNKNOWN: x."]


def test_a_plain_table_has_aligned_columns() -> None:
    table = Table("t", ("name", "n"), [("a", "1"), ("longer", "1,000")], words=1)
    assert report.plain(table) == "name        n\na           1\nlonger  1,000\n"


def test_a_markdown_table_keeps_its_cells_apart() -> None:
    table = Table("t", ("name", "n"), [("a|b", "1")], words=1)
    assert report.markdown(table) == "| name | n |\n| --- | --: |\n| a\\|b | 1 |\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_suites_are_printed_under_their_headings(both: Results, terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=200, no_color=True)
    report.print_results(both, console)
    text = shown.getvalue()
    single, cluster = text.index("One member: raftkv beside etcd"), text.index("Three members: raftkv beside etcd")
    assert single < text.index("1,600/s") < cluster < text.index("2,500/s")
    assert text.index("≥ 1.5") < cluster < text.index("≥ 2")
    assert text.count("60,000 puts/s") == 1
    assert ("\x1b[" in text) is terminal


def test_a_narrow_terminal_is_told_what_it_would_need(both: Results) -> None:
    shown = io.StringIO()
    report.print_results(both, Console(file=shown, force_terminal=True, width=40, no_color=True))
    assert "columns would show the last round" in " ".join(shown.getvalue().split())


def test_json_holds_rows_and_measurements_of_each_suite(both: Results) -> None:
    data = json.loads(report.as_json(both))
    assert list(data["suites"]) == ["single", "cluster"]
    single, cluster = data["suites"].values()
    assert (single["members"], cluster["members"]) == (1, 3)
    assert single["rows"][0]["met"] is True
    assert cluster["measurements"][1]["result"]["per_s"] == 2500
    assert data["versions"] == {"etcd": "3.5.1", "raftkv": "0.1.0"}


def test_json_without_a_ratio_is_still_json(both: Results) -> None:
    words = rows.words_row("catch-up", "caught up by", {"etcd": "log", "raftkv": "log"})
    comparison = both.comparisons[1]._replace(rows=[words])
    text = report.as_json(both._replace(comparisons=[comparison]))
    assert json.loads(text, parse_constant=pytest.fail)["suites"]["cluster"]["rows"][0]["ratio"] is None


def _page_of(*suites: Suite) -> str:
    page = "by hand, before\n"
    for suite in suites:
        begin, end = marks(suite)
        page += f"{begin}\nold results of {suite.name}\n{end}\nby hand, after {suite.name}\n"
    return page


def test_a_page_keeps_what_is_outside_the_marks(tmp_path: Path, both: Results) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(_page_of(SINGLE, CLUSTER))
    for _ in range(2):
        report.write_page(page, both)
    text = page.read_text()
    assert text.startswith(f"by hand, before\n{marks(SINGLE)[0]}\n- 2026-01-01")
    assert f"{marks(SINGLE)[1]}\nby hand, after single\n{marks(CLUSTER)[0]}\n- 2026-01-01" in text
    assert text.endswith(f"{marks(CLUSTER)[1]}\nby hand, after cluster\n")
    assert "old results" not in text
    assert text.count("- Command: `python -m bench`") == 2
    assert text.index("1,600/s") < text.index(marks(CLUSTER)[0]) < text.index("2,500/s")


def test_a_suite_that_was_not_measured_keeps_its_results(tmp_path: Path, both: Results) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(_page_of(SINGLE, CLUSTER))
    report.write_page(page, both._replace(comparisons=both.comparisons[1:]))
    assert "old results of single" in page.read_text()
    assert "old results of cluster" not in page.read_text()


def test_a_missing_page_is_made_with_a_place_for_each_suite(tmp_path: Path, both: Results) -> None:
    page = tmp_path / "new.md"
    report.check_page(page, SUITES)
    report.write_page(page, both)
    report.check_page(page, (SINGLE, CLUSTER))
    assert page.read_text().index("## One member") < page.read_text().index("## Three members")


@pytest.mark.parametrize(
    "text", ["no marks", _page_of(SINGLE), _page_of(SINGLE, CLUSTER).replace(marks(CLUSTER)[1], "")]
)
def test_a_page_without_the_marks_of_a_suite_is_refused(tmp_path: Path, both: Results, text: str) -> None:
    page = tmp_path / "other.md"
    page.write_text(text)
    with pytest.raises(PageError, match="measured, cluster: begin"):
        report.check_page(page, (CLUSTER,))
    with pytest.raises(PageError):
        report.write_page(page, both)
    assert page.read_text() == text


def test_the_page_of_the_repository_has_its_marks() -> None:
    report.check_page(Path(report.__file__).parent.parent / "docs" / "benchmarks.md", SUITES)


def test_a_failover_is_told_with_its_load() -> None:
    text = report.probe_text(ProbeResult(True, 1234.5, 7, result(per_s=5000), {"UNAVAILABLE: x": 3}))
    assert text.startswith("put: 5,000/s")
    assert "1,234 ms after the kill, in term 7" in text
    assert text.endswith("meanwhile: 3 x UNAVAILABLE: x")


def test_a_spared_leader_is_told() -> None:
    assert "nobody was killed" in report.probe_text(ProbeResult(False, 0.0, 8, result(per_s=1), {}))
