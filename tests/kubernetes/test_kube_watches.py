"""Watches as the apiserver's watch cache uses them, one matter at a time (contract section 14.2)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from helpers.grpc_calls import CHANNEL_OPTIONS, Calls
from helpers.member_client import HAS_LEADER, Stream
from helpers.waiting import WaitedInVainError, wait_until
from kube_cache import DELETE, PUT, WatchCache
from kube_store import KubeStore, prefix_end
from kube_support import Subject

from raftkv.pb import rpc_pb2

_PROGRESS = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())


def _watch(store: KubeStore, prefix: bytes, start: int = 0, **fields: Any) -> Stream:
    stream = Stream(store.calls.Watch.Watch, HAS_LEADER)
    create = rpc_pb2.WatchCreateRequest(
        key=prefix, range_end=prefix_end(prefix), start_revision=start, prev_kv=True, **fields
    )
    stream.send(rpc_pb2.WatchRequest(create_request=create))
    stream.wait("the watch is created", lambda: stream.responses)
    return stream


def _cache(store: KubeStore, prefix: bytes, subject: Subject, gone: int = 0) -> WatchCache:
    return WatchCache(store, prefix, lambda revision: revision < gone, subject.manual_progress)


def test_the_three_kinds_of_event(store: KubeStore, resource: bytes) -> None:
    """K8-10, K8-03: added, modified, deleted; the object's resourceVersion is the mod_revision of each."""
    key = resource + b"pod"
    with _watch(store, resource) as stream:
        created = store.create(key, b"1").revision
        updated = store.put(key, b"2", created).revision
        deleted = store.delete(key, updated).revision
        again = store.create(key, b"3").revision
        stream.wait("four events came", lambda: sum(len(each.events) for each in stream.responses) == 4)
        added, modified, removed, readded = (event for each in stream.responses for event in each.events)
    for event, revision in ((added, created), (readded, again)):
        assert (event.type, event.kv.create_revision, event.kv.mod_revision) == (PUT, revision, revision)
        assert not event.HasField("prev_kv")
    assert (modified.type, modified.kv.create_revision, modified.kv.mod_revision) == (PUT, created, updated)
    assert (modified.prev_kv.value, modified.prev_kv.mod_revision) == (b"1", created)
    assert (removed.type, removed.kv.mod_revision, removed.kv.value) == (DELETE, deleted, b"")
    assert (removed.prev_kv.value, removed.prev_kv.mod_revision) == (b"2", updated)


def test_a_compaction_while_a_watch_is_away(shared_subject: Subject, store: KubeStore, resource: bytes) -> None:
    """K8-15, W-40, W-42: who is connected notices nothing; who comes back is told, lists again, and is right."""
    key = resource + b"pod"
    revision = store.create(key, b"0").revision
    with (
        _cache(store, resource, shared_subject) as steady,
        _cache(store, resource, shared_subject) as away,
    ):
        away.disconnect()
        for number in range(20):
            revision = store.put(key, b"%d" % number, revision).revision
        steady.consistent_list(revision)
        store.compact(revision)
        away.reconnect()
        away.wait("listed again", lambda: away.lists == 2 and away.watches == 2)
        assert away.compacted == revision
        revision = store.put(key, b"last", revision).revision
        for cache in (steady, away):
            assert cache.consistent_list(revision).objects == {key: store.get(key).kvs[0]}
        assert (steady.lists, steady.watches, steady.compacted) == (1, 1, 0)


def test_a_watch_comes_back_before_the_compaction(shared_subject: Subject, store: KubeStore, resource: bytes) -> None:
    """K8-15, W-12: from the compact revision on a watch resumes without a list."""
    revision = store.create(resource + b"a", b"0").revision
    with _cache(store, resource, shared_subject, gone=revision + 1) as cache:
        cache.disconnect()
        for name in (b"b", b"c", b"d"):
            last = store.create(resource + name, b"v").revision
        store.compact(cache.revision + 1)
        cache.reconnect()
        assert sorted(cache.consistent_list(last).objects) == [resource + name for name in (b"a", b"b", b"c", b"d")]
        assert (cache.lists, cache.watches) == (1, 2)


def test_progress_knows_every_acknowledged_write(shared_subject: Subject, store: KubeStore, resource: bytes) -> None:
    """K8-11, K8-12, W-70, W-72: asked for after a write, answered with its revision or a later one, behind its event.

    Meanwhile others write, below this prefix and elsewhere.
    """
    if not shared_subject.manual_progress:
        pytest.skip("an apiserver sends etcd 3.5.1 no progress requests (K8-13): it answers too early")
    asked, strict = 60, 0
    with _watch(store, resource) as stream, _writing(shared_subject, resource):
        sent = 0
        for number in range(asked):
            answered = len(_progress(stream))
            written = store.create(resource + b"own-%03d" % number, b"v").revision
            strict += answered == sent
            first = answered if answered == sent else None
            while True:
                stream.send(_PROGRESS)
                sent += 1
                if _told_within_100_ms(stream, answered, written):
                    break
                assert stream.ended is None
            if first is not None:  # nothing else was asked for: the first answer is to what was asked after the write
                assert _progress(stream)[first].header.revision >= written
        _check_order(stream.responses)
    assert strict > asked / 2, f"only {strict} of {asked} times all earlier requests had been answered"


@contextmanager
def _writing(subject: Subject, resource: bytes) -> Iterator[None]:
    """Somebody else writes meanwhile, below the prefix and elsewhere."""
    stopping = threading.Event()

    def write_on() -> None:
        number = 0
        with KubeStore(subject.endpoints) as other:
            while not stopping.wait(0.001):
                number += 1
                other.create((resource if number % 2 else b"/registry/elsewhere/") + b"%06d" % number, b"v")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join()


def _progress(stream: Stream) -> list[rpc_pb2.WatchResponse]:
    return [each for each in list(stream.responses) if each.watch_id == -1]


def _told_within_100_ms(stream: Stream, answered: int, written: int) -> bool:
    """Whether an answer behind those that were there has this revision or a later one."""
    try:
        return stream.wait(
            "progress is told",
            lambda: any(each.header.revision >= written for each in _progress(stream)[answered:]),
            0.1,
        )
    except WaitedInVainError:
        return False


def _check_order(responses: list[rpc_pb2.WatchResponse]) -> None:
    known = 0
    for response in responses:
        if response.events:
            assert response.events[0].kv.mod_revision > known, "an event came after the progress that covers it"
        known = max(known, response.header.revision)


def test_progress_without_being_asked(store: KubeStore, resource: bytes) -> None:
    """K8-11, W-73: with the watch's own id; a write elsewhere moves it."""
    with _watch(store, resource, progress_notify=True) as stream:
        for _ in range(2):
            written = store.create(b"/registry/elsewhere/%d" % time.monotonic_ns(), b"v").revision

            def told(written: int = written) -> bool:
                return any(each.header.revision >= written and not each.events for each in stream.responses[1:])

            stream.wait("a bookmark tells of the write", told)
        assert {each.watch_id for each in stream.responses} == {stream.responses[0].watch_id}


@pytest.mark.parametrize(
    ("how", "keys"),
    [pytest.param("revoked", 3000, id="3000 revoked"), pytest.param("expired", 1000, id="1000 expired")],
)
def test_a_lease_takes_thousands_of_keys_at_once(store: KubeStore, resource: bytes, how: str, keys: int) -> None:
    """K8-17, L-11, W-55, W-59: one revision, one response, in the order of the keys, each with its last value."""
    resource += how.encode() + b"/"
    lease = store.grant(600 if how == "revoked" else 5)
    names = [resource + b"%05d" % (number * 7919 % keys) for number in range(keys)]
    for start in range(0, keys, 100):
        puts = [
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=name, lease=lease))
            for name in names[start : start + 100]
        ]
        store.calls.KV.Txn(rpc_pb2.TxnRequest(success=puts), timeout=10)
    with _watch(store, resource) as stream:
        if how == "revoked":
            revision = store.calls.Lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease), timeout=20).header.revision
        stream.wait("the keys went", lambda: len(stream.responses) > 1)
        response = stream.responses[1]
    assert [event.kv.key for event in response.events] == sorted(names)
    assert all(event.type == DELETE and event.prev_kv.value == event.kv.key for event in response.events)
    assert {event.kv.mod_revision for event in response.events} == {response.header.revision}
    assert how == "expired" or response.header.revision == revision
    assert store.count(resource).total == 0


def test_a_closed_stream_takes_its_watchers_along(subject: Subject) -> None:
    """K8-16: an apiserver cancels a watch by closing its stream, nothing else. Nothing may be left of it."""
    (member,) = subject.cluster.members
    per_stream, streams = 200, 25

    def open_and_close() -> None:
        with KubeStore(subject.endpoints) as store, ExitStack() as stack:
            for _ in range(streams):
                stream = stack.enter_context(_watch(store, b"/registry/pods/"))
                for _ in range(per_stream - 1):
                    create = rpc_pb2.WatchCreateRequest(key=b"/registry/pods/", range_end=b"/registry/pods0")
                    stream.send(rpc_pb2.WatchRequest(create_request=create))
                stream.wait("all are created", lambda stream=stream: len(stream.responses) == per_stream)

    if subject.kind == "etcd":
        open_and_close()
        url = f"http://{member.endpoint}/metrics"
        wait_until("no watcher is left", lambda: b"\netcd_debugging_mvcc_watcher_total 0\n" in urlopen(url).read())
        return
    for _ in range(2):
        open_and_close()
    before = _resident_bytes(member.pid)
    for _ in range(4):
        open_and_close()
    # 20,000 watchers in a hundred streams would be tens of megabytes.
    assert _resident_bytes(member.pid) - before < 4 << 20


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


def test_a_hundred_watches_of_one_resource(shared_subject: Subject, store: KubeStore, resource: bytes) -> None:
    """K8-24: every stream is told of every write, all the same. The rates are printed, not judged."""
    writes = 300
    with ExitStack() as stack:
        streams = [stack.enter_context(_watch(store, resource)) for _ in range(100)]
        began = time.monotonic()
        revisions = [store.create(resource + b"%04d" % number, b"x" * 500).revision for number in range(writes)]
        written_s = time.monotonic() - began
        for stream in streams:
            stream.wait("all is told", lambda stream=stream: sum(len(e.events) for e in stream.responses) == writes)
        told_s = time.monotonic() - began
    for stream in streams:
        assert [event.kv.mod_revision for each in stream.responses for event in each.events] == revisions
    print(f"{writes / written_s:.0f} transactions/s of one client, {100 * writes / told_s:.0f} events/s to 100 streams")


@pytest.mark.slow
def test_a_quiet_watch_lives_on_pings(own_member: Subject, resource: bytes) -> None:
    """K8-20, G-40: pings on a connection with a quiet stream are no offence. Every six seconds here, not thirty."""
    options = (
        *CHANNEL_OPTIONS,
        ("grpc.keepalive_time_ms", 6_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    )
    with (
        grpc.insecure_channel(own_member.endpoints[0], options=options) as channel,
        KubeStore(own_member.endpoints) as store,
    ):
        stream = Stream(Calls(channel).Watch.Watch, HAS_LEADER)
        with stream:
            create = rpc_pb2.WatchCreateRequest(key=resource, range_end=prefix_end(resource))
            stream.send(rpc_pb2.WatchRequest(create_request=create))
            stream.wait("the watch is created", lambda: stream.responses)
            time.sleep(20)  # three pings: the third would be one strike too many
            assert stream.ended is None
            revision = store.create(resource + b"late", b"v").revision
            stream.wait("the event came", lambda: len(stream.responses) > 1)
            assert stream.responses[1].events[0].kv.mod_revision == revision
