"""A member without a quorum: what it refuses, with which words and when, and what it goes on doing (RF-70)."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from helpers.cluster import ELECTION_S, REQUEST_S, Cluster, Member
from helpers.member_client import (
    DEADLINE,
    HAS_LEADER,
    LEADER_CHANGED,
    NO_LEADER,
    NOT_LEADER,
    TIMED_OUT,
    TIMED_OUT_CONNECTION_LOST,
    TIMED_OUT_LEADER_FAILED,
    UNHEALTHY,
    Code,
    MemberClient,
    Stream,
    WatchStream,
    outcome,
    refused,
)
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

pytestmark = [pytest.mark.crash, pytest.mark.slow]

_OLD = 10
"""Revisions of the time when all was well."""
_GRACE_S = 4.0
"""How much later than promised an answer may come on a busy machine."""


class Answer(NamedTuple):
    outcome: Any
    took_s: float


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=32) as threads:
        yield threads


def _begin(pool: ThreadPoolExecutor, call: Callable[[], Any]) -> "Future[Answer]":
    def run() -> Answer:
        began = time.monotonic()
        return Answer(outcome(call), time.monotonic() - began)

    return pool.submit(run)


def _writes(client: MemberClient) -> list[Callable[[], Any]]:
    """One proposal of each kind."""
    txn = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"new/txn"))])
    return [
        lambda: client.put(b"new/put"),
        lambda: client.delete(b"none"),
        lambda: client.txn(txn),
        lambda: client.grant(60),
        lambda: client.compact(2),
    ]


def _leave_alone(cluster: Cluster, survivor: Member) -> None:
    cluster.kill9(*[member for member in cluster.members if member is not survivor])


def _wait_leaderless(member: Member) -> None:
    wait_until(f"{member.name} knows no leader", lambda: member.client.status().leader == 0)


def _check_took_the_request_timeout(answer: Answer, what: str) -> None:
    assert REQUEST_S - 0.5 < answer.took_s < REQUEST_S + _GRACE_S, f"{what}: {answer} (G-50)"


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_writes_and_linearizable_reads_time_out(cluster: Cluster, pool: ThreadPoolExecutor, leads: bool) -> None:
    """RF-70, G-50, G-51, G-52, L-24, L-32, RF-08, CL-10: with a leader that has just died, then without any."""
    survivor = cluster.leader() if leads else cluster.followers()[0]
    client, lease = survivor.client, cluster.leader().client.grant(3600)
    client.put(b"old")
    _leave_alone(cluster, survivor)
    early = [_begin(pool, call) for call in _writes(client)]
    # A read that finds a round under way waits for the next one (RF-33): one at a time, or it takes twice as long.
    early_read = _begin(pool, lambda: client.value(b"old")) if leads else None
    _wait_leaderless(survivor)
    late = [_begin(pool, call) for call in _writes(client)]
    late_read = _begin(pool, lambda: client.value(b"old")) if not leads else None
    leases = [_begin(pool, lambda: client.keep_alive(lease)), _begin(pool, lambda: client.time_to_live(lease))]
    impatient = _begin(pool, lambda: client.put(b"new/impatient", timeout_s=1))

    assert impatient.result().outcome[0] is Code.DEADLINE_EXCEEDED, "the client's own deadline ends its wait (G-51)"
    for answer in (each.result() for each in early):
        # Accepted while a leader was known, and not applied within the time (G-52).
        assert answer.outcome in {TIMED_OUT, TIMED_OUT_CONNECTION_LOST}
        _check_took_the_request_timeout(answer, "a write sent to a known leader")
    if early_read is not None:
        assert early_read.result().outcome in {TIMED_OUT, LEADER_CHANGED}, "RF-35"
        assert early_read.result().took_s < REQUEST_S + _GRACE_S
    for answer in (each.result() for each in late):
        # Never accepted: the wait for a leader ends with the plain words (G-51).
        assert answer.outcome[1] == DEADLINE[1]
        assert answer.outcome[0] is (Code.UNKNOWN if survivor.program.kind == "etcd" else DEADLINE[0])
        _check_took_the_request_timeout(answer, "a write without a leader")
    if late_read is not None:
        assert late_read.result().outcome == TIMED_OUT
        _check_took_the_request_timeout(late_read.result(), "a read without a leader")
    for answer in (each.result() for each in leases):
        assert answer.outcome in {NO_LEADER, TIMED_OUT}
        _check_took_the_request_timeout(answer, "a lease request without a leader")
    # Not beside the reads above: whichever came second would have waited for the other one's round first.
    listed = outcome(lambda: client.members(timeout_s=3))
    assert listed[0] is Code.DEADLINE_EXCEEDED, "CL-10: it waits for a quorum, as a read does"

    cluster.start()
    client.put(b"after")
    cluster.wait_same_hash()


def _unary_calls_that_are_answered_in_spite_of_hasleader(client: MemberClient, lease: int) -> dict[str, Any]:
    calls = client.calls
    requests: dict[str, tuple[Callable[..., Any], Any]] = {
        "a serializable range": (calls.KV.Range, rpc_pb2.RangeRequest(key=b"old/3", serializable=True)),
        "a linearizable range": (calls.KV.Range, rpc_pb2.RangeRequest(key=b"old/3")),
        "a put": (calls.KV.Put, rpc_pb2.PutRequest(key=b"k")),
        "a transaction that only reads": (calls.KV.Txn, rpc_pb2.TxnRequest()),
        "a grant": (calls.Lease.LeaseGrant, rpc_pb2.LeaseGrantRequest(TTL=60)),
        "a lease's time to live": (calls.Lease.LeaseTimeToLive, rpc_pb2.LeaseTimeToLiveRequest(ID=lease)),
        "a list of leases": (calls.Lease.LeaseLeases, rpc_pb2.LeaseLeasesRequest()),
        "a local member list": (calls.Cluster.MemberList, rpc_pb2.MemberListRequest()),
        "a status": (calls.Maintenance.Status, rpc_pb2.StatusRequest()),
        "a hash": (calls.Maintenance.HashKV, rpc_pb2.HashKVRequest()),
    }

    def ask(call: Callable[..., Any], request: Any) -> Any:
        return outcome(lambda: call(request, timeout=5, metadata=HAS_LEADER))

    outcomes = {name: ask(*each) for name, each in requests.items()}
    return {
        name: answer if isinstance(answer, tuple) else type(answer).__name__
        for name, answer in outcomes.items()
        if answer != NO_LEADER
    }


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_what_needs_no_quorum_goes_on(cluster: Cluster, leads: bool) -> None:
    """RF-70, G-20, G-21, G-22, MT-02, MT-27, CL-10, CL-24, CL-32, MT-40, L-34."""
    survivor = cluster.leader() if leads else cluster.followers()[0]
    client, lease = survivor.client, survivor.client.grant(3600)
    revisions = [client.put(b"old/%d" % number, b"%d" % number).header.revision for number in range(_OLD)]
    members = cluster.wait_same_members()
    before = client.hash_kv(revisions[-1])
    strict = WatchStream(client, b"a", metadata=HAS_LEADER).wait_created()
    strict_lease = Stream(client.calls.Lease.LeaseKeepAlive, HAS_LEADER)
    patient = WatchStream(client, b"after").wait_created()
    patient_lease = Stream(client.calls.Lease.LeaseKeepAlive)
    with strict, strict_lease, patient, patient_lease:
        for stream in (strict_lease, patient_lease):
            stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
            stream.wait("a keepalive is answered", lambda stream=stream: stream.responses)  # type: ignore[misc]
        alone_since = time.monotonic()
        _leave_alone(cluster, survivor)
        _wait_leaderless(survivor)

        status = client.status()
        assert (status.leader, list(status.errors)) == (0, ["etcdserver: no leader"])
        assert client.value(b"old/3", serializable=True) == b"3"
        assert list(client.members(linearizable=False).members) == members
        assert client.leases() == {lease}
        after = client.hash_kv(revisions[-1])
        assert (after.hash, after.compact_revision) == (before.hash, before.compact_revision)
        with WatchStream(client, b"old/", b"old0", start_revision=revisions[0]) as old:
            assert [told.revision for told in old.wait_told(revisions[-1])] == revisions
        with refused(NOT_LEADER):
            client.move_leader(cluster.members[0].id if leads else survivor.id)
        with refused(UNHEALTHY):
            client.add_member("http://127.0.0.1:1")
        with refused(UNHEALTHY):
            client.remove_member(survivor.id)

        answered = _unary_calls_that_are_answered_in_spite_of_hasleader(client, lease)
        assert not answered, f"no leader is known, and these were not refused for it (G-20): {answered}"
        with WatchStream(client, b"a", metadata=HAS_LEADER) as refused_watch:
            assert refused_watch.wait_end() == NO_LEADER
        for stream in (strict, strict_lease):
            assert stream.wait_end() == NO_LEADER
            # Three checks, one per election timeout, after the leader was given up, of which the first may come at once
            # (G-21); and that takes almost an election timeout, too.
            assert 2.5 * ELECTION_S < time.monotonic() - alone_since < 6 * ELECTION_S + _GRACE_S
        assert patient.ended is None
        assert patient_lease.ended is None

        cluster.start()
        now = cluster.followers()[0].client.put(b"after").header.revision
        assert [told.revision for told in patient.wait_told(now)] == [now]
        assert patient.ended is None


def test_a_write_that_a_dead_leader_took_along_times_out_with_its_reason(
    cluster: Cluster, pool: ThreadPoolExecutor
) -> None:
    """G-52, RF-71: forwarded to a leader that died before it answered, while the others found a new one in time."""
    for attempt in range(3):
        leader, follower = cluster.leader(), cluster.followers()[0]
        leader.pause()
        put = _begin(pool, lambda follower=follower, key=b"k%d" % attempt: follower.client.put(key))  # type: ignore[misc]
        asked_at = time.monotonic()
        # The request must have left for the leader, which does not see it any more. Nothing tells that from outside;
        # a put that left too late reaches the new leader and succeeds, and the next attempt decides.
        wait_until("the request has had time to leave", lambda at=asked_at: time.monotonic() > at + 0.2)  # type: ignore[misc]
        leader.kill9()
        cluster.leader()
        elected_s = time.monotonic() - asked_at
        answer = put.result()
        cluster.restart(leader)
        if elected_s < 2 * ELECTION_S and not isinstance(answer.outcome, rpc_pb2.PutResponse):
            assert answer.outcome == TIMED_OUT_LEADER_FAILED
            _check_took_the_request_timeout(answer, "a write that was lost with its leader")
            return
    pytest.fail("in three attempts no write was lost with a leader that was replaced in time")
