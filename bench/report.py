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

from bench.load import LoadResult
from bench.machine import Machine
from bench.suite import Comparison

BEGIN: Final = "<!-- measured: begin; `python -m bench --write` replaces what is between these marks -->"
END: Final = "<!-- measured: end -->"

NEW_PAGE: Final = """\
# Benchmarks

raftkv beside the real etcd, measured by `bench/` in one run on one machine.

"""


_WIDEST: Final = 500


class PageError(Exception):
    """The page to write to exists without the marks between which results go."""


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


# --- what is shown


def ratio_table(comparison: Comparison) -> Table:
    rows = [
        (
            row.title,
            row.metric,
            _with_spread(row.etcd, row.etcd_spread),
            _with_spread(row.raftkv, row.raftkv_spread),
            f"{row.ratio:.2f}",
            row.target,
            {None: "", True: "yes", False: "no"}[row.met] + ("?" if row.doubtful else ""),
        )
        for row in comparison.rows
    ]
    return Table("raftkv / etcd", ("workload", "metric", "etcd", "raftkv", "ratio", "target", "met"), rows)


def detail_table(comparison: Comparison) -> Table:
    """The last round in full: one round's columns belong together, medians of each would not."""
    last = comparison.plan.rounds - 1
    rows = []
    for measurement in comparison.measurements:
        if measurement.round != last:
            continue
        result = measurement.result
        rows.append(
            (
                measurement.case,
                measurement.server,
                f"{result.per_s:,.0f}",
                *(f"{ms:.3g}" for ms in (result.p50_ms, result.p90_ms, result.p99_ms)),
                _number(result.server_cpu, "{:.2f}"),
                _number(result.server_cpu_us, "{:,.1f}"),
                _megabytes(result.server_anon_bytes),
                _megabytes(result.server_rss_bytes),
                f"{result.generator_cpu:.2f}",
                _number(result.other_cpu, "{:.2f}"),
            )
        )
    rows.sort(key=lambda row: ([case.title for case in comparison.cases].index(row[0]), row[1]))
    head = ("workload", "server", "per s", "p50 ms", "p90 ms", "p99 ms", "cores", "µs/op")
    return Table("the last round", (*head, "anon MB", "RSS MB", "generator", "others"), rows)


def remarks(comparison: Comparison, machine: Machine) -> list[str]:
    found = list(machine.warnings)
    generator = comparison.generator
    found.append(
        f"The generator alone, against a server that does nothing: {generator.per_s:,.0f} puts/s"
        f" ({generator.generator_cpu_us:.1f} µs of its processor time each)."
    )
    if any(row.doubtful for row in comparison.rows):
        found.append("Rows marked ? are doubtful, for the reasons that follow.")
    seen: set[str] = set()
    for row in comparison.rows:
        if row.notes and row.title not in seen:
            seen.add(row.title)
            found.append(f"{row.title}: {'; '.join(dict.fromkeys(row.notes))}.")
    return found


def fact_lines(facts: Facts) -> list[str]:
    machine = facts.machine
    measured = f"{facts.date}; raftkv {facts.raftkv_version} on Python {machine.python}, etcd {facts.etcd_version}"
    where = (
        f"{machine.cores} cores of {machine.cpu_model}, {machine.memory_bytes / 2**30:.1f} GiB;"
        f" Linux {machine.kernel}; data on {machine.filesystem}, fdatasync {machine.sync_ms:.2f} ms"
    )
    return [measured, where]


def method_line(comparison: Comparison) -> str:
    plan = comparison.plan
    return (
        f"Medians of {plan.rounds} alternating round{'s' if plan.rounds > 1 else ''} of {plan.seconds:g} s"
        f" after {plan.warmup_s:g} s of warm-up; ± is half the range. Values of 256 bytes;"
        f" {plan.read_keys:,} keys to read."
    )


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


def print_comparison(comparison: Comparison, facts: Facts, console: Console) -> None:
    """Tables with lines and colours on a terminal that is wide enough, plain text elsewhere."""
    for line in (*fact_lines(facts), method_line(comparison), ""):
        console.print(line, highlight=False, soft_wrap=True)
    for table in (detail_table(comparison), ratio_table(comparison)):
        shown = rich_table(table)
        needed = console.measure(shown, options=console.options.update(width=_WIDEST)).minimum
        if not console.is_terminal:
            console.file.write(f"{plain(table)}\n")
        elif needed <= console.width:
            console.print(shown)
        else:
            console.print(f"(a terminal of {needed} columns would show {table.title})\n", highlight=False)
    for line in remarks(comparison, facts.machine):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def as_json(comparison: Comparison, facts: Facts) -> str:
    return json.dumps(
        {
            "date": facts.date,
            "command": facts.command,
            "versions": {"etcd": facts.etcd_version, "raftkv": facts.raftkv_version},
            "machine": facts.machine._asdict(),
            "plan": comparison.plan._asdict(),
            "generator_alone": comparison.generator._asdict(),
            "rows": [row._asdict() for row in comparison.rows],
            "measurements": [
                {**measurement._asdict(), "result": measurement.result._asdict()}
                for measurement in comparison.measurements
            ],
        },
        indent=1,
    )


def check_page(path: Path) -> tuple[str, str]:
    """What stands before and after the results. Raises PageError, so ask before a long measurement."""
    page = path.read_text() if path.exists() else f"{NEW_PAGE}{BEGIN}\n{END}\n"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise PageError(f"{path} has no lines {BEGIN!r} and {END!r}")
    return before, after


def write_page(path: Path, comparison: Comparison, facts: Facts) -> None:
    """Put the results between the marks; everything outside them stays. Raises PageError without marks."""
    before, after = check_page(path)
    path.write_text(f"{before}{BEGIN}\n{_measured(comparison, facts)}{END}{after}")


def _measured(comparison: Comparison, facts: Facts) -> str:
    lines = [*(f"- {line}" for line in fact_lines(facts)), f"- Command: `{facts.command}`", ""]
    lines += [method_line(comparison), "", markdown(ratio_table(comparison))]
    lines += [*(f"- {line}" for line in remarks(comparison, facts.machine)), ""]
    lines += ["The last round in full:", "", markdown(detail_table(comparison))]
    return "\n".join(lines)


def _with_spread(value: str, spread: float) -> str:
    return f"{value} ±{spread:.0%}" if spread else value


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _megabytes(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.0f}"


# --- one measurement


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
