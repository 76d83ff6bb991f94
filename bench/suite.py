"""The suites: one member each, three members each, and what else the port of one member serves. Which stages they have,
and the stage of plain load.

In every round of it each case is measured on both clusters, one right after the other, in turns who is first; a result
is the median of the rounds. Knows nothing of how results are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from bench import procfs
from bench.cases import CLUSTER_CASES, GATEWAY_CASES, RATE, SECURE_CASES, SINGLE_CASES, Case, Plan, Target
from bench.catchup import CatchUp
from bench.failover import Failover
from bench.idle import Idle
from bench.rows import Measurement, Outcome, memory_row, rows_of
from bench.servers import NO_FLAGS, Cluster, Flags
from bench.stage import Report, Stage, in_turns, measure, wait_idle

_SMALLER: Final = Target(0.25, at_most=True)


class Loads(NamedTuple):
    """The stage of plain load: cases that need nothing but clients."""

    cases: tuple[Case, ...]
    memory_target: Target | None = None
    """Of memory after the load."""
    is_secure: bool = False
    """Clients come over TLS."""
    flags: Flags = NO_FLAGS

    @property
    def titles(self) -> Sequence[str]:
        return [case.title for case in self.cases]

    def method(self, plan: Plan) -> str:
        return (
            f"Medians of {plan.rounds} alternating round{'s' if plan.rounds > 1 else ''} of {plan.seconds:g} s"
            f" after {plan.warmup_s:g} s of warm-up; ± is half the range. Values of 256 bytes;"
            f" {plan.read_keys:,} keys to read."
        )

    def chosen(self, words: Sequence[str]) -> Loads | None:
        cases = tuple(case for case in self.cases if any(word in case.title for word in words))
        return self._replace(cases=cases) if cases else None

    def measurement_count(self, plan: Plan) -> int:
        return 2 * plan.rounds * len(self.cases)

    def run(self, plan: Plan, clusters: Sequence[Cluster], report: Report) -> Outcome:
        for cluster in clusters:
            if self.is_secure:
                cluster.secure()
            wait_idle(cluster)
        idle = _memories(clusters)
        measurements: list[Measurement] = []
        for number in range(plan.rounds):
            for case in self.cases:
                for cluster in in_turns(clusters, number):
                    measured = measure(cluster, plan, case, number)
                    measurements.append(measured)
                    rate = RATE.form.format(measured.result.per_s)
                    report(f"{number + 1}/{plan.rounds} {case.title}: {cluster.name} {rate}")
        loaded = _memories(clusters)
        rows = [row for case in self.cases for row in rows_of(case, measurements)]
        rows.append(memory_row(f"memory when idle{self._note}", idle))
        rows.append(memory_row(f"memory after the load{self._note}", loaded, self.memory_target))
        return Outcome(rows, measurements)

    @property
    def _note(self) -> str:
        return ", TLS" if self.is_secure else ""


def _memories(clusters: Sequence[Cluster]) -> dict[str, procfs.Memory]:
    """Of all members together."""
    return {cluster.name: procfs.total_memory(cluster.pids) for cluster in clusters}


class Suite(NamedTuple):
    """What is measured on clusters of one size. Its name is what the command line and the page call it."""

    name: str
    heading: str
    size: int
    """Members of each cluster."""
    stages: tuple[Stage, ...]

    def chosen(self, words: Sequence[str]) -> Suite | None:
        """The part whose titles have one of the words; all without words; None if there is no such part."""
        if not words:
            return self
        stages = tuple(part for stage in self.stages if (part := stage.chosen(words)) is not None)
        return self._replace(stages=stages) if stages else None

    def measurement_count(self, plan: Plan) -> int:
        return sum(stage.measurement_count(plan) for stage in self.stages)


SINGLE: Final = Suite("single", "One member", 1, (Loads(SINGLE_CASES, _SMALLER),))
CLUSTER: Final = Suite(
    "cluster",
    "Three members",
    3,
    (
        Loads(CLUSTER_CASES),
        Failover(),
        CatchUp("catch-up, default settings"),
        CatchUp(
            "catch-up, log cut short",
            # etcd 3.5.1 always keeps 5,000 entries, each of one put; an entry of raftkv's holds a batch of puts.
            {"etcd": ("--snapshot-count=1000",), "raftkv": ("--snapshot-count=1000", "--snapshot-catchup-entries=50")},
        ),
    ),
)
EDGES: Final = Suite(
    "edges",
    "TLS, gateway, idle connections",
    1,
    (Loads(SECURE_CASES, is_secure=True), Loads(GATEWAY_CASES), Idle()),
)
SUITES: Final = (SINGLE, CLUSTER, EDGES)
