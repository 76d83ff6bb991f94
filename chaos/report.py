"""How a run is shown: tables on a terminal, aligned columns in a pipe, JSON for programs.

Owns every format. Knows nothing of how the verdicts came about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from chaos.checkers.verdict import Result
from chaos.run import Report

_COLOURS: Final = {Result.PASSED: "green", Result.FAILED: "bold red", Result.UNDECIDED: "bold yellow"}


class Table(NamedTuple):
    """Cells as text; the columns in `numbers` go right."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: frozenset[int]


def timeline_table(report: Report) -> Table:
    rows = [
        (
            f"{each.at_s:.1f}",
            f"{each.until_s - each.at_s:.1f}" if each.until_s else "-",
            each.fault,
            each.target,
            ", ".join(each.on),
            each.detail,
        )
        for each in report.timeline
    ]
    return Table("injected", ("at s", "for s", "fault", "target", "on", "how"), rows, frozenset({0, 1}))


def counts_table(report: Report) -> Table:
    rows = [(name, *(f"{count:,}" for count in counts)) for name, counts in report.counts.items()]
    return Table("calls", ("workload", "ok", "failed", "unknown"), rows, frozenset({1, 2, 3}))


def verdict_table(report: Report) -> Table:
    rows = [(each.result.value, each.workload, each.law, each.checked) for each in report.verdicts]
    return Table("verdicts", ("", "of", "law", "checked"), rows, frozenset())


def tables(report: Report) -> list[Table]:
    return [timeline_table(report), counts_table(report), verdict_table(report)]


def headline(report: Report) -> str:
    return (
        f"{report.subject} {report.version}, {report.members} members, {report.seconds:g} s of faults,"
        f" seed {report.seed}"
    )


def conclusion(report: Report) -> str:
    bad = [each for each in report.verdicts if each.result is not Result.PASSED]
    if not bad:
        return f"passed: {len(report.verdicts)} laws held"
    return f"FAILED: {len(bad)} of {len(report.verdicts)} laws did not hold, or could not be decided"


def evidence_lines(report: Report) -> list[str]:
    lines = []
    for each in report.verdicts:
        if each.evidence:
            lines += ["", f"{each.result.value}: {each.workload}: {each.law}"]
            lines += (f"  {line}" for text in each.evidence for line in text.splitlines())
    return lines


def closing_lines(report: Report, command: str, directory: str) -> list[str]:
    lines = [conclusion(report), f"again: {command}"]
    if directory:
        lines.append(f"histories and logs: {directory}")
    return lines


# --- where it is shown ------------------------------------------------------------------------------------------------


def plain(report: Report, command: str, directory: str) -> str:
    """Without colour or lines."""
    parts = [headline(report)]
    for table in tables(report):
        parts += ["", table.title, *(_aligned(table))]
    parts += [*evidence_lines(report), "", *closing_lines(report, command, directory)]
    return "\n".join(parts)


def _aligned(table: Table) -> list[str]:
    grid = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in grid) for column in range(len(table.head))]
    return [
        "  ".join(
            cell.rjust(width) if column in table.numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in grid
    ]


def print_pretty(console: Console, report: Report, command: str, directory: str) -> None:
    console.print(escape(headline(report)), style="bold", highlight=False)
    for table in tables(report):
        shown = RichTable(title=table.title, title_justify="left")
        for column, name in enumerate(table.head):
            shown.add_column(name, justify="right" if column in table.numbers else "left")
        for row in table.rows:
            shown.add_row(*(_coloured(cell) for cell in row))
        console.print(shown)
    for line in evidence_lines(report):
        console.print(escape(line), soft_wrap=True, highlight=False)
    colour = "green" if report.passed else "bold red"
    console.print()
    for number, line in enumerate(closing_lines(report, command, directory)):
        console.print(escape(line), style=colour if number == 0 else "", soft_wrap=True, highlight=False)


def _coloured(cell: str) -> str:
    for result, colour in _COLOURS.items():
        if cell == result.value:
            return f"[{colour}]{cell}[/]"
    return escape(cell)


def as_json(report: Report, command: str, directory: str) -> str:
    found: dict[str, Any] = asdict(report)
    found["passed"] = report.passed
    found["command"] = command
    found["directory"] = directory or None
    found["counts"] = {name: counts._asdict() for name, counts in report.counts.items()}
    found["verdicts"] = [each._asdict() for each in report.verdicts]
    return json.dumps(found, indent=2)
