"""The stage in which leaders are killed: how long until writes flow again, round after round.

Owns the rounds, and bringing the killed member back. How the time is taken is the business of `probing`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bench.cases import Plan, Target
from bench.generators import run_failover
from bench.load import LoadError
from bench.probing import ProbeResult
from bench.rows import PROGRAMS, Measurement, Outcome, Row, doubts_of, values_row
from bench.servers import ELECTION_TIMEOUT_MS, HEARTBEAT_MS, NO_FLAGS, Cluster, Flags
from bench.stage import REPEATS, Report, in_turns, wait_idle
from bench.status import wait_caught_up, wait_leader

TITLE: Final = "leader killed under load"
SETTLE_S: Final = 0.5
"""Between a member's return and the next load: followers that have just caught up are not what is measured."""
_PROMPT: Final = Target(1.5 * ELECTION_TIMEOUT_MS, at_most=True, own="{:,.0f} ms")


class Failover(NamedTuple):
    """A stage: see bench.stage."""

    flags: Flags = NO_FLAGS

    @property
    def titles(self) -> Sequence[str]:
        return [TITLE]

    def method(self, plan: Plan) -> str:
        return (
            f"{TITLE[0].upper()}{TITLE[1:]}: {plan.kills} of each cluster, in turns; election timeout"
            f" {ELECTION_TIMEOUT_MS:,} ms, heartbeats every {HEARTBEAT_MS} ms; from the kill (SIGKILL) to the first put"
            f" that a later leader acknowledges."
        )

    def chosen(self, words: Sequence[str]) -> Failover | None:
        return self if any(word in TITLE for word in words) else None

    def measurement_count(self, plan: Plan) -> int:
        return 2 * plan.kills

    def run(self, plan: Plan, clusters: Sequence[Cluster], report: Report) -> Outcome:
        for cluster in clusters:
            wait_idle(cluster)
        results: dict[str, list[ProbeResult]] = {cluster.name: [] for cluster in clusters}
        for number in range(plan.kills):
            for cluster in in_turns(clusters, number):
                result = _kill_leader(cluster, plan)
                results[cluster.name].append(result)
                report(f"{number + 1}/{plan.kills} {TITLE}: {cluster.name} {result.gap_ms:,.0f} ms")
        return Outcome(rows_of(results), measurements_of(results))


def _kill_leader(cluster: Cluster, plan: Plan) -> ProbeResult:
    """All members run before and afterwards. Raises LoadError, ServerError."""
    for _ in range(1 + REPEATS):
        leader, term = wait_leader(cluster)
        time.sleep(SETTLE_S)
        ports = [server.port for server in cluster.servers]
        try:
            result = run_failover(TITLE, ports, cluster.pids, (leader.pid, term), plan.seconds)
        except LoadError as error:
            raise LoadError(f"{cluster.name}: {error}") from None
        if result.killed:
            leader.wait_ended()
            successor = wait_leader(cluster).server
            leader.start()
            wait_caught_up(successor, leader)
            return result
        cluster.check_running()
    raise LoadError(f"{cluster.name}: the leader changes by itself, {1 + REPEATS} times before it could be killed")


def measurements_of(results: Mapping[str, Sequence[ProbeResult]]) -> list[Measurement]:
    """Of the load before each kill. `results`: of each program, one for each kill."""
    return [
        Measurement(f"{TITLE}: before", program, number, result.before)
        for program, ours in results.items()
        for number, result in enumerate(ours)
    ]


def rows_of(results: Mapping[str, Sequence[ProbeResult]]) -> list[Row]:
    """`results`: of each program, one for each kill."""
    doubts = doubts_of(measurements_of(results))
    gaps = {program: [result.gap_ms for result in results[program]] for program in PROGRAMS}
    slowest = {program: [max(gaps[program])] for program in PROGRAMS}
    rates = {program: [result.before.per_s for result in results[program]] for program in PROGRAMS}
    rows = (
        values_row(TITLE, ("writes flow again", "{:,.0f} ms"), gaps, _PROMPT, doubts),
        values_row(TITLE, ("slowest", "{:,.0f} ms"), slowest, None, doubts),
        values_row(TITLE, ("puts before", "{:,.0f}/s"), rates, None, doubts),
    )
    listed = tuple(f"{program} {', '.join(f'{gap:,.0f}' for gap in gaps[program])} ms" for program in PROGRAMS)
    return [row._replace(notes=listed + row.notes) for row in rows]
