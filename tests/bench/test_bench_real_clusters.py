"""Failover and catch-up on real clusters of both programs: what is measured there is what is said to be measured."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench import catchup, failover, idle, stage
from bench.cases import GATEWAY_CASES, QUICK, SECURE_CASES
from bench.servers import Program, etcd_program, raftkv_program, running
from bench.status import wait_leader
from bench.suite import CLUSTER

pytestmark = pytest.mark.differential

SHORT_LOG = CLUSTER.stages[-1].flags
LITTLE = QUICK._replace(missed_puts=20, settle_s=0.0, baseline_s=0.5, steady_per_s=10, seconds=0.3)
MUCH = LITTLE._replace(
    # More than etcd keeps in any case, and long enough for the checkpoint at which raftkv cuts its log.
    missed_puts=8_000,
    settle_s=6.0,
)


@pytest.mark.parametrize("program", [etcd_program, raftkv_program])
def test_a_cluster_outlives_what_is_done_to_it(tmp_path: Path, program: Callable[[], Program]) -> None:
    with running([program()], tmp_path, 3, SHORT_LOG) as (cluster,):
        stage.wait_idle(cluster)
        before = wait_leader(cluster)

        by_log = catchup._send_away(cluster, before, LITTLE)
        assert not by_log.by_snapshot
        by_snapshot = catchup._send_away(cluster, before, MUCH)
        assert by_snapshot.by_snapshot
        for absence in (by_log, by_snapshot):
            assert absence.took_s > 0
            assert absence.baseline.operations > 0
            assert (absence.baseline.errors, absence.during.errors) == ({}, {})
        assert wait_leader(cluster) == before

        killed = failover._kill_leader(cluster, LITTLE)
        after = wait_leader(cluster)
        assert after.server is not before.server
        assert (killed.killed, killed.term) == (True, after.term)
        # A follower stands for election when it has heard nothing for one to two election timeouts; the first of
        # them may have begun to count a heartbeat before the kill. What comes after is the machine's to decide.
        assert 700 < killed.gap_ms < 15_000
        assert len(cluster.running) == 3


@pytest.mark.parametrize("program", [etcd_program, raftkv_program])
def test_what_else_is_on_the_port(tmp_path: Path, program: Callable[[], Program]) -> None:
    short = QUICK._replace(seconds=0.3, settle_s=0.0, read_keys=10)
    with running([program()], tmp_path, 1) as (cluster,):
        stage.wait_idle(cluster)
        for case in GATEWAY_CASES:
            measured = stage.measure(cluster, short, case, 0).result
            assert (measured.errors, measured.connections) == ({}, case.clients)
            assert measured.operations > 0
        # So many that it is seen, whatever a collector gives back meanwhile.
        costs = idle._measure(cluster, short, 400)
        assert costs.held.anon_bytes > costs.before.anon_bytes
        cluster.secure()
        for case in SECURE_CASES:
            measured = stage.measure(cluster, short, case, 0).result
            assert measured.errors == {}
            assert measured.operations > 0
