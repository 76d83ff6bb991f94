"""Gets, lists in pages, counts and optimistic transactions, one at a time (contract section 14.2)."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from helpers.member_client import Code, refusal_of, refused
from kube_store import COMPACTED, FUTURE, Answer, KubeStore, Page, prefix_end
from kube_support import Subject

from raftkv.pb import rpc_pb2

_TOO_LARGE = (Code.INVALID_ARGUMENT, "etcdserver: request is too large")
_MOST_BYTES = 1_572_864
"""The default limit of a request (LIM-01)."""
_LARGE_BYTES = 1_400_000
_LARGE_OBJECTS = 150


def _fill(store: KubeStore, resource: bytes, count: int) -> list[int]:
    """mod_revision of each object 000, 001, ..."""
    return [store.create(resource + b"%03d" % number, b"v").revision for number in range(count)]


def _after(page: Page) -> bytes:
    return page.kvs[-1].key + b"\0"


def test_what_optimistic_transactions_answer(store: KubeStore, resource: bytes) -> None:
    """K8-03, K8-08, K8-09, K8-26: each form once; the refused ones change nothing."""
    key = resource + b"pod"
    created = store.create(key, b"1")
    assert store.create(key, b"again") == Answer(False, created.revision, store.get(key).kvs[0])
    updated = store.put(key, b"2", created.revision)
    assert updated == Answer(True, created.revision + 1, None)
    assert store.get(key).kvs[0].mod_revision == updated.revision
    lost = store.put(key, b"3", created.revision)
    assert lost.kv is not None
    assert (lost.succeeded, lost.kv.value, lost.kv.version) == (False, b"2", 2)
    assert store.put(key, b"3", created.revision, get_on_failure=False) == Answer(False, updated.revision, None)
    lost = store.delete(key, created.revision)
    assert (lost.succeeded, lost.kv) == (False, store.get(key).kvs[0])
    assert store.delete(key, created.revision, get_on_failure=False) == Answer(False, updated.revision, None)
    assert store.delete(key, updated.revision) == Answer(True, updated.revision + 1, None)
    assert store.put(key, b"3", updated.revision) == Answer(False, updated.revision + 1, None)
    assert store.delete(key, updated.revision) == Answer(False, updated.revision + 1, None)
    assert store.get(key).kvs == []
    assert store.get(key, revision=created.revision).kvs[0].value == b"1"


def test_a_put_with_a_lease_that_is_gone(store: KubeStore, resource: bytes) -> None:
    """K8-17: the whole transaction is refused."""
    before = store.count(resource).revision
    with refused((Code.NOT_FOUND, "etcdserver: requested lease not found")):
        store.create(resource + b"event", b"v", lease=987_654_321)
    assert (store.count(resource).total, store.count(resource).revision) == (0, before)


@pytest.mark.parametrize("doubles", [False, True], ids=["fixed", "K8-05: doubling"])
def test_pages_are_of_the_first_pages_revision(store: KubeStore, resource: bytes, doubles: bool) -> None:
    """K8-04, RNG-07: whatever is written between two pages; the rest is counted from the page's start key."""
    resource += b"%d/" % doubles
    _fill(store, resource, 40)
    limit = 3
    page = store.page(resource, limit)
    revision, total, found = page.revision, page.total, [kv.key for kv in page.kvs]
    assert total == 40
    while page.more:
        for key in (found[-1], found[-1] + b"-new", resource + b"039"):
            kvs = store.get(key).kvs
            assert store.put(key, b"changed", kvs[0].mod_revision if kvs else 0).succeeded
        limit = min(limit * 2, 10_000) if doubles else limit
        page = store.page(resource, limit, revision, _after(page))
        assert page.total == total - len(found), "remainingItemCount would be wrong"
        assert page.revision > revision, "the header tells the store's revision, not the page's"
        assert all(kv.value == b"v" for kv in page.kvs)
        found += [kv.key for kv in page.kvs]
    assert found == [resource + b"%03d" % number for number in range(40)]


def test_counts(store: KubeStore, resource: bytes) -> None:
    """RNG-07, RNG-08: of a resource, of one namespace, of nothing."""
    for number in range(30):
        store.create(resource + (b"a/" if number % 3 else b"b/") + b"%02d" % number, b"v")
    assert [store.count(resource + sub).total for sub in (b"", b"a/", b"b/", b"c/")] == [30, 20, 10, 0]


def test_a_compaction_in_the_middle_of_a_list(store: KubeStore, resource: bytes) -> None:
    """K8-06, K8-19: the next page is refused with the text that becomes 410; at a new revision the list goes on."""
    revisions = _fill(store, resource, 9)
    page = store.page(resource, 4)
    doomed = resource + b"006"
    store.delete(doomed, revisions[6])
    now = store.create(resource + b"new", b"v").revision
    store.compact(now)
    with refused(COMPACTED):
        store.page(resource, 4, page.revision, _after(page))
    with refused(COMPACTED):
        store.get(doomed, revision=page.revision)
    rest = store.page(resource, 0, 0, _after(page))
    assert [kv.key for kv in rest.kvs] == [resource + name for name in (b"004", b"005", b"007", b"008", b"new")]
    assert (rest.total, rest.more) == (5, False)
    with refused(COMPACTED):
        store.compact(now)
    assert store.page(resource, 0, now).total == 9, "the compact revision itself stays readable"


def test_a_list_at_a_revision_of_the_future(store: KubeStore, resource: bytes) -> None:
    """K8-07."""
    now = _fill(store, resource, 1)[-1]
    for ahead in (1, 1000):
        with refused(FUTURE):
            store.page(resource, 10, now + ahead)
    store.create(resource + b"late", b"v")
    assert store.page(resource, 10, now + 1).total == 2


def test_two_compactors_take_turns(store: KubeStore) -> None:
    """K8-18: only one of those that know the turn wins it; the other learns the next turn and the revision from it."""
    won, turn, _now = store.compact_turn(0, 0)
    _again, other_turn, revision = store.compact_turn(-1, 0)
    assert turn == other_turn
    for _ in range(3):
        won, next_turn, revision = store.compact_turn(turn, revision)
        assert (won, next_turn) == (True, turn + 1)
        assert store.compact_turn(turn, revision) == (False, turn + 1, revision)
        turn = next_turn
    store.compact(revision)
    with refused(COMPACTED):
        store.compact(revision)


def test_health_and_status(shared_subject: Subject, store: KubeStore) -> None:
    """K8-13, K8-14, K8-23: within two seconds, on every endpoint, with a version that a semver parser takes."""
    store.health()
    for endpoint in shared_subject.endpoints:
        with KubeStore([endpoint]) as one:
            status = one.status()
            assert 0 < status.dbSizeInUse <= status.dbSize
    assert shared_subject.manual_progress or shared_subject.kind == "etcd", "raftkv's version turns a feature off"


def test_an_object_of_the_greatest_size(store: KubeStore, resource: bytes) -> None:
    """K8-21, LIM-01: the transaction around the object counts."""
    key = resource + b"configmap"
    revision = store.create(key, b"x" * (_MOST_BYTES - 200)).revision
    with refused(_TOO_LARGE):
        store.put(key, b"y" * _MOST_BYTES, revision)
    (kv,) = store.get(key).kvs
    assert kv.value == b"x" * (_MOST_BYTES - 200)
    assert store.delete(key, revision).succeeded


@pytest.mark.slow
def test_a_list_of_hundreds_of_megabytes(subject: Subject) -> None:
    """K8-21, LIM-04, K8-23: it passes in one answer, and health and Status are answered in their time meanwhile."""
    resource = b"/registry/secrets/"
    with KubeStore(subject.endpoints) as store, KubeStore(subject.endpoints) as prober:
        for number in range(_LARGE_OBJECTS):
            assert store.create(resource + b"%03d" % number, b"%03d" % number * (_LARGE_BYTES // 3)).succeeded
        done = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            probes = pool.submit(_probe_until, done, prober)
            try:
                pages = [store.page(resource, 0) for _ in range(2)]
            finally:
                done.set()
            assert probes.result() > 1
    for page in pages:
        sizes = {len(kv.value) for kv in page.kvs}
        assert (page.total, len(page.kvs), page.more) == (_LARGE_OBJECTS, _LARGE_OBJECTS, False)
        assert sizes == {_LARGE_BYTES // 3 * 3}
        assert all(kv.value.startswith(kv.key[-3:]) for kv in page.kvs)


def _probe_until(done: threading.Event, store: KubeStore) -> int:
    """How often health and Status were answered in time. Raises grpc.RpcError."""
    probes = 0
    while not done.is_set():
        store.health()
        store.status()
        probes += 1
        time.sleep(0.02)
    return probes


def test_range_stream_or_its_fall_back(store: KubeStore, resource: bytes) -> None:
    """K8-25: a member that does not know the method says UNIMPLEMENTED; one that does streams what Range gives."""
    _fill(store, resource, 3)
    request = rpc_pb2.RangeRequest(key=resource, range_end=prefix_end(resource))
    merged = rpc_pb2.RangeResponse()
    try:
        for chunk in store.calls.KV.RangeStream(request, timeout=10):
            merged.MergeFrom(chunk.range_response)
    except grpc.RpcError as error:
        why = refusal_of(error)
        assert why[0] is Code.UNIMPLEMENTED, why
        merged = store.calls.KV.Range(request, timeout=10)
    assert [kv.key for kv in merged.kvs] == [resource + b"%03d" % number for number in range(3)]
    assert (merged.count, merged.more) == (3, False)
