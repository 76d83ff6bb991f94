"""Members that nobody hurts: one leader, one history, whoever is asked; restarts lose nothing."""

import signal
from collections.abc import Callable

import pytest
from helpers.cluster import Cluster, Member
from helpers.cluster_load import ClusterLoad, FreshReads, check_all_members_have
from helpers.member_client import WatchStream
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]

_CLEAN_EXIT = {"raftkv": 0, "etcd": -signal.SIGTERM}


@pytest.mark.parametrize("size", [3, 5])
def test_members_elect_one_leader_and_agree_on_everything(new_cluster: NewCluster, size: int) -> None:
    """G-10, G-15, CL-02, CL-03, CL-05: who leads, who belongs to the cluster, and what it is called."""
    cluster = new_cluster(size).start()
    leader = cluster.leader()
    cluster_ids, leaders = set(), set()
    for member in cluster.members:
        status = member.client.status()
        cluster_ids.add(status.header.cluster_id)
        leaders.add(status.leader)
        assert status.header.raft_term == status.raftTerm > 0
        assert not status.isLearner
        assert not status.errors
        listed = member.client.members()
        assert (listed.header.member_id, listed.header.revision) == (member.id, 0)
        assert listed.header.cluster_id == status.header.cluster_id
    assert len(cluster_ids) == 1
    assert leaders == {leader.id}
    members = cluster.wait_same_members()
    assert [each.ID for each in members] == sorted(member.id for member in cluster.members)
    by_name = {each.name: each for each in members}
    for member in cluster.members:
        record = by_name[member.name]
        assert (record.ID, list(record.peerURLs), list(record.clientURLs), record.isLearner) == (
            member.id,
            [member.peer_url],
            [f"http://{member.endpoint}"],
            False,
        )


def _check_any_writes_all_read(cluster: Cluster) -> None:
    revision = cluster.members[0].client.revision()
    for writer in cluster.members:
        for reader in cluster.members:
            key, value = b"%s-%s" % (writer.name.encode(), reader.name.encode()), writer.name.encode()
            put = writer.client.put(key, value)
            revision += 1
            assert (put.header.revision, put.header.member_id) == (revision, writer.id)
            # On the same member at once, on any other by a linearizable read, and then there, too, at once (RF-57).
            assert writer.client.value(key, serializable=True) == value
            read = reader.client.range(key)
            assert (read.header.revision, read.header.member_id) == (revision, reader.id)
            assert [(kv.key, kv.value, kv.mod_revision) for kv in read.kvs] == [(key, value, revision)]
            assert reader.client.value(key, serializable=True) == value


def test_what_any_member_took_every_member_reads(new_cluster: NewCluster) -> None:
    """RF-57, RF-31, G-14: puts through each, read through each, revisions one after the other."""
    cluster = new_cluster(5).start()
    _check_any_writes_all_read(cluster)
    cluster.wait_same_hash()


def test_every_kind_of_write_goes_through_a_follower(shared_cluster: Cluster) -> None:
    """G-11, G-14, RF-54: transactions, deletes, compactions and refusals come back from whom they were sent to."""
    cluster = shared_cluster
    one, other = cluster.followers()
    put = one.client.put(b"k", b"1").header.revision
    compare = rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VALUE, value=b"1")
    txn = rpc_pb2.TxnRequest(
        compare=[compare],
        success=[
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", value=b"2")),
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k")),
        ],
    )
    done = other.client.txn(txn)
    assert (done.succeeded, done.header.revision, done.header.member_id) == (True, put + 1, other.id)
    assert done.responses[1].response_range.kvs[0].value == b"2"
    assert not one.client.txn(txn).succeeded
    gone = one.client.delete(b"k")
    assert (gone.deleted, gone.header.revision) == (1, put + 2)
    assert other.client.value(b"k") is None
    one.client.compact(put + 1)
    for member in cluster.members:
        hashed = wait_until(
            f"{member.name} has compacted",
            lambda member=member: _hash_compacted_at(member, put + 1),  # type: ignore[misc]
        )
        assert hashed.header.revision == put + 2
    cluster.wait_same_hash()


def _hash_compacted_at(member: Member, revision: int) -> rpc_pb2.HashKVResponse | None:
    hashed = member.client.hash_kv()
    return hashed if hashed.compact_revision == revision else None


def test_a_watch_on_any_member_sees_what_any_member_took(shared_cluster: Cluster) -> None:
    """W-54 across members: every watcher is told everything, once, in order of revisions."""
    cluster = shared_cluster
    streams = [WatchStream(member.client, b"w/", b"w0").wait_created() for member in cluster.members]
    try:
        revisions = [cluster.members[number % 3].client.put(b"w/%d" % number).header.revision for number in range(30)]
        for stream in streams:
            told = stream.wait_told(revisions[-1])
            assert [each.revision for each in told] == revisions
            assert [each.key for each in told] == [b"w/%d" % number for number in range(30)]
    finally:
        for stream in streams:
            stream.close()


def test_no_read_is_stale_while_all_members_are_written_to(shared_cluster: Cluster) -> None:
    """RF-30, RF-31, RF-33: linearizable reads on every member beside writes through every member."""
    with FreshReads(shared_cluster.members) as reads:
        wait_until("each member has answered some hundred reads", lambda: reads.reads >= 900)
        reads.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_restart_of_all_members_changes_nothing(cluster: Cluster, number: signal.Signals) -> None:
    """KV-10, CL-53, F-70: contents, history, hash, ids and member list; only the term is new."""
    for turn in range(60):
        cluster.members[turn % 3].client.put(b"k%d" % (turn % 7), b"%d" % turn)
    cluster.members[1].client.delete(b"k3")
    cluster.members[2].client.compact(20)
    members, revision = cluster.wait_same_members(), cluster.wait_same_hash()
    before = [_look(member) for member in cluster.members]
    term = cluster.members[0].client.status().raftTerm
    for member in cluster.members:
        member.send_signal(number)
    for member in cluster.members:
        code = member.wait_exit()
        assert code == (-number if number == signal.SIGKILL else _CLEAN_EXIT[member.program.kind])
    cluster.start()
    assert cluster.wait_same_members() == members
    assert cluster.wait_same_hash() == revision
    assert [_look(member) for member in cluster.members] == before
    assert cluster.members[0].client.status().raftTerm > term
    _check_any_writes_all_read(cluster)


def _look(member: Member) -> tuple[object, ...]:
    hashed = member.client.hash_kv()
    read = member.client.range(b"\x00", b"\x00")
    ids = read.header.cluster_id, read.header.member_id
    return ids, read.header.revision, list(read.kvs), hashed.hash, hashed.compact_revision


@pytest.mark.slow
def test_a_rolling_restart_under_load_loses_nothing(cluster: Cluster) -> None:
    """RF-23, KV-10: members stop and come back one by one; the cluster serves on, the leader's turn included."""
    with ClusterLoad(cluster.members, "rolling") as load, FreshReads(cluster.members) as reads:
        load.wait_more(50)
        for member in cluster.members:
            code = member.terminate()
            assert code == _CLEAN_EXIT[member.program.kind], member.tail()
            load.wait_more(50)
            cluster.restart(member)
            load.wait_more(50)
        reads.check()
        load.stop()
    print(f"{len(load.history.acknowledged)} acknowledged writes, {len(load.history.unknown)} unknown")
    check_all_members_have(cluster, load.history)
