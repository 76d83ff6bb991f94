"""Machines whose wall clocks jump by hours, each for itself: nobody is elected, and everybody answers (RF-74).

Containers have the clock of their machine, which no test may set; so the members' own is made to jump.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cluster import Cluster
from helpers.processes import Program
from helpers.waiting import stays_true

JUMPING = Path(__file__).parents[1] / "contract" / "jumping_raftkv.py"
SPREAD_S = 6 * 3600
WATCHED_S = 5.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Slow to elect, so that a busy machine is no reason for an election, and six hours still are."""
    program = Program("raftkv", (sys.executable, str(JUMPING), str(SPREAD_S), "serve"))
    made = Cluster(program, tmp_path, flags=("--heartbeat-interval=500", "--election-timeout=5000"))
    try:
        yield made.start()
    finally:
        made.discard()


def test_rf_74_no_election_and_no_lost_lease_for_a_clock_that_jumps(cluster: Cluster) -> None:
    leader = cluster.leader()
    term = leader.client.status().raftTerm
    lease = leader.client.grant(3600)
    leader.client.put(b"under-a-lease", b"kept", lease=lease)

    def undisturbed() -> bool:
        answers = [member.client.status() for member in cluster.members]
        assert {answer.leader for answer in answers} == {leader.id}
        assert {answer.raftTerm for answer in answers} == {term}
        for member in cluster.members:
            member.client.put(b"from-" + member.name.encode(), b"on")
        return leader.client.value(b"under-a-lease") == b"kept"

    stays_true("the cluster goes on", undisturbed, WATCHED_S)
    cluster.wait_same_hash()
