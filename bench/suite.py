"""The comparison: which cases are measured, in which order, and what comes out as rows with a verdict.

Both servers run from the first measurement to the last, and only one is driven at a time. In every round each
case is measured on both, one right after the other, in turns who is first; a result is the median of the
rounds.
Knows nothing of how results are shown.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from bench import procfs
from bench.driving import WATCH
from bench.load import LoadError, LoadResult
from bench.servers import HOST, REPOSITORY, Server

DISTURBED: Final = 0.25
"""Cores taken by other programs from which a measurement is remarked on."""
MEASUREMENT_LIMIT_S: Final = 180.0
"""For one measurement with its preloading. Beyond, the suite ends: something hangs."""


class Plan(NamedTuple):
    rounds: int
    seconds: float
    warmup_s: float
    read_keys: int
    """Keys under the prefix that ranges and lists read."""


QUICK: Final = Plan(rounds=1, seconds=0.8, warmup_s=0.2, read_keys=5_000)
DEFAULT: Final = Plan(rounds=3, seconds=2.0, warmup_s=0.5, read_keys=50_000)


class Metric(NamedTuple):
    """One number of a measurement and how it is written."""

    name: str
    read: Callable[[LoadResult], float]
    form: str


RATE: Final = Metric("per second", lambda result: result.per_s, "{:,.0f}/s")
COST: Final = Metric("server CPU", lambda result: result.server_cpu_us or 0.0, "{:,.1f} µs")
"""Per operation. Other programs on the machine change it least."""
P50: Final = Metric("p50", lambda result: result.p50_ms, "{:.3g} ms")
P99: Final = Metric("p99", lambda result: result.p99_ms, "{:.3g} ms")


class Target(NamedTuple):
    """What raftkv's value divided by etcd's must reach."""

    limit: float
    at_most: bool

    def met(self, ratio: float) -> bool:
        return ratio <= self.limit if self.at_most else ratio >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


Metrics = tuple[tuple[Metric, Target | None], ...]


class Case(NamedTuple):
    title: str
    workload: str
    connections: int
    clients: int
    metrics: Metrics = ((RATE, None), (P99, None), (COST, None))
    prefix: str = "put/"
    """`{round}` in it is replaced, for keys that must be new in every round."""
    key_space: int | None = 100_000
    """None: the plan's read_keys."""
    deadline_s: float | None = None


_FASTER: Final = Target(1.5, at_most=False)
_AS_PROMPT: Final = Target(1.1, at_most=True)
_SMALLER: Final = Target(0.25, at_most=True)
_PUT_METRICS: Final[Metrics] = ((RATE, _FASTER), (P50, None), (P99, None), (COST, None))

CASES: Final = (
    Case("put, 1 client", "put", 1, 1, ((P50, _AS_PROMPT), (P99, None))),
    Case("put, 64 clients on 64 connections", "put", 64, 64, _PUT_METRICS),
    Case("put, 64 clients on 8 connections", "put", 8, 64, _PUT_METRICS),
    Case("put, 512 clients on 64 connections", "put", 64, 512, _PUT_METRICS),
    Case("put with deadlines, 64 on 64", "put", 64, 64, deadline_s=5.0),
    Case("txn (create), 64 on 64", "txn", 64, 64, prefix="txn{round}/", key_space=10_000_000),
    Case("range, 64 on 64", "range", 64, 64, prefix="read/", key_space=None),
    Case("range, 512 on 64", "range", 64, 512, prefix="read/", key_space=None),
    Case("range serializable, 512 on 64", "range-serializable", 64, 512, prefix="read/", key_space=None),
    Case("list, page of 500, 8 on 8", "list-page", 8, 8, prefix="read/", key_space=None),
    Case("list, all keys, 1 client", "list-all", 1, 1, ((RATE, None), (P50, None)), "read/", None),
    Case("watch, 1 writer, 100 watchers", WATCH, 4, 100, ((RATE, None), (P50, None), (P99, None)), "watch/"),
)
_LIMIT_CASE: Final = Case("generator alone", "put", 64, 512)


class Row(NamedTuple):
    """One line of the comparison. Values are medians; spreads are (max - min) / 2 over the median."""

    title: str
    metric: str
    etcd: str
    etcd_spread: float
    raftkv: str
    raftkv_spread: float
    ratio: float
    target: str
    met: bool | None
    doubtful: bool
    """Failed calls, other programs or the generator may have made the result, rather than the servers."""
    notes: tuple[str, ...]


class Measurement(NamedTuple):
    case: str
    server: str
    round: int
    result: LoadResult


class Comparison(NamedTuple):
    plan: Plan
    cases: tuple[Case, ...]
    generator: LoadResult
    """Against a server that does nothing."""
    rows: list[Row]
    measurements: list[Measurement]


Report = Callable[[str], None]
"""Called with a line after every measurement."""


def chosen(words: Iterable[str]) -> tuple[Case, ...]:
    """The cases whose title has one of the words; all without words."""
    wanted = list(words)
    return tuple(case for case in CASES if not wanted or any(word in case.title for word in wanted))


def measurement_count(plan: Plan, cases: Sequence[Case]) -> int:
    return 2 * plan.rounds * len(cases) + 1


def compare(
    plan: Plan, cases: tuple[Case, ...], etcd: Server, raftkv: Server, null_port: int, report: Report
) -> Comparison:
    """Run the whole plan. Raises LoadError when a measurement fails, ServerError when a server ends."""
    generator = _measure(plan, _LIMIT_CASE, 0, null_port, None)
    report(f"generator alone: {generator.per_s:,.0f}/s")
    for server in (etcd, raftkv):
        _wait_idle(server)
    idle = [procfs.memory(server.pid) for server in (etcd, raftkv)]
    measurements: list[Measurement] = []
    for number in range(plan.rounds):
        for case in cases:
            # In turns, so that being first is nobody's advantage.
            for server in (etcd, raftkv) if number % 2 == 0 else (raftkv, etcd):
                result = _measure_on(server, plan, case, number)
                measurements.append(Measurement(case.title, server.program.name, number, result))
                rate = RATE.form.format(result.per_s)
                report(f"{number + 1}/{plan.rounds} {case.title}: {server.program.name} {rate}")
    loaded = [procfs.memory(server.pid) for server in (etcd, raftkv)]
    rows = [row for case in cases for row in rows_of(case, measurements)]
    rows.append(_memory_row("memory when idle", idle, None))
    rows.append(_memory_row("memory after the load", loaded, _SMALLER))
    return Comparison(plan, cases, generator, rows, measurements)


def _wait_idle(server: Server) -> None:
    """Serving, and the few puts that take both servers past what they do only once."""
    warm = Plan(rounds=1, seconds=0.1, warmup_s=0.1, read_keys=1)
    _measure_on(server, warm, Case("warm-up", "put", 1, 1, prefix="warm/", key_space=1), 0)


def _measure_on(server: Server, plan: Plan, case: Case, number: int) -> LoadResult:
    """A server that has ended says why, rather than the generator that nobody answers."""
    try:
        result = _measure(plan, case, number, server.port, server.pid)
    except LoadError as error:
        server.check_running()
        raise LoadError(f"{server.program.name}: {error}") from None
    server.check_running()
    return result


def _measure(plan: Plan, case: Case, number: int, port: int, pid: int | None) -> LoadResult:
    """One measurement in a generator process of its own."""
    command = [sys.executable, "-m", "bench", "load", "--output=json", f"--endpoint={HOST}:{port}"]
    command += [
        f"--workload={case.workload}",
        f"--connections={case.connections}",
        f"--clients={case.clients}",
        f"--seconds={plan.seconds}",
        f"--warmup-s={plan.warmup_s}",
        f"--prefix={case.prefix.format(round=number)}",
        f"--key-space={plan.read_keys if case.key_space is None else case.key_space}",
    ]
    if case.deadline_s is not None:
        command.append(f"--deadline-s={case.deadline_s}")
    if pid is not None:
        command.append(f"--server-pid={pid}")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=REPOSITORY, timeout=MEASUREMENT_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadError(f"{case.title}: no result within {MEASUREMENT_LIMIT_S:g} s") from None
    if not done.stdout:
        raise LoadError(f"{case.title}: {done.stderr.strip()}")
    return LoadResult(**json.loads(done.stdout))


def rows_of(case: Case, measurements: list[Measurement]) -> list[Row]:
    """One row per metric of the case. A target is not met by a run with failed calls."""
    by_server = {
        name: [m.result for m in measurements if m.case == case.title and m.server == name]
        for name in ("etcd", "raftkv")
    }
    notes = tuple(note for name, results in by_server.items() for note in _notes(name, results))
    failed = any(result.errors for result in by_server["raftkv"])
    rows = []
    for metric, target in case.metrics:
        etcd, raftkv = (sorted(map(metric.read, results)) for results in by_server.values())
        ratio = _ratio(statistics.median(raftkv), statistics.median(etcd))
        rows.append(
            Row(
                title=case.title,
                metric=metric.name,
                etcd=metric.form.format(statistics.median(etcd)),
                etcd_spread=_spread(etcd),
                raftkv=metric.form.format(statistics.median(raftkv)),
                raftkv_spread=_spread(raftkv),
                ratio=ratio,
                target=str(target) if target else "",
                met=target.met(ratio) and not failed if target else None,
                doubtful=bool(notes),
                notes=notes,
            )
        )
    return rows


def _notes(name: str, results: list[LoadResult]) -> list[str]:
    notes = [f"{name}: {count} x {text}" for result in results for text, count in result.errors.items()]
    if any(result.generator_bound for result in results):
        notes.append(f"{name}: generator-bound")
    disturbed = max((result.other_cpu or 0.0 for result in results), default=0.0)
    if disturbed >= DISTURBED:
        notes.append(f"{name}: other programs took up to {disturbed:.1f} cores")
    return notes


def _memory_row(title: str, memories: list[procfs.Memory], target: Target | None) -> Row:
    """etcd's heap is its resident memory; of raftkv's, the mapped file belongs to the page cache."""
    etcd, raftkv = memories
    ratio = _ratio(raftkv.anon_bytes, etcd.rss_bytes)
    return Row(
        title=title,
        metric="anonymous / RSS",
        etcd=f"{etcd.rss_bytes / 1e6:.1f} MB",
        etcd_spread=0.0,
        raftkv=f"{raftkv.anon_bytes / 1e6:.1f} MB",
        raftkv_spread=0.0,
        ratio=ratio,
        target=str(target) if target else "",
        met=target.met(ratio) if target else None,
        doubtful=False,
        notes=(
            f"etcd anonymous {etcd.anon_bytes / 1e6:.1f} MB",
            f"raftkv resident {raftkv.rss_bytes / 1e6:.1f} MB",
        ),
    )


def _ratio(raftkv: float, etcd: float) -> float:
    return raftkv / etcd if etcd else float("nan")


def _spread(values: Sequence[float]) -> float:
    median = statistics.median(values)
    return (max(values) - min(values)) / 2 / median if median else 0.0
