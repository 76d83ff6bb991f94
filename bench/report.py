"""How results are shown: tables on a terminal, aligned columns in a pipe, Markdown in a page, JSON.

Owns every format. Knows nothing of how the numbers came about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from bench.cases import Plan
from bench.load import LoadResult
from bench.machine import Machine
from bench.probing import ProbeResult
from bench.rows import Measurement, Row
from bench.suite import Suite

NEW_PAGE: Final = """\
# Benchmarks

raftkv beside the real etcd, measured by `bench/` in one run on one machine.
"""
_WIDEST: Final = 500


class PageError(Exception):
    """The page to write to exists without the marks between which the results of a suite go."""


class Table(NamedTuple):
    """Cells as text. The first `words` columns are words and go left, the others are numbers."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 2


class Facts(NamedTuple):
    """Around the numbers: where, when, what and how."""

    machine: Machine
    date: str
    etcd_version: str
    raftkv_version: str
    command: str


class Comparison(NamedTuple):
    """What came of one suite, or of the chosen part of it."""

    suite: Suite
    plan: Plan
    rows: list[Row]
    measurements: list[Measurement]


class Results(NamedTuple):
    facts: Facts
    generator: LoadResult
    """Against a server that does nothing."""
    comparisons: list[Comparison]


# --- what is shown


def ratio_table(comparison: Comparison) -> Table:
    rows = [
        (
            row.title,
            row.metric,
            _with_spread(row.etcd, row.etcd_spread),
            _with_spread(row.raftkv, row.raftkv_spread),
            _number(row.ratio, "{:.2f}"),
            row.target,
            {None: "", True: "yes", False: "no"}[row.met] + ("?" if row.doubtful else ""),
        )
        for row in comparison.rows
    ]
    return Table("raftkv / etcd", ("workload", "metric", "etcd", "raftkv", "ratio", "target", "met"), rows)


def detail_table(comparison: Comparison) -> Table:
    """The last round of each case in full: one round's columns belong together, medians of each would not."""
    last: dict[tuple[str, str], LoadResult] = {}
    for measurement in comparison.measurements:
        last[measurement.case, measurement.server] = measurement.result
    cases = list(dict.fromkeys(measurement.case for measurement in comparison.measurements))
    rows = [
        (
            case,
            server,
            f"{result.per_s:,.0f}",
            *(f"{ms:.3g}" for ms in (result.p50_ms, result.p90_ms, result.p99_ms)),
            _number(result.server_cpu, "{:.2f}"),
            _number(result.server_cpu_us, "{:,.1f}"),
            _megabytes(result.server_anon_bytes),
            _megabytes(result.server_rss_bytes),
            f"{result.generator_cpu:.2f}",
            _number(result.other_cpu, "{:.2f}"),
        )
        for (case, server), result in sorted(last.items(), key=lambda item: (cases.index(item[0][0]), item[0][1]))
    ]
    head = ("workload", "server", "per s", "p50 ms", "p90 ms", "p99 ms", "cores", "µs/op")
    return Table("the last round", (*head, "anon MB", "RSS MB", "generator", "others"), rows)


def remarks(comparison: Comparison) -> list[str]:
    found = []
    if any(row.doubtful for row in comparison.rows):
        found.append("Rows marked ? are doubtful, for the reasons that follow.")
    seen: set[str] = set()
    for row in comparison.rows:
        if row.notes and row.title not in seen:
            seen.add(row.title)
            found.append(f"{row.title}: {'; '.join(dict.fromkeys(row.notes))}.")
    return found


def general_remarks(results: Results) -> list[str]:
    """What concerns all suites of a run."""
    generator = results.generator
    alone = (
        f"The generator alone, against a server that does nothing: {generator.per_s:,.0f} puts/s"
        f" ({generator.generator_cpu_us:.1f} µs of its processor time each)."
    )
    return [*results.facts.machine.warnings, alone]


def fact_lines(facts: Facts) -> list[str]:
    machine = facts.machine
    measured = f"{facts.date}; raftkv {facts.raftkv_version} on Python {machine.python}, etcd {facts.etcd_version}"
    where = (
        f"{machine.cores} cores of {machine.cpu_model}, {machine.memory_bytes / 2**30:.1f} GiB;"
        f" Linux {machine.kernel}; data on {machine.filesystem}, fdatasync {machine.sync_ms:.2f} ms"
    )
    return [measured, where]


def method_lines(comparison: Comparison) -> list[str]:
    """Each once: several stages may measure in the same way."""
    return list(dict.fromkeys(stage.method(comparison.plan) for stage in comparison.suite.stages))


# --- where it is shown


def plain(table: Table) -> str:
    """Aligned columns, without colour or lines."""
    grid = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in grid) for column in range(len(table.head))]
    lines = []
    for row in grid:
        cells = [
            cell.ljust(width) if column < table.words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def markdown(table: Table) -> str:
    rule = ["---" if column < table.words else "--:" for column in range(len(table.head))]
    lines = [table.head, rule, *table.rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def rich_table(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left")
    for column, name in enumerate(table.head):
        words = column < table.words
        # Only the first column may break its lines.
        widest = max(len(row[column]) for row in (table.head, *table.rows))
        shown.add_column(name, justify="left" if words else "right", min_width=widest if column else min(widest, 16))
    colours = {"yes": "[green]yes[/]", "no": "[red]no[/]"}
    for row in table.rows:
        shown.add_row(*(colours.get(cell, cell) for cell in row))
    return shown


def print_results(results: Results, console: Console) -> None:
    """Tables with lines and colours on a terminal that is wide enough, plain text elsewhere."""
    _print_lines(console, [*fact_lines(results.facts), *general_remarks(results)])
    for comparison in results.comparisons:
        heading = f"{comparison.suite.heading}: raftkv beside etcd"
        _print_lines(console, ["", heading, "=" * len(heading), "", *method_lines(comparison), ""])
        for table in (detail_table(comparison), ratio_table(comparison)):
            if table.rows:
                _print_table(console, table)
        _print_lines(console, remarks(comparison))


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_table(console: Console, table: Table) -> None:
    shown = rich_table(table)
    needed = console.measure(shown, options=console.options.update(width=_WIDEST)).minimum
    if not console.is_terminal:
        console.file.write(f"{plain(table)}\n")
    elif needed <= console.width:
        console.print(shown)
    else:
        console.print(f"(a terminal of {needed} columns would show {table.title})\n", highlight=False)


def as_json(results: Results) -> str:
    facts = results.facts
    return json.dumps(
        {
            "date": facts.date,
            "command": facts.command,
            "versions": {"etcd": facts.etcd_version, "raftkv": facts.raftkv_version},
            "machine": facts.machine._asdict(),
            "generator_alone": results.generator._asdict(),
            "suites": {comparison.suite.name: _suite_json(comparison) for comparison in results.comparisons},
        },
        indent=1,
    )


def _suite_json(comparison: Comparison) -> dict[str, object]:
    return {
        "members": comparison.suite.size,
        "plan": comparison.plan._asdict(),
        "rows": [row._asdict() for row in comparison.rows],
        "measurements": [
            {**measurement._asdict(), "result": measurement.result._asdict()} for measurement in comparison.measurements
        ],
    }


def marks(suite: Suite) -> tuple[str, str]:
    """The lines between which a page has the results of the suite."""
    return (
        f"<!-- measured, {suite.name}: begin; `python -m bench --write` replaces what is between these marks -->",
        f"<!-- measured, {suite.name}: end -->",
    )


def check_page(path: Path, suites: Sequence[Suite]) -> None:
    """Raises PageError when results of one of them would have no place: ask before a long measurement."""
    if path.exists():
        page = path.read_text()
        for suite in suites:
            _split(path, page, suite)


def write_page(path: Path, results: Results) -> None:
    """Put the results between their marks; everything outside them stays. A new page has all that it needs.

    Raises PageError without marks.
    """
    new = not path.exists()
    page = NEW_PAGE if new else path.read_text()
    for comparison in results.comparisons:
        begin, end = marks(comparison.suite)
        if new:
            page += f"\n## {comparison.suite.heading}\n\n{begin}\n{end}\n"
        before, after = _split(path, page, comparison.suite)
        page = f"{before}{begin}\n{_measured(comparison, results)}{end}{after}"
    path.write_text(page)


def _split(path: Path, page: str, suite: Suite) -> tuple[str, str]:
    """What stands before and after the results. Raises PageError."""
    begin, end = marks(suite)
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise PageError(f"{path} has no place for the results: it needs the lines {begin!r} and {end!r}")
    return before, after


def _measured(comparison: Comparison, results: Results) -> str:
    facts = results.facts
    lines = [*(f"- {line}" for line in fact_lines(facts)), f"- Command: `{facts.command}`", ""]
    for line in method_lines(comparison):
        lines += [line, ""]
    lines += [markdown(ratio_table(comparison))]
    lines += [*(f"- {line}" for line in (*general_remarks(results), *remarks(comparison))), ""]
    details = detail_table(comparison)
    if details.rows:
        lines += ["The last round in full:", "", markdown(details)]
    return "\n".join(lines)


def _with_spread(value: str, spread: float) -> str:
    return f"{value} ±{spread:.0%}" if spread else value


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.0f}"


# --- one generator alone


def load_text(result: LoadResult) -> str:
    clients = f"{result.clients} clients, {result.connections} connections, {result.seconds:.1f} s"
    percentiles = f"p50 {result.p50_ms:.3f}  p90 {result.p90_ms:.3f}  p99 {result.p99_ms:.3f}"
    generator = f"{result.generator_cpu:.2f} cores, {result.generator_cpu_us:.1f} µs per operation"
    lines = [
        f"{result.workload}: {result.per_s:,.0f}/s ({clients})",
        f"latency ms: {percentiles}  max {result.max_ms:.3f}",
        f"generator: {generator}, {result.received_mb_per_s:.1f} MB/s received",
    ]
    if result.server_cpu is not None and result.server_cpu_us is not None:
        lines.append(f"server: {result.server_cpu:.2f} cores, {result.server_cpu_us:.1f} µs per operation")
    if result.server_rss_bytes is not None and result.server_anon_bytes is not None:
        lines.append(
            f"server memory: {result.server_rss_bytes / 1e6:.1f} MB resident,"
            f" {result.server_anon_bytes / 1e6:.1f} MB of it anonymous"
        )
    lines += [f"error: {count} x {text}" for text, count in result.errors.items()]
    return "\n".join(lines)


def probe_text(result: ProbeResult) -> str:
    if not result.killed:
        return f"nobody was killed: puts are acknowledged in term {result.term}, so there is another leader"
    lines = [
        load_text(result.before),
        f"writes flow again {result.gap_ms:,.0f} ms after the kill, in term {result.term}",
    ]
    lines += [f"meanwhile: {count} x {text}" for text, count in result.errors.items()]
    return "\n".join(lines)
