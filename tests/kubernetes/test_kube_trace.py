"""A day of several apiservers in seconds: all that they do at once, every reply judged, the model equal to the list.

The recorder is one watch on all of /registry/ that is never cut while its member lives. What it tells is the history;
each acknowledged write must be in it at its revision, and each read must have seen exactly what was there then.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kube_cache import Snapshot, WatchCache
from kube_replay import Replay
from kube_store import KubeStore, prefix_end
from kube_support import Subject
from kube_trace import NAMESPACES, PODS, REGISTRY, Trace, kube_object

_ENOUGH = 400
"""Acknowledged writes between two disturbances."""
_OBJECTS_BEFORE = 120


def _seed() -> int:
    """RAFTKV_TEST_SEED, or a seed of the day; printed, so that a failure names it."""
    seed = int(os.environ.get("RAFTKV_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print(f"RAFTKV_TEST_SEED={seed}")
    return seed


def _fill(store: KubeStore) -> None:
    """Objects from before the trace, so that the first list has pages."""
    for number in range(_OBJECTS_BEFORE):
        name = f"old-{number:03}"
        assert store.create(PODS + b"old/" + name.encode(), kube_object("Pod", name, number)).succeeded
        if number % 20 == 0:
            assert store.create(NAMESPACES + name.encode(), kube_object("Namespace", name, number)).succeeded


def _everything(store: KubeStore) -> Snapshot:
    page = store.page(REGISTRY, 0)
    return Snapshot(page.revision, {kv.key: kv for kv in page.kvs})


def _check(store: KubeStore, trace: Trace, recorder: WatchCache) -> None:
    """The recorder's history explains every reply, and every cache ends as the store does."""
    final = _everything(store)
    recorder.consistent_list(final.revision)
    assert recorder.lists == 1, "the recorder missed a part of the history"
    assert recorder.first_list is not None
    Replay(recorder.first_list, recorder.history).check(trace.record, final)
    for cache in trace.caches:
        cache.reconnect()
        caught_up = cache.consistent_list(final.revision)
        assert caught_up.objects == _at(store, cache.prefix, caught_up.revision)


def _at(store: KubeStore, prefix: bytes, revision: int) -> dict[bytes, object]:
    return {kv.key: kv for kv in store.page(prefix, 0, revision).kvs if kv.key < prefix_end(prefix)}


def _report(trace: Trace, recorder: WatchCache) -> None:
    record = trace.record
    print(f"{len(record.writes)} writes, {trace.conflicts} conflicts, {len(record.unknown)} unknown")
    print(f"{len(record.seen)} reads, {trace.lists_cut_short} lists cut short, {trace.outages} outages")
    print(f"{len(trace.compactions)} compactions")
    for cache in (recorder, *trace.caches):
        print(f"{cache.prefix!r}: {cache.lists} lists, {cache.watches} watches, bookmarks {cache.bookmarks}")


@contextmanager
def _trace(subject: Subject, may_fail: bool) -> Iterator[tuple[KubeStore, WatchCache, Trace]]:
    """A trace under way on a store that was not empty, with its recorder."""
    with KubeStore(subject.endpoints) as store:
        _fill(store)
        with (
            WatchCache(store, REGISTRY, manual_progress=subject.manual_progress) as recorder,
            Trace(subject.endpoints, recorder, _seed(), may_fail) as trace,
        ):
            trace.start(subject.manual_progress)
            yield store, recorder, trace


def test_the_trace_of_several_apiservers(subject: Subject) -> None:
    """K8-01 to K8-04, K8-06, K8-08 to K8-18, K8-23, RNG-07, W-54, W-55, W-72, L-11: not one reply may be untrue."""
    with _trace(subject, may_fail=False) as (store, recorder, trace):
        trace.wait_writes(2 * _ENOUGH)
        cut = trace.cut
        cut.wait("had to list again after a compaction", lambda: cut.compacted and cut.lists > 1)
        recorder.wait("was told of an expiry", lambda: any(event.prev_kv.lease for event in recorder.history))
        trace.stop()
        _report(trace, recorder)
        _check(store, trace, recorder)
    assert not trace.record.unknown
    assert recorder.watches == 1, "W-42: a compaction ended a watch that had all events"
    assert trace.conflicts
    assert trace.compactions
    kinds = {"automatic", "manual"} if subject.manual_progress else {"automatic"}
    assert all(trace.quiet.bookmarks[kind] for kind in kinds), trace.quiet.bookmarks


@pytest.mark.crash
@pytest.mark.slow
def test_the_trace_through_changes_of_the_leader(three_members: Subject) -> None:
    """G-21, G-54, RF-71: the same with three members; leadership is handed over, a leader is killed and comes back."""
    cluster = three_members.cluster
    with _trace(three_members, may_fail=True) as (store, recorder, trace):
        trace.wait_writes(_ENOUGH)
        leader = cluster.leader()
        leader.client.move_leader(cluster.others(leader)[0].id)
        trace.wait_writes(_ENOUGH)
        if three_members.kind != "etcd":  # 3.5.1 may lose what a killed member had applied (pull request 13908)
            victim = cluster.leader()
            victim.kill9()
            trace.wait_writes(_ENOUGH)
            cluster.restart(victim)
            trace.wait_writes(_ENOUGH)
        trace.stop()
        _report(trace, recorder)
        _check(store, trace, recorder)
    cluster.wait_same_hash()
