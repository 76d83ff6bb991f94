"""One comparison from the command to the page: starts the servers, shows progress, hands the results out."""

from __future__ import annotations

import datetime
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.machine import look
from bench.servers import NullProcess, Server, etcd_program, raftkv_program, running
from bench.suite import Case, Comparison, Plan, compare, measurement_count

DEFAULT_ROOT: Final = Path("/var/tmp")
"""On most machines /tmp may be memory, where a sync costs nothing; this is a disk."""


class CompareOptions(NamedTuple):
    plan: Plan
    cases: tuple[Case, ...]
    command: str
    """As typed, to be repeated."""
    json: bool = False
    write: Path | None = None
    etcd: Path | None = None
    root: Path = DEFAULT_ROOT
    """Where the data directories of both servers are made, and removed in the end."""


def run(options: CompareOptions) -> None:
    """Measure, show and write. Raises LoadError, ServerError, PageError, OSError."""
    if options.write is not None:
        report.check_page(options.write)
    programs = (etcd_program(options.etcd), raftkv_program())
    directory = Path(tempfile.mkdtemp(prefix="raftkv-bench-", dir=options.root))
    try:
        facts = report.Facts(
            machine=look(directory),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            etcd_version=programs[0].version,
            raftkv_version=programs[1].version,
            command=options.command,
        )
        with running(programs, directory) as (etcd, raftkv), NullProcess() as null:
            comparison = _compare(options, etcd, raftkv, null.port)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if options.json:
        print(report.as_json(comparison, facts))
    else:
        report.print_comparison(comparison, facts, Console())
    if options.write is not None:
        report.write_page(options.write, comparison, facts)


def _compare(options: CompareOptions, etcd: Server, raftkv: Server, null_port: int) -> Comparison:
    """With a moving bar on a terminal, else a line per measurement; both on stderr."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=measurement_count(options.plan, options.cases))

        def on_measured(line: str) -> None:
            progress.update(task, advance=1, description=line)
            if not console.is_terminal:
                print(line, file=sys.stderr, flush=True)

        return compare(options.plan, options.cases, etcd, raftkv, null_port, on_measured)
