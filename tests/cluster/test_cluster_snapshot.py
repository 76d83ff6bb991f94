"""A follower that was away for longer than the leader's log reaches: it is filled by a snapshot (RF-43 to RF-46)."""

import itertools
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest
from helpers.cluster import Cluster, Member
from helpers.cluster_load import ClusterLoad, check_all_members_have
from helpers.load import History, value_of
from helpers.member_client import NO_SPACE, PUT, TIMEOUT_S, Told, WatchStream, refused
from helpers.processes import Program, ServerNotServingError
from helpers.waiting import wait_until

from raftkv.pb import rpc_pb2

pytestmark = pytest.mark.crash

NewCluster = Callable[..., Cluster]

_KEPT_ENTRIES = 50
"""What the leader keeps of its log behind its own snapshot. etcd 3.5.1 has no flag for it and keeps 5000."""
_MISSED_ENTRIES = {"raftkv": 1500, "etcd": 12_000}
"""A member that stands still is sent some hundred messages into its sockets, which it reads when it goes on."""
_CATCH_UP_S = 60.0


@pytest.fixture
def short_logs(new_cluster: NewCluster, subject_program: Program) -> Cluster:
    """Three serving members that keep few log entries for those who are away."""
    kept = () if subject_program.kind == "etcd" else (f"--snapshot-catchup-entries={_KEPT_ENTRIES}",)
    return new_cluster(3, "--snapshot-count=100", *kept).start()


def _write_missed(cluster: Cluster) -> dict[bytes, int]:
    """More entries than the leader keeps: key -> revision, ascending."""
    return _write_keys(cluster, b"missed", _MISSED_ENTRIES[cluster.program.kind])


def _write_keys(cluster: Cluster, name: bytes, count: int) -> dict[bytes, int]:
    keys = [b"%s/%05d" % (name, number) for number in range(count)]
    puts = (rpc_pb2.PutRequest(key=key, value=value_of(key)) for key in keys)
    revisions = zip(keys, _write_entries(cluster, "Put", puts), strict=True)
    return dict(sorted(revisions, key=lambda item: item[1]))


def _write_entries(cluster: Cluster, method: str, requests: Iterable[Any]) -> list[int]:
    """The revisions of requests that become a log entry each.

    One after the other, for raftkv writes into one entry what comes at the same time; etcd does not.
    """
    call, at_once = getattr(cluster.leader().client.calls.KV, method), 50 if cluster.program.kind == "etcd" else 1
    revisions: list[int] = []
    waiting = iter(requests)
    while window := [call.future(request, timeout=TIMEOUT_S) for request in itertools.islice(waiting, at_once)]:
        revisions += [each.result().header.revision for each in window]
    return revisions


def _came_by_snapshot(member: Member) -> bool:
    """Whether the log of this process tells that a snapshot was installed."""
    line = "applied incoming Raft snapshot" if member.program.kind == "etcd" else "the store was replaced by a copy"
    return line in member.log_text()


def _wait_caught_up(cluster: Cluster, member: Member) -> None:
    revision = cluster.others(member)[0].client.revision()

    def there() -> bool:
        return member.client.status().header.revision >= revision

    wait_until(f"{member.name} has revision {revision}", there, _CATCH_UP_S)


def _check_holds(member: Member, revisions: dict[bytes, int]) -> None:
    """What the member's own store holds of these keys, without asking the others."""
    first, last = min(revisions), max(revisions)
    stored = member.client.range(first, last + b"\0", serializable=True).kvs
    assert {kv.key: kv.mod_revision for kv in stored} == revisions
    assert all(kv.value == value_of(kv.key) for kv in stored)


# --- the follower's process was away ------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True], ids=["whole history", "compacted meanwhile"])
def test_a_follower_that_was_down_for_long_is_filled_by_a_snapshot(short_logs: Cluster, compacted: bool) -> None:
    """RF-45, W-40, MT-21, CL-53: same hash, same answers, the whole history that is left, the same members."""
    cluster = short_logs
    before = _write_keys(cluster, b"before", 50)
    away = cluster.followers()[0]
    away.kill9()
    missed = _write_missed(cluster)
    compact_revision = missed[b"missed/00300"]
    if compacted:
        cluster.leader().client.delete(b"before/00007")
        cluster.leader().client.compact(compact_revision)
    last = cluster.leader().client.put(b"last").header.revision

    cluster.restart(away)
    _wait_caught_up(cluster, away)
    assert _came_by_snapshot(away), f"it was filled by the log: the test tests nothing\n{away.tail()}"
    _check_holds(away, missed)
    assert (away.client.value(b"before/00007", serializable=True) is None) == compacted
    cluster.wait_same_hash(_CATCH_UP_S)
    cluster.wait_same_members()
    with WatchStream(away.client, b"missed/", b"missed0", start_revision=min(before.values())) as watch:
        if compacted:
            watch.wait("the watch is told of the compaction", watch.compacted)
            assert watch.compacted() == compact_revision
        else:
            assert watch.wait_told(max(missed.values())) == [Told(missed[key], key, PUT) for key in missed]
    with WatchStream(away.client, b"missed/", b"missed0", start_revision=compact_revision + 1) as watch:
        told = watch.wait_told(max(missed.values()))
        assert [each.revision for each in told] == [rev for rev in missed.values() if rev > compact_revision]
    # It is a full member again: with it, one of the others may go.
    cluster.kill9(cluster.others(away)[0])
    cluster.leader()
    assert away.client.put(b"needs its vote").header.revision == last + 1


def test_leases_and_alarms_come_with_the_snapshot(short_logs: Cluster) -> None:
    """RF-45, CL-53, AL-05, AL-25: what is not in the keys comes along, too."""
    cluster = short_logs
    away = cluster.followers()[0]
    away.kill9()
    leader = cluster.leader()
    lease, gone = leader.client.grant(3600), leader.client.grant(3600)
    leader.client.put(b"leased", lease=lease)
    leader.client.put(b"revoked", lease=gone)
    leader.client.revoke(gone)
    leader.client.arm(leader.id, rpc_pb2.NOSPACE)
    # Allowed in spite of the alarm (AL-26), and an entry each, though they delete nothing.
    deletes = itertools.repeat(rpc_pb2.DeleteRangeRequest(key=b"none"), _MISSED_ENTRIES[cluster.program.kind])
    _write_entries(cluster, "DeleteRange", deletes)
    index = leader.client.status().raftAppliedIndex
    cluster.restart(away)
    wait_until("it has caught up", lambda: away.client.status().raftAppliedIndex >= index, _CATCH_UP_S)
    assert _came_by_snapshot(away), f"it was filled by the log: the test tests nothing\n{away.tail()}"
    assert any("NOSPACE" in error for error in away.client.status().errors)
    with refused(NO_SPACE):
        away.client.put(b"k")
    assert away.client.leases() == {lease}
    assert away.client.time_to_live(lease, keys=True).keys == [b"leased"]
    revision = away.client.revoke(lease).header.revision
    for member in cluster.members:
        assert member.client.value(b"leased") is None
    away.client.disarm(leader.id, rpc_pb2.NOSPACE)
    assert away.client.put(b"k").header.revision == revision + 1
    cluster.wait_same_hash(_CATCH_UP_S)


# --- the follower's process stood still ---------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True], ids=["whole history", "compacted meanwhile"])
def test_a_watch_on_a_follower_outlives_the_snapshot_that_fills_it(short_logs: Cluster, compacted: bool) -> None:
    """RF-45, W-54, W-40: the stream goes on without a gap, or is told what was compacted; never is an event skipped."""
    cluster = short_logs
    away = cluster.followers()[0]
    with WatchStream(away.client, b"missed/", b"missed0") as watch:
        watch.wait_created()
        first = cluster.leader().client.put(b"missed/", b"before").header.revision
        watch.wait_told(first)
        away.pause()
        missed = _write_missed(cluster)
        if compacted:
            cluster.leader().client.compact(missed[b"missed/00300"])
        away.resume()
        _wait_caught_up(cluster, away)
        assert _came_by_snapshot(away), f"it was filled by the log: the test tests nothing\n{away.tail()}"
        after = cluster.leader().client.put(b"missed/z", b"after").header.revision
        expected = [first, *missed.values(), after]

        def has_ended() -> bool:
            return watch.compacted() > 0 or any(told.revision == after for told in watch.told())

        watch.wait("the watch has all, or is told that it cannot have it", has_ended)
        revisions = [told.revision for told in watch.told()]
        if cluster.program.kind == "etcd":  # 3.5.1 may tell again what it had told before the snapshot
            revisions = list(dict.fromkeys(revisions))
        assert revisions == expected[: len(revisions)], "events are missing, or are not in order"
        if watch.compacted():
            assert compacted, "nothing was compacted"
            assert watch.compacted() == missed[b"missed/00300"]
        else:
            assert revisions == expected
    cluster.wait_same_hash(_CATCH_UP_S)


def test_serializable_reads_go_on_while_a_snapshot_is_installed(short_logs: Cluster) -> None:
    """RF-45, RF-46: each answer is the old store or the new one, whole; revisions never go back."""
    cluster = short_logs
    away = cluster.followers()[0]
    small = _write_keys(cluster, b"k", 5)
    cluster.wait_same_hash(_CATCH_UP_S)
    away.pause()
    # All keys in one revision, again and again: a half-installed store would show keys of different times.
    puts = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value_of(key))) for key in small]
    txn = rpc_pb2.TxnRequest(success=puts)
    _write_entries(cluster, "Txn", itertools.repeat(txn, _MISSED_ENTRIES[cluster.program.kind]))
    away.resume()
    stop, failures, seen = threading.Event(), [], set()

    def read() -> None:
        last = 0
        while not stop.is_set():
            try:
                answer = away.client.range(b"k/", b"k0", serializable=True)
            except grpc.RpcError as error:
                failures.append(f"refused: {error}")
                return
            revisions = {kv.mod_revision for kv in answer.kvs}
            together = len(answer.kvs) == len(small) and (len(revisions) == 1 or revisions == set(small.values()))
            if not together:
                failures.append(f"a mix of times: {len(answer.kvs)} keys of {sorted(revisions)[:4]}...")
            if answer.header.revision < last:
                failures.append(f"revision {answer.header.revision} after {last}")
            last = max(last, answer.header.revision)
            seen.add(last)

    reader = threading.Thread(target=read)
    reader.start()
    _wait_caught_up(cluster, away)
    stop.set()
    reader.join()
    assert _came_by_snapshot(away), f"it was filled by the log: the test tests nothing\n{away.tail()}"
    assert not failures, failures[:3]
    assert seen, "no read was answered"
    cluster.wait_same_hash(_CATCH_UP_S)


# --- killed in the middle -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.beyond_etcd("a killed member of etcd 3.5.1 may come back with other data (etcd pull request 13908)")
def test_a_follower_killed_again_and_again_while_it_catches_up(short_logs: Cluster) -> None:
    """RF-46: each start finds the old store or the new one; in the end it has what the others have."""
    cluster, rng = short_logs, random.Random(20)
    history = History()
    away = cluster.followers()[0]
    _fill(cluster.leader(), megabytes=24)
    for turn in range(4):
        if away.is_running():
            away.kill9()
        with ClusterLoad(cluster.others(away), f"turn{turn}", history=history) as load:
            load.wait_more(200)
            away.spawn()
            # A start takes a second or so; from then on, until it has caught up, every moment is a good one.
            wait_until("a random moment has come", _after(rng.uniform(0.3, 2.5)))
            try:
                away.kill9()
            except ServerNotServingError as error:
                raise AssertionError(f"it ended by itself\n{away.tail()}") from error
            load.stop()
    cluster.restart(away)
    _wait_caught_up(cluster, away)
    check_all_members_have(cluster, history)


def _fill(member: Member, megabytes: int) -> None:
    for number in range(megabytes * 2):
        member.client.put(b"fill/%04d" % number, value_of(b"%d" % number)[:16] * 32768)


def _after(seconds: float) -> Callable[[], bool]:
    moment = threading.Event()
    timer = threading.Timer(seconds, moment.set)
    timer.daemon = True
    timer.start()
    return moment.is_set
