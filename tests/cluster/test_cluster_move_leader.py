"""Leadership that is handed over: when asked for, and when the leader is told to stop."""

import signal
import time
from collections.abc import Callable

import pytest
from helpers.cluster import Cluster
from helpers.cluster_load import ClusterLoad, FreshReads, check_all_members_have
from helpers.member_client import BAD_TRANSFEREE, NOT_LEADER, Code, refused
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]

_TRANSFER_TOO_SLOW = (Code.UNKNOWN, "etcdserver: request timed out, leader transfer took too long")
_UNKNOWN_ID = 0x7777
_SLOW_ELECTION_S = 5.0
_SLOW_ELECTION = ("--heartbeat-interval=100", f"--election-timeout={int(_SLOW_ELECTION_S * 1000)}")
"""With these a leader that was not replaced by a transfer is missed for five seconds at least."""


def test_what_move_leader_refuses(shared_cluster: Cluster) -> None:
    """MT-40, MT-41, MT-42."""
    cluster = shared_cluster
    leader, (one, other) = cluster.leader(), cluster.followers()
    term = leader.client.status().raftTerm
    for target in (leader.id, one.id, other.id, _UNKNOWN_ID, 0):
        with refused(NOT_LEADER):
            one.client.move_leader(target)
    for target in (_UNKNOWN_ID, 0):
        with refused(BAD_TRANSFEREE):
            leader.client.move_leader(target)
    leader.client.move_leader(leader.id)
    assert cluster.leader() is leader
    assert leader.client.status().raftTerm == term, "nothing happened"


def test_the_leader_moves_to_whom_it_is_told(shared_cluster: Cluster) -> None:
    """MT-43, RF-20: answered when the target leads; each turn is one term; every member agrees and serves."""
    cluster = shared_cluster
    leader = cluster.leader()
    term = leader.client.status().raftTerm
    for turn in range(6):
        target = cluster.followers()[turn % 2]
        leader.client.move_leader(target.id)
        assert leader.client.status().leader == target.id, "the answer came before the leader had changed"
        assert cluster.leader() is target
        leader = target
        for member in cluster.members:
            member.client.put(b"%d-%s" % (turn, member.name.encode()))
        assert leader.client.status().raftTerm == term + turn + 1
    cluster.wait_same_hash()


@pytest.mark.slow
def test_moves_under_load_lose_nothing(cluster: Cluster) -> None:
    """MT-44, G-54: what is proposed meanwhile is refused or done, once; reads stay linearizable."""
    with ClusterLoad(cluster.members, "moves") as load, FreshReads(cluster.members) as reads:
        load.wait_more(50)
        for turn in range(8):
            leader = cluster.leader()
            leader.client.move_leader(cluster.others(leader)[turn % 2].id)
            load.wait_more(30)
        reads.check()
        load.stop()
    check_all_members_have(cluster, load.history)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["move-leader", "SIGTERM"])
def test_a_handover_takes_no_election_timeout(new_cluster: NewCluster, how: str) -> None:
    """RF-20, RF-23: the gap in service is a fraction of what an election would take."""
    cluster = new_cluster(3, *_SLOW_ELECTION).start()
    leader = cluster.leader()
    # Clients of the two that stay: connections to the one that stops would be part of the gap.
    with ClusterLoad(cluster.others(leader), "handover") as load:
        load.wait_more(100)
        began = time.monotonic()
        if how == "SIGTERM":
            leader.send_signal(signal.SIGTERM)
            leader.wait_exit()
        else:
            leader.client.move_leader(cluster.followers()[0].id)
        wait_until("somebody else leads", lambda: cluster.leader_now() not in {None, leader})
        load.wait_more(100)
        gap_s = load.longest_gap_s(began)
        load.stop()
    assert gap_s < _SLOW_ELECTION_S / 2, f"nothing was acknowledged for {gap_s:.2f} s"
    print(f"longest gap {gap_s * 1000:.0f} ms")
    cluster.start()
    check_all_members_have(cluster, load.history)


@pytest.mark.slow
def test_a_move_to_a_member_that_stands_still_is_given_up(cluster: Cluster) -> None:
    """MT-43, MT-44, RF-21: the leader goes on after an election timeout; the caller is told that it took too long."""
    leader, (target, other) = cluster.leader(), cluster.followers()
    target.pause()
    move = leader.client.calls.Maintenance.MoveLeader.future(rpc_pb2.MoveLeaderRequest(targetID=target.id), timeout=30)
    wait_until("the leader takes writes again", lambda: leader.client.put(b"k", timeout_s=3))
    assert other.client.value(b"k") == b"v"
    if cluster.program.kind == "etcd":  # it waits for as long as its client does
        move.cancel()
    else:
        error = move.exception()
        assert (error.code(), error.details()) == _TRANSFER_TOO_SLOW
    assert cluster.leader() is leader
    target.resume()
    # The order to take over may still lie in its sockets; then it does.
    wait_until("it serves again", lambda: target.client.value(b"k") == b"v")
