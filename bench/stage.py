"""What every stage of a suite is, and what all stages do in the same way: taking turns, asking a leader.

A stage runs on a pair of clusters of its own, etcd's and raftkv's, that are up from its begin to its end. Only one
of them is driven at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from bench.cases import QUICK, Case, Plan
from bench.generators import run_load
from bench.load import LoadError
from bench.rows import Measurement, Outcome
from bench.servers import Cluster, Flags, Server
from bench.status import Leadership, wait_leader

REPEATS: Final = 2
"""Of a measurement during which the leader changed. After that the result stands, with the doubt."""
DOUBT_LEADER: Final = "the leader changed during the measurement"

Report = Callable[[str], None]
"""Called with a line after every measurement."""


class Stage(Protocol):
    @property
    def titles(self) -> Sequence[str]:
        """Of its cases."""

    @property
    def flags(self) -> Flags:
        """For all members, beyond what all stages have."""

    def method(self, plan: Plan) -> str:
        """What is measured and how often, in a sentence or two for readers of the results."""

    def chosen(self, words: Sequence[str]) -> Stage | None:
        """What is left of it if titles must have one of the words; None if nothing is."""

    def measurement_count(self, plan: Plan) -> int:
        """How often `run` will report."""

    def run(self, plan: Plan, clusters: Sequence[Cluster], report: Report) -> Outcome:
        """Raises LoadError when a measurement fails, ServerError when a member ends that should not."""


def in_turns(clusters: Sequence[Cluster], number: int) -> Iterator[Cluster]:
    """In the order of round `number`: being first is nobody's advantage."""
    return iter(clusters) if number % 2 == 0 else reversed(clusters)


def measure(cluster: Cluster, plan: Plan, case: Case, number: int) -> Measurement:
    """On the member that the case names, again if the leader changed meanwhile.

    Raises LoadError, and ServerError when a member has ended: that says why nobody answered.
    """
    for _ in range(1 + REPEATS):
        before = wait_leader(cluster)
        server = before.server if case.through == "leader" else followers(cluster, before)[0]
        try:
            result = run_load(plan, case, number, server.port, cluster.pids, cluster.ca_file)
        except LoadError as error:
            cluster.check_running()
            raise LoadError(f"{cluster.name}: {error}") from None
        cluster.check_running()
        if wait_leader(cluster) == before:
            return Measurement(case.title, cluster.name, number, result)
    return Measurement(case.title, cluster.name, number, result, (DOUBT_LEADER,))


def followers(cluster: Cluster, leadership: Leadership) -> list[Server]:
    return [server for server in cluster.running if server is not leadership.server]


def wait_idle(cluster: Cluster) -> None:
    """Serving, and past what a server does only once: there were a few puts."""
    warm = QUICK._replace(seconds=0.1, warmup_s=0.1, read_keys=1)
    measure(cluster, warm, Case("warm-up", "put", 1, 1, prefix="warm/", key_space=1), 0)
