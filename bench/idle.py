"""The stage of idle connections: what a server's memory is with thousands of clients that only wait.

One server after the other, for both would need the ports of one address. Owns when memory is looked at. Who the clients
are is the business of `idling`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from bench import procfs
from bench.cases import Plan, Target
from bench.generators import IdleConnections
from bench.idling import port_count, raise_file_limit, room_for
from bench.rows import PROGRAMS, Outcome, Row, memory_row, owned_bytes, values_row
from bench.servers import NO_FLAGS, Cluster, Flags
from bench.stage import Report, wait_idle

TITLE: Final = "idle connections"
_NO_LARGER: Final = Target(1.0, at_most=True)


class Costs(NamedTuple):
    """Of one server."""

    before: procfs.Memory
    held: procfs.Memory
    """With all connections."""
    opened_s: float


class Idle(NamedTuple):
    """A stage: see bench.stage."""

    flags: Flags = NO_FLAGS

    @property
    def titles(self) -> Sequence[str]:
        return [TITLE]

    def method(self, plan: Plan) -> str:
        return (
            f"{TITLE[0].upper()}{TITLE[1:]}: {plan.idle_connections:,} to one server and then to the other, each with"
            f" one watch stream and one watcher of a key of its own; memory {plan.settle_s:g} s after the last."
        )

    def chosen(self, words: Sequence[str]) -> Idle | None:
        return self if any(word in TITLE for word in words) else None

    def measurement_count(self, _plan: Plan) -> int:
        return 2

    def run(self, plan: Plan, clusters: Sequence[Cluster], report: Report) -> Outcome:
        room = room_for(plan.idle_connections, raise_file_limit(), port_count())
        costs: dict[str, Costs] = {}
        for cluster in clusters:
            wait_idle(cluster)
            costs[cluster.name] = _measure(cluster, plan, room.connections)
            megabytes = owned_bytes(cluster.name, costs[cluster.name].held) / 1e6
            report(f"{room.connections:,} {TITLE}: {cluster.name} {megabytes:,.0f} MB")
        return Outcome(rows_of(costs, room.connections, room.why_fewer), [])


def _measure(cluster: Cluster, plan: Plan, count: int) -> Costs:
    """Raises LoadError, ServerError."""
    [server] = cluster.servers
    before = procfs.memory(server.pid)
    with IdleConnections(server.port, count) as connections:
        time.sleep(plan.settle_s)
        cluster.check_running()
        held = procfs.memory(server.pid)
    return Costs(before, held, connections.opened_s)


def rows_of(costs: Mapping[str, Costs], count: int, why_fewer: str = "") -> list[Row]:
    """`count`: of the connections that there were."""
    title = f"{count:,} {TITLE}"
    each_kb = {
        program: [(owned_bytes(program, found.held) - owned_bytes(program, found.before)) / 1e3 / max(count, 1)]
        for program, found in costs.items()
    }
    opened = {program: [costs[program].opened_s] for program in PROGRAMS}
    memory = memory_row(title, {program: found.held for program, found in costs.items()}, _NO_LARGER)
    return [
        memory._replace(notes=(*memory.notes, *([why_fewer] if why_fewer else []))),
        values_row(title, ("memory for each", "{:.1f} kB"), each_kb),
        values_row(title, ("all opened within", "{:.1f} s"), opened),
    ]
