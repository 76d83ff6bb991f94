"""Members that stand still and go on (SIGSTOP, SIGCONT): a deposed leader does not know yet that it is one."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from helpers.cluster import ELECTION_S, Cluster, Member
from helpers.cluster_load import ClusterLoad, FreshReads, check_all_members_have
from helpers.member_client import outcome
from helpers.waiting import stays_true, wait_until

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.crash

NewCluster = Callable[..., Cluster]

_CALLS = 40
_KEY = b"k"


def _ask(member: Member, call: str, request: Any) -> Any:
    """A call that is on its way to the member before it can answer."""
    return getattr(member.client.calls.KV, call).future(request, timeout=30)


def _deposed(cluster: Cluster) -> tuple[Member, Member]:
    """Stop the leader until the others have a new one: (the stopped, the new)."""
    old = cluster.leader()
    old.pause()
    return old, cluster.leader()


def test_a_deposed_leader_answers_no_linearizable_read_with_old_data(shared_cluster: Cluster) -> None:
    """RF-36, RF-30: it wakes with reads in its sockets, and with nothing that tells it what happened meanwhile."""
    cluster = shared_cluster
    stale: list[tuple[int, bytes]] = []
    for turn in range(3):
        cluster.members[0].client.put(_KEY, b"old %d" % turn)
        old, new = _deposed(cluster)
        assert new is not old
        value = b"new %d" % turn
        revision = new.client.put(_KEY, value).header.revision
        reads = [_ask(old, "Range", rpc_pb2.RangeRequest(key=_KEY)) for _number in range(_CALLS)]
        old.resume()
        for read in reads:
            try:
                answer = read.result()
            except grpc.RpcError:
                continue  # refused is not stale
            if answer.kvs[0].value != value or answer.header.revision < revision:
                stale.append((answer.header.revision, answer.kvs[0].value))
        assert cluster.leader() is not old, "a deposed leader came back as the leader (RF-02)"
        wait_until("the deposed leader reads as the others do", lambda old=old, v=value: old.client.value(_KEY) == v)  # type: ignore[misc]
    assert not stale, f"{len(stale)} reads were stale: {stale[:5]}"


def test_a_deposed_leader_acknowledges_no_write_that_is_lost(shared_cluster: Cluster) -> None:
    """RF-07, RF-40: writes that reach it while it stands still are done by the new leader, or not at all."""
    cluster = shared_cluster
    acknowledged: dict[bytes, int] = {}
    for turn in range(3):
        old, new = _deposed(cluster)
        puts = {}
        for number in range(_CALLS):
            key = b"deposed/%d/%d" % (turn, number)
            puts[key] = _ask(old, "Put", rpc_pb2.PutRequest(key=key, value=key))
        new.client.put(_KEY, b"meanwhile")
        old.resume()
        for key, put in puts.items():
            answer = outcome(put.result)
            if isinstance(answer, rpc_pb2.PutResponse):
                acknowledged[key] = answer.header.revision
        cluster.leader()
    for member in cluster.members:
        kvs = {kv.key: kv for kv in member.client.range(b"deposed/", b"deposed0").kvs}
        lost = {key: revision for key, revision in acknowledged.items() if kvs[key].mod_revision != revision}
        assert not lost, f"{member.name} has these at other revisions than acknowledged"
        assert {kv.version for kv in kvs.values()} <= {1}, "a write was applied twice"
    cluster.wait_same_hash()


@pytest.mark.parametrize("deposed", [True, False], ids=["old leader", "follower"])
def test_a_member_that_was_away_deposes_nobody(shared_cluster: Cluster, deposed: bool) -> None:
    """RF-02, RF-03: pre-vote; the one who comes back follows, in the term that it finds."""
    cluster = shared_cluster
    away = cluster.leader() if deposed else cluster.followers()[0]
    away.pause()
    leader = cluster.leader()
    term = leader.client.status().raftTerm
    # Long enough for an election of its own: it has not heard from anybody.
    stays_true("the others serve", lambda: leader.client.put(_KEY), 3 * ELECTION_S)
    away.resume()
    wait_until("it follows", lambda: away.client.status().leader == leader.id)
    stays_true("nobody is deposed", lambda: cluster.leader_now() in {leader, None}, 2.5 * ELECTION_S)
    assert {member.client.status().raftTerm for member in cluster.members} == {term}
    assert away.client.value(_KEY) == b"v"


@pytest.mark.slow
def test_leader_and_followers_stand_still_in_turn_under_load(cluster: Cluster) -> None:
    """RF-36, RF-71: every member stops for longer than an election takes, some several times, while all are used."""
    with ClusterLoad(cluster.members, "pauses") as load, FreshReads(cluster.members) as reads:
        load.wait_more(100)
        for turn in range(4):
            victim = cluster.leader() if turn % 2 == 0 else cluster.followers()[turn // 2 % 2]
            victim.pause()
            cluster.leader()
            load.wait_more(100)
            victim.resume()
            load.wait_more(100)
        reads.check()
        load.stop()
    print(f"{len(load.history.acknowledged)} acknowledged writes, {len(load.history.unknown)} unknown")
    check_all_members_have(cluster, load.history)
