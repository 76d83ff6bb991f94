"""One comparison from the command to the page: starts the clusters, shows progress, hands the results out."""

from __future__ import annotations

import datetime
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.cases import RATE, Case, Plan
from bench.generators import run_load
from bench.idling import raise_file_limit
from bench.load import LoadError, LoadResult
from bench.machine import look
from bench.report import Comparison, Results
from bench.servers import NullProcess, Program, ServerError, etcd_program, raftkv_program, running
from bench.stage import Report
from bench.suite import Suite

DEFAULT_ROOT: Final = Path("/var/tmp")
"""On most machines /tmp may be memory, where a sync costs nothing; this is a disk."""
_LIMIT_CASE: Final = Case("generator alone", "put", 64, 512)


class CompareOptions(NamedTuple):
    plan: Plan
    suites: tuple[Suite, ...]
    """Whole, or the chosen parts."""
    command: str
    """As typed, to be repeated."""
    json: bool = False
    write: Path | None = None
    etcd: Path | None = None
    root: Path = DEFAULT_ROOT
    """Where the data directories of all members are made, and removed in the end."""


def run(options: CompareOptions) -> None:
    """Measure, show and write. Raises LoadError, ServerError, PageError, OSError.

    A suite that fails ends the run, but not without the results of the suites before it.
    """
    if options.write is not None:
        report.check_page(options.write, options.suites)
    programs = (etcd_program(options.etcd), raftkv_program())
    raise_file_limit()  # the servers inherit it
    directory = Path(tempfile.mkdtemp(prefix="raftkv-bench-", dir=options.root))
    try:
        facts = report.Facts(
            machine=look(directory),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            etcd_version=programs[0].version,
            raftkv_version=programs[1].version,
            command=options.command,
        )
        with _progress(1 + sum(suite.measurement_count(options.plan) for suite in options.suites)) as on_measured:
            results = Results(facts, _measure_generator(options.plan, on_measured), [])
            failure = _compare_all(options, programs, directory, results.comparisons, on_measured)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if results.comparisons:
        _hand_out(options, results)
    if failure is not None:
        raise failure


def _hand_out(options: CompareOptions, results: Results) -> None:
    if options.json:
        print(report.as_json(results))
    else:
        report.print_results(results, Console())
    if options.write is not None:
        report.write_page(options.write, results)


def _compare_all(
    options: CompareOptions,
    programs: Sequence[Program],
    directory: Path,
    comparisons: list[Comparison],
    on_measured: Report,
) -> LoadError | ServerError | None:
    """Fill `comparisons`, up to the first suite that fails. Its failure."""
    for suite in options.suites:
        try:
            comparisons.append(_compare(suite, options.plan, programs, directory / suite.name, on_measured))
        except (LoadError, ServerError) as error:
            return error
    return None


def _measure_generator(plan: Plan, on_measured: Report) -> LoadResult:
    with NullProcess() as null:
        generator = run_load(plan, _LIMIT_CASE, 0, null.port)
    on_measured(f"generator alone: {RATE.form.format(generator.per_s)}")
    return generator


def _compare(suite: Suite, plan: Plan, programs: Sequence[Program], directory: Path, on_measured: Report) -> Comparison:
    """Each stage on fresh clusters: what one has written is not what another measures."""
    comparison = Comparison(suite, plan, [], [])
    for number, stage in enumerate(suite.stages):
        place = directory / str(number)
        with running(programs, place, suite.size, stage.flags) as clusters:
            outcome = stage.run(plan, clusters, on_measured)
        shutil.rmtree(place, ignore_errors=True)
        comparison.rows.extend(outcome.rows)
        comparison.measurements.extend(outcome.measurements)
    return comparison


@contextmanager
def _progress(total: int) -> Iterator[Report]:
    """A moving bar on a terminal, else a line per measurement; both on stderr."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def on_measured(line: str) -> None:
            progress.update(task, advance=1, description=line)
            if not console.is_terminal:
                print(line, file=sys.stderr, flush=True)

        yield on_measured
