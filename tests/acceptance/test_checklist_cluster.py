"""Acceptance checklist, items 8 and 9: Cluster and Maintenance."""

import hashlib
from collections.abc import Callable
from functools import partial

import pytest
from acceptance_support import Point, defragment, points, snapshot
from contract_support import ALL, NO_SPACE, Client, Code, delete_op, prefix_end, put_op, refused, txn_op
from helpers.cluster import Cluster, when_healthy, when_in_sync
from helpers.member_client import (
    BAD_TRANSFEREE,
    BAD_URLS,
    COMPACTED,
    MEMBER_NOT_FOUND,
    NOT_A_LEARNER,
    NOT_IN_SYNC,
    NOT_LEADER,
    PEER_URL_EXISTS,
    TOO_MANY_LEARNERS,
    UNHEALTHY,
    outcome,
)
from helpers.processes import Program, Server, free_port
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

NewCluster = Callable[..., Cluster]
Fresh = Callable[..., tuple[Server, Client]]

_UNKNOWN_ID = 0x7777
_EXIT_S = 20.0
_ACTIVATE, _DEACTIVATE = rpc_pb2.AlarmRequest.ACTIVATE, rpc_pb2.AlarmRequest.DEACTIVATE


def _free_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


# --- 8: Cluster -----------------------------------------------------------------------------------------------------


def _not_for_learners(program: Program) -> tuple[Code, str]:
    """G-30: 3.5 has another code."""
    code = Code.UNAVAILABLE if program.kind == "etcd" else Code.FAILED_PRECONDITION
    return code, "etcdserver: rpc not supported for learner"


@pytest.mark.slow
def test_item_08_cluster_adds_and_promotes(new_cluster: NewCluster) -> None:
    """CL-01, CL-03, CL-07, CL-22, CL-41, CL-42, CL-44, CL-45, G-30, F-82: a learner becomes a voter."""
    cluster = new_cluster()
    leader, via = cluster.leader(), cluster.followers()[0]
    leader.client.put(b"k")
    learner, answer = cluster.add("m3", via, learner=True)
    assert (answer.member.isLearner, answer.member.name, list(answer.member.clientURLs)) == (True, "", [])
    assert [member.ID for member in answer.members] == sorted(member.ID for member in answer.members)
    assert list(via.client.members().members) == list(answer.members)
    with refused(TOO_MANY_LEARNERS):
        via.client.add_member(_free_url(), learner=True)
    with refused(NOT_IN_SYNC):
        via.client.promote_member(answer.member.ID)
    with refused(NOT_A_LEARNER):
        via.client.promote_member(leader.id)
    with refused(MEMBER_NOT_FOUND):
        via.client.promote_member(_UNKNOWN_ID)

    learner.spawn()
    learner.wait_serving()
    wait_until("it holds the key", lambda: learner.client.value(b"k", serializable=True))
    for call in (lambda: learner.client.put(b"k"), lambda: learner.client.value(b"k"), learner.client.members):
        with refused(_not_for_learners(cluster.program)):
            call()
    promoted = when_in_sync(lambda: via.client.promote_member(learner.id))
    assert not any(member.isLearner for member in promoted.members)
    wait_until("it serves all calls", lambda: learner.client.put(b"through the new voter"))
    cluster.wait_same_members()
    cluster.wait_same_hash()


@pytest.mark.slow
def test_item_08_cluster_refuses_what_it_must(new_cluster: NewCluster) -> None:
    """CL-20, CL-21, CL-24, CL-30, CL-32, CL-40: URLs, ids, and what would endanger the quorum."""
    cluster = new_cluster()
    leader, (one, other) = cluster.leader(), cluster.followers()
    before = cluster.wait_same_members()
    for urls in ([], ["nonsense"], ["ftp://127.0.0.1:1"], ["http://127.0.0.1:1/path"], ["http://127.0.0.1"]):
        with refused(BAD_URLS):
            one.client.add_member(*urls)
    with refused(PEER_URL_EXISTS):
        when_healthy(lambda: one.client.add_member(other.peer_url))
    with refused(PEER_URL_EXISTS):
        one.client.update_member(leader.id, other.peer_url)
    for call in (one.client.remove_member, lambda unknown: one.client.update_member(unknown, _free_url())):
        with refused(MEMBER_NOT_FOUND):
            call(_UNKNOWN_ID)
    other.kill9()
    for member in (leader, one):
        in_use = partial(member.client.add_member, other.peer_url)
        wait_until("its end is noticed", lambda call=in_use: outcome(call) == UNHEALTHY)  # type: ignore[misc]
        with refused(UNHEALTHY):  # two of four would be connected
            member.client.add_member(_free_url())
        with refused(UNHEALTHY):  # one of two would be
            member.client.remove_member(one.id)
    assert list(leader.client.members().members) == before


def test_item_08_cluster_counts_only_started_voters(new_cluster: NewCluster) -> None:
    """CL-24, CL-26, CL-31, G-58."""
    cluster = new_cluster(1)
    (first,) = cluster.members
    second, _answer = cluster.add("m1", first)
    code = Code.UNKNOWN if cluster.program.kind == "etcd" else Code.FAILED_PRECONDITION
    not_enough = (code, "etcdserver: re-configuration failed due to not enough started members")
    with refused(not_enough):
        first.client.add_member(_free_url())
    with refused(not_enough):
        first.client.remove_member(first.id)
    second.spawn()
    second.wait_serving()
    assert first.client.put(b"with two").header.revision == 2


@pytest.mark.slow
def test_item_08_cluster_removes_for_ever(new_cluster: NewCluster) -> None:
    """CL-06, CL-07, CL-30, CL-34: the process ends, and the id does not come back even at the same address."""
    cluster = new_cluster()
    leader, gone = cluster.leader(), cluster.followers()[0]
    gone_id = gone.id
    answer = cluster.remove(gone, leader)
    assert gone_id not in {member.ID for member in answer.members}
    gone.wait_exit(_EXIT_S)
    with refused(MEMBER_NOT_FOUND):
        leader.client.remove_member(gone_id)
    again = when_healthy(lambda: leader.client.add_member(gone.peer_url))
    assert gone_id != again.member.ID
    gone.once = (f"--initial-cluster={gone.initial_cluster}",)
    gone.spawn()
    assert gone.wait_exit(_EXIT_S) != 0, "with the data of the removed member it must not come back"


# --- 9: Maintenance -------------------------------------------------------------------------------------------------


def _a_snapshot_ends_with_its_hash(client: Client, prefix: bytes) -> None:
    """MT-10, MT-11, MT-13: chunks, what remains, and the SHA-256 of all; the size is what etcdctl expects."""
    client.put(prefix, bytes(200_000))
    parts = snapshot(client)
    whole = b"".join(part.blob for part in parts)
    data, trailer = whole[:-32], whole[-32:]
    assert hashlib.sha256(data).digest() == trailer == parts[-1].blob
    assert len(whole) % 512 == 32
    assert max(len(part.blob) for part in parts) <= 32 << 10
    sent = 0
    for part in parts[:-1]:
        sent += len(part.blob)
        assert part.remaining_bytes == len(data) - sent
    assert parts[-1].remaining_bytes == 0


def _defragmenting_returns_what_is_free(client: Client, prefix: bytes) -> None:
    """MT-30, MT-31, CMP-09: the file has the size of what is used, and the keys are there."""
    for number in range(60):
        client.put(prefix + b"%d" % number, bytes(100_000))
    client.delete(prefix, prefix_end(prefix))
    client.put(prefix, b"kept")
    client.compact(client.revision(), physical=True)
    wait_until("pages are free", lambda: client.status().dbSize > client.status().dbSizeInUse + (2 << 20))
    before = client.status()
    defragment(client)
    after = client.status()
    assert after.dbSize < before.dbSize - (2 << 20)
    assert after.dbSize < after.dbSizeInUse + (1 << 20)
    assert client.only(prefix).value == b"kept"


def _an_alarm_comes_and_goes(client: Client, prefix: bytes) -> None:
    """AL-01 to AL-04, AL-06, AL-25, AL-26: of another member's id, too."""
    for alarmed in (client.status().header.member_id, 4711):
        client.alarm(_ACTIVATE, alarmed, rpc_pb2.NOSPACE)
        assert client.alarms() == [(alarmed, rpc_pb2.NOSPACE)]
        assert list(client.status().errors) == [f"memberID:{alarmed} alarm:NOSPACE "]
        before = client.revision()
        with refused(NO_SPACE):
            client.put(prefix)
        with refused(NO_SPACE):
            client.txn(success=[txn_op([], [put_op(prefix)])])
        with refused(NO_SPACE):
            client.grant(60)
        client.txn(success=[delete_op(prefix)])
        client.delete(prefix)
        assert client.range(prefix).header.revision == before
        client.alarm(_DEACTIVATE, alarmed, rpc_pb2.NOSPACE)
        assert client.alarms() == []
    client.put(prefix)


def _status_says(client: Client, _prefix: bytes) -> None:
    """MT-01, MT-02 and the fields of section 6.1."""
    status = client.status()
    assert [int(part) >= 0 for part in status.version.split(".")] == [True] * 3
    assert status.header.raft_term == status.raftTerm > 0
    assert status.raftIndex >= status.raftAppliedIndex > 0
    assert status.leader in {member.ID for member in client.members().members}
    assert 0 < status.dbSizeInUse <= status.dbSize
    assert (list(status.errors), status.isLearner) == ([], False)
    assert status.header.revision == client.revision()


@pytest.mark.beyond_etcd("3.5 has no such fields")
def test_item_09_maintenance_status_of_36(client: Client) -> None:
    """Section 6.1."""
    status = client.status()
    assert (status.storageVersion, status.dbSizeQuota) == ("3.6.0", 2 << 30)
    assert (status.downgradeInfo.enabled, status.downgradeInfo.targetVersion) == (False, "")


@points(
    _a_snapshot_ends_with_its_hash,
    _defragmenting_returns_what_is_free,
    _an_alarm_comes_and_goes,
    _status_says,
)
def test_item_09_maintenance(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


def test_item_09_maintenance_hashes_are_equal(new_cluster: NewCluster) -> None:
    """MT-20, MT-21, MT-24, CMP-13: whatever each member has deleted so far."""
    cluster = new_cluster()
    client = cluster.leader().client
    for number in range(30):
        client.txn(rpc_pb2.TxnRequest(success=[put_op(b"k%03d" % key, b"%d" % number) for key in range(100)]))
        client.delete(b"k%03d" % number)
    now, middle = client.revision(), client.revision() // 2
    before = {member.client.hash_kv(middle).hash for member in cluster.members if _has(member.client.revision, now)}
    assert len(before) == 1
    # Not physical: each member deletes at its own pace, and is asked at once and again later.
    client.calls.KV.Compact(rpc_pb2.CompactionRequest(revision=middle), timeout=20)
    seen = set()
    for _turn in range(5):
        for member in cluster.members:
            wait_until("it is compacted", lambda m=member: m.client.hash_kv(now).compact_revision == middle)  # type: ignore[misc]
            answer = member.client.hash_kv(now)
            seen.add((answer.hash, answer.compact_revision, answer.hash_revision))
    assert len(seen) == 1, "the members differ, or one differs from itself"
    for member in cluster.members:
        with refused(COMPACTED):
            member.client.hash_kv(middle - 1)
        with refused((Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")):
            member.client.hash_kv(now + 1)


def _has(revision: Callable[[], int], at_least: int) -> int:
    return wait_until(f"it has revision {at_least}", lambda: revision() if revision() >= at_least else None)


def test_item_09_maintenance_moves_the_leader(new_cluster: NewCluster) -> None:
    """MT-40 to MT-43."""
    cluster = new_cluster()
    leader, (one, other) = cluster.leader(), cluster.followers()
    with refused(NOT_LEADER):
        one.client.move_leader(other.id)
    for target in (_UNKNOWN_ID, 0):
        with refused(BAD_TRANSFEREE):
            leader.client.move_leader(target)
    assert not leader.client.move_leader(leader.id).HasField("header")
    leader.client.move_leader(one.id)
    assert leader.client.status().leader == one.id
    assert cluster.leader() is one


def test_item_09_maintenance_a_full_store_is_emptied(fresh: Fresh) -> None:
    """AL-20, AL-23, AL-27, AL-28: the way out is compact, defragment, disarm."""
    quota = 4 << 20
    _server, client = fresh(f"--quota-backend-bytes={quota}")
    member_id = client.status().header.member_id
    with refused(NO_SPACE):
        for number in range(200):
            client.put(b"k%d" % number, bytes(100_000))
    wait_until("the alarm is raised", lambda: client.alarms() == [(member_id, rpc_pb2.NOSPACE)])
    client.delete(*ALL)
    client.compact(client.revision(), physical=True)
    defragment(client)
    assert client.status().dbSize < quota // 2
    with refused(NO_SPACE):  # nothing but a disarm ends it
        client.put(b"k")
    client.alarm(_DEACTIVATE, member_id, rpc_pb2.NOSPACE)
    client.put(b"k")
    assert (client.alarms(), client.range(*ALL).count) == ([], 1)
