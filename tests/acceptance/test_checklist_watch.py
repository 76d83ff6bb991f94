"""Acceptance checklist, items 6 and 7: Watch and Lease."""

import time
from collections.abc import Callable

import pytest
from acceptance_support import Point, keys, points
from contract_support import DELETE, LEASE_NOT_FOUND, PUT, Client, Code, prefix_end, put_op, refused
from helpers.cluster import ELECTION_S, Cluster
from helpers.member_client import WatchStream
from helpers.processes import Server
from helpers.waiting import stays_true, wait_until

from raftkv.pb import kv_pb2, rpc_pb2

NewCluster = Callable[..., Cluster]
Fresh = Callable[..., tuple[Server, Client]]
_Create = rpc_pb2.WatchCreateRequest

_LIMIT_BYTES = 2 << 20
_FULL_S = 3600

# --- 6: Watch -------------------------------------------------------------------------------------------------------


def _created_comes_first(client: Client, prefix: bytes) -> None:
    """W-02, W-05, W-08: before the history that was there already."""
    first = client.put(prefix).header.revision
    with client.watch() as stream:
        stream.ask(prefix, start_revision=first)
        created = stream.next()
        assert (created.created, created.canceled, created.watch_id, len(created.events)) == (True, False, 0, 0)
        assert created.header.revision == client.revision()
        assert [event.kv.mod_revision for event in stream.events(1)] == [first]


def _refused_creations(client: Client, prefix: bytes) -> None:
    """W-20, W-21, W-22: an empty interval, a number in use, a negative start; the stream goes on."""
    with client.watch() as stream:
        stream.create(prefix, watch_id=7)
        for fields, reason in (
            ({"range_end": prefix}, "mvcc: watcher range is empty"),
            ({"range_end": b"\x01"}, "mvcc: watcher range is empty"),
            ({"watch_id": 7}, "mvcc: duplicate watch ID provided on the WatchStream"),
            ({"start_revision": -1}, "etcdserver: mvcc: required revision has been compacted"),
        ):
            stream.ask(prefix, **fields)
            answer = stream.next()
            assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
            assert (answer.cancel_reason, answer.compact_revision) == (reason, 0)
        revision = client.put(prefix).header.revision
        told = stream.next()
        assert (told.watch_id, told.events[0].kv.mod_revision) == (7, revision)


def _starts_in_the_past_and_in_the_future(client: Client, prefix: bytes) -> None:
    """W-09, W-10, W-11."""
    first, second = (client.put(prefix, b"%d" % number).header.revision for number in range(2))
    with client.watch() as stream:
        stream.create(prefix, start_revision=first)
        assert [event.kv.mod_revision for event in stream.events(2)] == [first, second]
    with client.watch() as stream:
        stream.create(prefix)
        stream.create(prefix, start_revision=second + 2, watch_id=9)
        third, fourth = (client.put(prefix).header.revision for _ in range(2))
        told = sorted(
            (answer.watch_id, answer.events[0].kv.mod_revision) for answer in (stream.next() for _ in range(3))
        )
        assert told == [(0, third), (0, fourth), (9, fourth)]


def _a_start_that_is_compacted(client: Client, prefix: bytes) -> None:
    """W-12, W-40: created, then cancelled with the revision; from that revision on it works."""
    first, second = (client.put(prefix).header.revision for _ in range(2))
    client.compact(second)
    with client.watch() as stream:
        created = stream.create(prefix, start_revision=first)
        assert not created.canceled
        cancelled = stream.next()
        assert (cancelled.canceled, cancelled.created, cancelled.compact_revision) == (True, False, second)
        assert (cancelled.cancel_reason, cancelled.header.revision, len(cancelled.events)) == ("", 0, 0)
        stream.create(prefix, start_revision=second)
        assert [event.kv.mod_revision for event in stream.events(1)] == [second]


def _filters_and_previous_values(client: Client, prefix: bytes) -> None:
    """W-14, W-50 to W-53, W-58."""
    with client.watch() as stream:
        stream.create(prefix, watch_id=1, filters=[_Create.NOPUT], prev_kv=True)
        stream.create(prefix, watch_id=2, filters=[_Create.NODELETE], prev_kv=True)
        stream.create(prefix, watch_id=3, filters=[_Create.NOPUT, _Create.NODELETE])
        made = client.put(prefix, b"1").header.revision
        changed = client.put(prefix, b"2").header.revision
        deleted = client.delete(prefix).header.revision
        answers = [stream.next() for _ in range(3)]
        assert stream.until_refused_creation() == []
    puts = [answer.events[0] for answer in answers if answer.watch_id == 2]
    (delete,) = (answer.events[0] for answer in answers if answer.watch_id == 1)
    assert [(event.type, event.kv.mod_revision, event.HasField("prev_kv")) for event in puts] == [
        (PUT, made, False),
        (PUT, changed, True),
    ]
    assert (puts[1].kv.version, puts[1].kv.create_revision, puts[1].prev_kv.value) == (2, made, b"1")
    assert (delete.type, delete.prev_kv.value) == (DELETE, b"2")
    assert delete.kv == kv_pb2.KeyValue(key=prefix, mod_revision=deleted)


def _a_revision_of_100_keys_comes_whole(client: Client, prefix: bytes) -> None:
    """W-55, W-56, W-57: live and from history."""
    names = [prefix + b"%03d" % number for number in range(100)]
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        revision = client.txn(success=[put_op(name) for name in reversed(names)]).header.revision
        live = stream.next()
        stream.create(prefix, prefix_end(prefix), start_revision=revision)
        past = stream.next()
    for answer in (live, past):
        assert [event.kv.key for event in answer.events] == names[::-1], "in the order of the operations"
        assert {event.kv.mod_revision for event in answer.events} == {revision}


def _a_lease_that_runs_out_is_one_revision(client: Client, prefix: bytes) -> None:
    """W-59."""
    lease = client.grant(2).ID
    for number in (2, 3, 1):
        client.put(prefix + b"%d" % number, lease=lease)
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        answer = stream.next()
    assert [event.kv.key for event in answer.events] == [prefix + b"%d" % number for number in (1, 2, 3)]
    assert {(event.type, event.kv.mod_revision) for event in answer.events} == {(DELETE, answer.header.revision)}


def _fragments_of_more_than_2_mib(client: Client, prefix: bytes) -> None:
    """W-80, W-81, W-82: for the watcher that asks; the other one gets it whole."""
    operations = [put_op(prefix + b"%d" % number, bytes(360 << 10)) for number in range(4)]
    client.txn(success=operations)
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix), fragment=True, prev_kv=True, watch_id=4)
        stream.create(prefix, prefix_end(prefix), prev_kv=True, watch_id=5)
        client.txn(success=operations)
        told: dict[int, list[rpc_pb2.WatchResponse]] = {4: [], 5: []}
        while not all(each and not each[-1].fragment for each in told.values()):
            answer = stream.next()
            told[answer.watch_id].append(answer)
    assert [answer.fragment for answer in told[4]] == [True] * (len(told[4]) - 1) + [False]
    assert len(told[4]) > 1
    assert all(answer.ByteSize() < _LIMIT_BYTES for answer in told[4])
    (whole,) = told[5]
    assert whole.ByteSize() > _LIMIT_BYTES
    assert [event for answer in told[4] for event in answer.events] == list(whole.events)


def _progress_on_request_and_by_itself(client: Client, prefix: bytes) -> None:
    """W-70, W-72, W-73: for the stream, and for the watcher that asked."""
    with client.watch() as stream:
        stream.create(prefix, watch_id=3)
        now = client.put(prefix).header.revision
        stream.ask_progress()
        assert [event.kv.mod_revision for event in stream.events(1)] == [now], "events first"
        while (progress := stream.next()).header.revision < now:
            stream.ask_progress()  # a follower may not have applied everything when it was asked
        assert (progress.watch_id, progress.header.revision, len(progress.events)) == (-1, now, 0)
        stream.create(prefix, watch_id=4, progress_notify=True)
        progress = stream.next()
        assert (progress.watch_id, progress.header.revision, len(progress.events)) == (4, now, 0)


def _a_slow_reader_delays_nobody(client: Client, prefix: bytes) -> None:
    """W-91, W-54: 12 MB wait for it while others read and write; it misses nothing."""
    with client.watch() as slow, client.watch() as fast:
        slow.create(prefix, prefix_end(prefix))
        fast.create(prefix, prefix_end(prefix))
        revisions = []
        for number in range(240):
            revisions.append(client.put(prefix + b"%d" % (number % 7), bytes(50_000)).header.revision)
            (event,) = fast.events(1)
            assert event.kv.mod_revision == revisions[-1]
        assert [event.kv.mod_revision for event in slow.events(240)] == revisions


@points(
    _created_comes_first,
    _refused_creations,
    _starts_in_the_past_and_in_the_future,
    _a_start_that_is_compacted,
    _filters_and_previous_values,
    _a_revision_of_100_keys_comes_whole,
    _a_lease_that_runs_out_is_one_revision,
    _fragments_of_more_than_2_mib,
    pytest.param(
        _progress_on_request_and_by_itself, marks=pytest.mark.beyond_etcd("in 3.5.1 progress overtakes events")
    ),
    _a_slow_reader_delays_nobody,
)
def test_item_06_watch(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


@pytest.mark.slow
@pytest.mark.beyond_etcd("the log of 3.5.1 always reaches back 5000 entries")
def test_item_06_watch_goes_on_while_a_follower_is_filled_by_a_copy(new_cluster: NewCluster) -> None:
    """W-60, RF-45: the follower stood still for longer than the leader's log reaches; its watcher misses nothing."""
    cluster = new_cluster(3, "--snapshot-count=100", "--snapshot-catchup-entries=50")
    leader, away = cluster.leader(), cluster.followers()[0]
    with WatchStream(away.client, b"k", b"l") as watch:
        watch.wait_created()
        watch.wait_told(leader.client.put(b"k").header.revision)
        first = watch.told()[0].revision
        away.pause()
        revisions = [leader.client.put(b"k%d" % number).header.revision for number in range(1500)]
        away.resume()
        watch.wait_told(revisions[-1])
        assert [told.revision for told in watch.told()] == [first, *revisions]
    assert "the store was replaced by a copy" in away.log_text(), "filled by the log: the test tests nothing"


def test_item_06_watch_tells_only_what_is_committed(new_cluster: NewCluster) -> None:
    """W-61, RF-70: not what a leader without its quorum was asked to write."""
    cluster = new_cluster()
    leader, others = cluster.leader(), cluster.followers()
    with WatchStream(leader.client, b"k") as watch:
        watch.wait_created()
        for member in others:
            member.pause()
        put = leader.client.calls.KV.Put.future(rpc_pb2.PutRequest(key=b"k"), timeout=30)
        stays_true("nothing is told", lambda: not watch.told(), 2 * ELECTION_S)
        assert not put.done()
        for member in others:
            member.resume()
        cluster.leader()
        revision = cluster.followers()[0].client.put(b"k").header.revision
        # What was asked of the old leader may have been done in the end, and is then told first.
        assert [told.revision for told in watch.wait_told(revision)] == list(range(2, revision + 1))
        put.cancel()
    cluster.wait_same_hash()


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_item_06_watch_resumes_after_a_restart(fresh: Fresh, kill: bool) -> None:
    """W-60, W-95: from behind the last event that was read."""
    server, client = fresh()
    expected = [client.put(b"k%d" % (number % 3)).header.revision for number in range(20)]
    with client.watch() as stream:
        stream.create(b"k", b"l", start_revision=1)
        told = [event.kv.mod_revision for event in stream.events(20)][:10]
    if kill:
        server.kill9()
    else:
        server.terminate()
    server.start()
    expected += [client.put(b"k", prev_kv=True).header.revision for _ in range(3)]
    with client.watch() as stream:
        stream.create(b"k", b"l", start_revision=told[-1] + 1)
        told += [event.kv.mod_revision for event in stream.events(13)]
    assert told == expected


# --- 7: Lease -------------------------------------------------------------------------------------------------------


def _how_long_a_lease_lives(client: Client, _prefix: bytes) -> None:
    """L-03, L-04, L-05."""
    for asked, granted in ((1, 2), (0, 2), (-5, 2), (2, 2), (60, 60), (9_000_000_000, 9_000_000_000)):
        lease = client.grant(asked)
        assert (lease.TTL, lease.error) == (granted, "")
        assert client.time_to_live(lease.ID).grantedTTL == granted
        client.revoke(lease.ID)
    with refused((Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")):
        client.grant(9_000_000_001)


def _an_id_is_there_once(client: Client, _prefix: bytes) -> None:
    """L-01, L-02, L-10, L-07."""
    before = client.revision()
    for lease_id in (4711, -4711):
        assert lease_id == client.grant(60, lease_id).ID
        with refused((Code.FAILED_PRECONDITION, "etcdserver: lease already exists")):
            client.grant(60, lease_id)
        client.revoke(lease_id)
        with refused(LEASE_NOT_FOUND):
            client.revoke(lease_id)
        assert lease_id == client.grant(60, lease_id).ID
        client.revoke(lease_id)
    assert client.grant(60).ID > 0
    assert client.revision() == before


def _expiry_is_one_sorted_revision(client: Client, prefix: bytes) -> None:
    """L-11, L-14, L-16: not before its time is over."""
    before, lease = time.monotonic(), client.grant(2).ID
    for name in (b"c", b"a", b"b"):
        client.put(prefix + name, lease=lease)
    revision = client.revision()
    with client.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
        answer = stream.next()
    assert time.monotonic() - before >= 2
    assert [event.kv.key for event in answer.events] == [prefix + name for name in (b"a", b"b", b"c")]
    assert {event.kv.mod_revision for event in answer.events} == {revision + 1}
    assert client.time_to_live(lease).TTL == -1
    assert lease not in client.leases()


def _what_is_unknown_is_no_error(client: Client, _prefix: bytes) -> None:
    """L-20, L-21, L-30: keep-alives answer 0 and go on, times to live -1."""
    lease = client.grant(60).ID
    with client.keep_alive() as stream:
        for lease_id in (4712, lease, 4712):
            stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))
        answers = [stream.next() for _ in range(3)]
        assert [(answer.ID, answer.TTL) for answer in answers] == [(4712, 0), (lease, 60), (4712, 0)]
    unknown = client.time_to_live(4712, keys=True)
    assert (unknown.ID, unknown.TTL, unknown.grantedTTL, len(unknown.keys)) == (4712, -1, 0, 0)
    client.revoke(lease)


def _a_key_moves_to_another_lease(client: Client, prefix: bytes) -> None:
    """L-40, L-41."""
    one, other = client.grant(60).ID, client.grant(60).ID
    client.put(prefix + b"moves", lease=one)
    client.put(prefix + b"stays", lease=one)
    client.put(prefix + b"moves", lease=other)
    assert client.revoke(one).header.revision == client.revision()
    assert keys(client.range(prefix, prefix_end(prefix)), prefix) == [b"moves"]
    assert list(client.time_to_live(other, keys=True).keys) == [prefix + b"moves"]
    client.revoke(other)
    assert client.range(prefix, prefix_end(prefix)).count == 0


@points(
    _how_long_a_lease_lives,
    _an_id_is_there_once,
    _expiry_is_one_sorted_revision,
    _what_is_unknown_is_no_error,
    _a_key_moves_to_another_lease,
)
def test_item_07_lease(client: Client, prefix: bytes, point: Point) -> None:
    point(client, prefix)


@pytest.mark.slow
def test_item_07_lease_lives_its_full_time_under_a_new_leader(new_cluster: NewCluster) -> None:
    """L-50, L-52: whatever was left of it under the old one."""
    cluster, ttl_s = new_cluster(), 8
    leader, keeper = cluster.leader(), cluster.followers()[0]
    lease = keeper.client.grant(ttl_s)
    keeper.client.put(b"k", lease=lease)
    left_s = ttl_s // 2
    wait_until("half of it is over", lambda: left_s > keeper.client.time_to_live(lease).TTL)
    leader.kill9()
    cluster.leader()
    elected = time.monotonic()
    assert wait_until("the new leader tells", lambda: keeper.client.time_to_live(lease).TTL) >= ttl_s - 1
    # Longer than what the old leader would have left of it; then it does run out.
    stays_true("the lease lives", lambda: keeper.client.value(b"k", serializable=True) == b"v", left_s + ELECTION_S)
    wait_until("the lease is over", lambda: keeper.client.value(b"k", serializable=True) is None)
    assert time.monotonic() - elected >= ttl_s - 1


def test_item_07_lease_is_renewed_by_every_member(new_cluster: NewCluster) -> None:
    """L-24, L-32: asked of a follower, the leader counts anew."""
    cluster = new_cluster()
    lease = cluster.leader().client.grant(_FULL_S)
    for member in cluster.members:
        renewed = member.client.keep_alive(lease)
        assert (renewed.TTL, renewed.header.member_id) == (_FULL_S, member.id)
        told = member.client.time_to_live(lease)
        assert _FULL_S - 60 < told.TTL <= told.grantedTTL == _FULL_S
