"""The stage in which a follower comes back after many writes: what that costs the clients of the leader.

A follower stops, it misses writes, it starts again; a steady load measures the leader before and while the follower
catches up. Owns the order of that, and how is told whether a snapshot was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from bench.cases import Plan, Target
from bench.filling import fill
from bench.generators import SteadyLoad
from bench.load import LoadError, LoadResult
from bench.rows import PROGRAMS, Measurement, Outcome, Row, doubts_of, values_row, words_row
from bench.servers import HOST, NO_FLAGS, Cluster, Flags
from bench.stage import DOUBT_LEADER, REPEATS, Report, followers, in_turns, wait_idle
from bench.status import Leadership, wait_caught_up, wait_leader
from bench.workloads import Shape

PREFIX: Final = "put/"
KEY_SPACE: Final = 100_000
VALUE_BYTES: Final = 256
FEW_PUTS: Final = 300
"""A p99 of fewer is the luck of one or two of them."""
_RISE: Final = Target(2.0, at_most=True, own="{:g} x")


class Absence(NamedTuple):
    """One follower's, from its end to its return."""

    baseline: LoadResult
    """Of the leader while the follower is away and nothing else happens. Some puts were acknowledged."""
    during: LoadResult
    """From the start of the follower's process until it has caught up."""
    took_s: float
    """The length of that."""
    by_snapshot: bool
    leader_changed: bool = False

    @property
    def rise(self) -> float:
        """p99 during, in units of the baseline's."""
        return self.during.p99_ms / self.baseline.p99_ms

    @property
    def means(self) -> str:
        return "snapshot" if self.by_snapshot else "log"


class CatchUp(NamedTuple):
    """A stage: see bench.stage."""

    title: str
    flags: Flags = NO_FLAGS

    @property
    def titles(self) -> Sequence[str]:
        return [self.title]

    def method(self, plan: Plan) -> str:
        with_flags = "".join(f", {program} with {' '.join(flags)}" for program, flags in self.flags.items())
        return (
            f"{self.title[0].upper()}{self.title[1:]}{with_flags}: a follower misses {plan.missed_puts:,} puts of"
            f" {VALUE_BYTES} bytes, in {plan.absences} alternating round{'s' if plan.absences > 1 else ''}; p99 of"
            f" {plan.steady_per_s:,.0f} puts/s at the leader, {plan.baseline_s:g} s without the follower and from its"
            f" start until it has caught up."
        )

    def chosen(self, words: Sequence[str]) -> CatchUp | None:
        return self if any(word in self.title for word in words) else None

    def measurement_count(self, plan: Plan) -> int:
        return 2 * plan.absences

    def run(self, plan: Plan, clusters: Sequence[Cluster], report: Report) -> Outcome:
        for cluster in clusters:
            wait_idle(cluster)
        absences: dict[str, list[Absence]] = {cluster.name: [] for cluster in clusters}
        for number in range(plan.absences):
            for cluster in in_turns(clusters, number):
                absence = self._measure(cluster, plan)
                absences[cluster.name].append(absence)
                report(
                    f"{number + 1}/{plan.absences} {self.title}: {cluster.name} by {absence.means}"
                    f" in {absence.took_s:.1f} s, p99 {absence.rise:.1f} x its baseline"
                )
        measurements = measurements_of(self.title, absences)
        return Outcome(rows_of(self.title, absences, measurements), measurements)

    def _measure(self, cluster: Cluster, plan: Plan) -> Absence:
        """All members run before and afterwards. Raises LoadError, ServerError."""
        for _ in range(1 + REPEATS):
            before = wait_leader(cluster)
            try:
                absence = _send_away(cluster, before, plan)
            except LoadError as error:
                cluster.check_running()
                raise LoadError(f"{cluster.name}: {error}") from None
            cluster.check_running()
            if wait_leader(cluster) == before:
                return absence
        return absence._replace(leader_changed=True)


def _send_away(cluster: Cluster, leadership: Leadership, plan: Plan) -> Absence:
    leader, follower = leadership.server, followers(cluster, leadership)[0]
    follower.stop()
    database = follower.database_id
    asyncio.run(fill(HOST, leader.port, plan.missed_puts, Shape(PREFIX.encode(), VALUE_BYTES, KEY_SPACE, 1)))
    with SteadyLoad(leader.port, plan.steady_per_s, PREFIX, KEY_SPACE) as load:
        time.sleep(plan.settle_s)
        load.begin(cluster.pids)
        time.sleep(plan.baseline_s)
        baseline = load.end()
        if not baseline.operations:
            raise LoadError(f"no put was acknowledged while {follower.name} was away: {baseline.errors}")
        follower.start()
        load.begin(cluster.pids)
        took_s = wait_caught_up(leader, follower)
        during = load.end()
    # A snapshot is a whole database, which takes the place of the old file; entries of the log change that file.
    return Absence(baseline, during, took_s, by_snapshot=follower.database_id != database)


def measurements_of(title: str, absences: Mapping[str, Sequence[Absence]]) -> list[Measurement]:
    """Two of each absence: away and back. `absences`: of each program, one for each round."""
    made = []
    for program, ours in absences.items():
        for number, absence in enumerate(ours):
            doubts = [DOUBT_LEADER] if absence.leader_changed else []
            made.append(Measurement(f"{title}: away", program, number, absence.baseline, tuple(doubts)))
            if absence.during.operations < FEW_PUTS:
                doubts.append(f"only {absence.during.operations:,} puts until it had caught up")
            made.append(Measurement(f"{title}: back", program, number, absence.during, tuple(doubts)))
    return made


def rows_of(title: str, absences: Mapping[str, Sequence[Absence]], measurements: Sequence[Measurement]) -> list[Row]:
    """`absences`: of each program, one for each round."""
    doubts = doubts_of(measurements)

    def row(metric: tuple[str, str], read: Callable[[Absence], float], target: Target | None = None) -> Row:
        values = {program: [read(absence) for absence in absences[program]] for program in PROGRAMS}
        return values_row(title, metric, values, target, doubts)

    means = {program: " or ".join(sorted({a.means for a in absences[program]})) for program in PROGRAMS}
    return [
        row(("p99, follower away", "{:.3g} ms"), lambda absence: absence.baseline.p99_ms),
        row(("p99, follower back", "{:.3g} ms"), lambda absence: absence.during.p99_ms),
        row(("back / away", "{:.2f} x"), lambda absence: absence.rise, _RISE),
        row(("caught up after", "{:.2f} s"), lambda absence: absence.took_s),
        words_row(title, "caught up by", means),
    ]
