"""From measurements to rows: medians, ratios, verdicts, and the reasons to doubt them.

Knows nothing of how anything was measured or will be shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bench import procfs
from bench.cases import Case, Target
from bench.load import LoadResult

DISTURBED: Final = 0.25
"""Cores taken by other programs from which a measurement is remarked on."""
PROGRAMS: Final = ("etcd", "raftkv")
"""In this order everywhere: a ratio is the second's value divided by the first's."""


class Measurement(NamedTuple):
    case: str
    server: str
    """The program's name."""
    round: int
    result: LoadResult
    doubts: tuple[str, ...] = ()
    """What happened around it that the result does not show."""


class Row(NamedTuple):
    """One line of the comparison. Values are medians; spreads are (max - min) / 2 over the median."""

    title: str
    metric: str
    etcd: str
    etcd_spread: float
    raftkv: str
    raftkv_spread: float
    ratio: float | None
    """None where there is none: of words, or with 0 below the line."""
    target: str
    met: bool | None
    doubtful: bool
    """Failed calls, other programs or the generator may have made the result, rather than the servers."""
    notes: tuple[str, ...]


class Outcome(NamedTuple):
    """Of one stage of a suite."""

    rows: list[Row]
    measurements: list[Measurement]
    """What was measured with a load, for the details; not every row need rest on them."""


class Doubts(NamedTuple):
    """About all rows of a case."""

    notes: tuple[str, ...] = ()
    failed: bool = False
    """Calls to raftkv failed: then no target is met."""


CERTAIN: Final = Doubts()


def values_row(
    title: str,
    metric: tuple[str, str],
    values: Mapping[str, Sequence[float]],
    target: Target | None = None,
    doubts: Doubts = CERTAIN,
) -> Row:
    """`metric`: its name, and the format of a value. `values`: of each program, one for each round."""
    name, form = metric
    etcd, raftkv = (statistics.median(values[program]) for program in PROGRAMS)
    ratio = _ratio(raftkv, etcd)
    return Row(
        title=title,
        metric=name,
        etcd=form.format(etcd),
        etcd_spread=_spread(values["etcd"]),
        raftkv=form.format(raftkv),
        raftkv_spread=_spread(values["raftkv"]),
        ratio=ratio,
        target=str(target) if target else "",
        met=target.met(ratio, raftkv) and not doubts.failed if target else None,
        doubtful=bool(doubts.notes),
        notes=doubts.notes,
    )


def words_row(title: str, metric: str, words: Mapping[str, str]) -> Row:
    """What is no number."""
    return Row(title, metric, words["etcd"], 0.0, words["raftkv"], 0.0, None, "", None, False, ())


def rows_of(case: Case, measurements: Sequence[Measurement]) -> list[Row]:
    """One row per metric of the case. A target is not met by a run with failed calls."""
    results = {
        program: [m.result for m in measurements if m.case == case.title and m.server == program]
        for program in PROGRAMS
    }
    doubts = doubts_of([m for m in measurements if m.case == case.title])
    return [
        values_row(
            case.title,
            (metric.name, metric.form),
            {program: [metric.read(result) for result in results[program]] for program in PROGRAMS},
            target,
            doubts,
        )
        for metric, target in case.metrics
    ]


def doubts_of(measurements: Sequence[Measurement]) -> Doubts:
    """Of measurements that make one row together."""
    by_program = {program: [m for m in measurements if m.server == program] for program in PROGRAMS}
    notes = tuple(note for program, ours in by_program.items() for note in _notes(program, ours))
    return Doubts(notes, any(m.result.errors for m in by_program["raftkv"]))


def _notes(program: str, measurements: Sequence[Measurement]) -> list[str]:
    results = [measurement.result for measurement in measurements]
    notes = [f"{program}: {count} x {text}" for result in results for text, count in result.errors.items()]
    notes += [f"{program}: {doubt}" for measurement in measurements for doubt in measurement.doubts]
    if any(result.generator_bound for result in results):
        notes.append(f"{program}: generator-bound")
    disturbed = max((result.other_cpu or 0.0 for result in results), default=0.0)
    if disturbed >= DISTURBED:
        notes.append(f"{program}: other programs took up to {disturbed:.1f} cores")
    return notes


def owned_bytes(program: str, memory: procfs.Memory) -> int:
    """etcd's heap is its resident memory; of raftkv's, the mapped file belongs to the page cache."""
    return memory.rss_bytes if program == "etcd" else memory.anon_bytes


def memory_row(title: str, memories: Mapping[str, procfs.Memory], target: Target | None = None) -> Row:
    etcd, raftkv = (memories[program] for program in PROGRAMS)
    owned_mb = {program: [owned_bytes(program, memory) / 1e6] for program, memory in memories.items()}
    row = values_row(title, ("anonymous / RSS", "{:.1f} MB"), owned_mb, target)
    notes = (
        f"etcd anonymous {etcd.anon_bytes / 1e6:.1f} MB",
        f"raftkv resident {raftkv.rss_bytes / 1e6:.1f} MB",
    )
    return row._replace(notes=notes)


def _ratio(raftkv: float, etcd: float) -> float | None:
    return raftkv / etcd if etcd else None


def _spread(values: Sequence[float]) -> float:
    median = statistics.median(values)
    return (max(values) - min(values)) / 2 / median if median else 0.0
