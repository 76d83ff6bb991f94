"""The contract's sentences about revisions, Range, Put, DeleteRange and Txn, one test each."""

from __future__ import annotations

import pytest
from mvcc_support import CREATE, DESCEND, KEY, MOD, NONE, VALUE, VERSION, Disk, response

from raftkv.mvcc import CompactedError, Filters, FutureRevisionError, KeyNotFoundError, RangeQuery
from raftkv.mvcc.frames import parse_event
from raftkv.pb import rpc_pb2

A_TO_Z = (b"a", b"z")


def put_all(disk: Disk, keys: str) -> None:
    for key in keys:
        disk.put(key.encode())


# --- revisions ---


def test_kv01_an_empty_store_is_at_revision_1_and_its_first_write_at_2(disk: Disk) -> None:
    assert disk.store.current_revision == 1
    assert disk.put(b"k") == 2


def test_kv02_a_request_that_changes_nothing_uses_no_revision(disk: Disk) -> None:
    """KV-02, DEL-02, TXN-63."""
    with disk.batch() as writer:
        writer.begin()
        assert writer.delete_range(b"a", b"z") == []
        assert writer.end() == 1
    assert writer.events == []


def test_kv03_changes_of_one_request_are_numbered_in_order(disk: Disk) -> None:
    """KV-03, TXN-54."""
    with disk.batch() as writer:
        writer.begin()
        writer.put(b"b", b"")
        writer.put(b"a", b"")
        writer.delete_range(b"b")
        assert writer.end() == 2
    assert [revision.hex()[-9:] for revision, _ in disk.events()] == ["200000000", "200000001", "200000002"]


def test_kv04_to_kv06_create_mod_and_version(disk: Disk) -> None:
    def numbers() -> list[tuple[int, int, int]]:
        return [(kv.create_revision, kv.mod_revision, kv.version) for kv in disk.range(b"k").kvs]

    disk.put(b"k")
    disk.put(b"k")
    assert numbers() == [(2, 3, 2)]
    disk.delete(b"k")
    assert numbers() == []
    disk.put(b"k")
    assert numbers() == [(5, 5, 1)]


def test_kv10_the_revision_survives_a_restart_after_its_tombstone_was_compacted(disk: Disk) -> None:
    disk.put(b"k")
    disk.delete(b"k")
    disk.put(b"l")
    disk.delete(b"l")
    disk.compact(4)
    disk.compact(5)
    disk.put(b"m")
    disk.delete(b"m")
    disk.compact(7)
    assert disk.load().current_revision == 7
    assert [revision.hex()[:16] for revision, _ in disk.events()] == [f"{7:016x}"]


# --- intervals ---


@pytest.mark.parametrize(
    ("key", "range_end", "expected"),
    [
        (b"b", b"", [b"b"]),
        (b"b", b"\x00", [b"b", b"ba", b"c", b"\xff\xff"]),
        (b"\x00", b"\x00", [b"\x00", b"a", b"b", b"ba", b"c", b"\xff\xff"]),
        (b"", b"\x00", [b"\x00", b"a", b"b", b"ba", b"c", b"\xff\xff"]),
        (b"a", b"c", [b"a", b"b", b"ba"]),
        (b"b", b"b", []),
        (b"c", b"a", []),
        (b"b", b"c", [b"b", b"ba"]),
        (b"\xff", b"\x00", [b"\xff\xff"]),
    ],
)
def test_intervals(disk: Disk, key: bytes, range_end: bytes, expected: list[bytes]) -> None:
    """The table of KV 2.2."""
    for stored in (b"c", b"\x00", b"ba", b"b", b"\xff\xff", b"a"):
        disk.put(stored)
    assert disk.keys(key, range_end) == expected
    assert disk.range(key, range_end).count == len(expected)


# --- Range ---


def test_rng04_readable_revisions(disk: Disk) -> None:
    put_all(disk, "abc")
    disk.compact(3)
    assert disk.keys(*A_TO_Z, revision=3) == [b"a", b"b"]
    assert disk.keys(*A_TO_Z, revision=-5) == [b"a", b"b", b"c"]
    with pytest.raises(CompactedError) as compacted:
        disk.range(*A_TO_Z, revision=2)
    assert compacted.value.compacted == 3
    with pytest.raises(FutureRevisionError) as future:
        disk.range(*A_TO_Z, revision=5)
    assert future.value.current == 4


def test_rng05_the_past_is_read_with_its_own_metadata(disk: Disk) -> None:
    disk.put(b"k", b"one", lease=7)
    disk.put(b"k", b"two")
    kv = disk.range(b"k", revision=2).kvs[0]
    assert (kv.value, kv.mod_revision, kv.version, kv.lease) == (b"one", 2, 1, 7)


def test_rng07_and_rng08_count(disk: Disk) -> None:
    put_all(disk, "abcde")
    filtered = disk.range(*A_TO_Z, limit=1, filters=Filters(4, 0, 0, 0))
    assert (len(filtered.kvs), filtered.count, filtered.more) == (1, 5, True)
    assert disk.range(*A_TO_Z, count_only=True, limit=2) == rpc_pb2.RangeResponse(count=5)
    assert disk.range(b"c", count_only=True) == rpc_pb2.RangeResponse(count=1)


def test_rng09_values_are_blanked_after_sorting_by_them(disk: Disk) -> None:
    disk.put(b"a", b"2", lease=9)
    disk.put(b"b", b"1")
    kvs = disk.range(*A_TO_Z, sort_target=VALUE, keys_only=True).kvs
    assert [(kv.key, kv.value, kv.version, kv.lease) for kv in kvs] == [(b"b", b"", 1, 0), (b"a", b"", 1, 9)]


def test_rng15_an_implicit_order_cuts_before_it_sorts(disk: Disk) -> None:
    put_all(disk, "cba")
    implicit = disk.range(*A_TO_Z, sort_target=MOD, limit=1)
    assert ([kv.key for kv in implicit.kvs], implicit.more, implicit.count) == ([b"b"], True, 3)
    explicit = disk.keys(*A_TO_Z, sort_target=MOD, sort_order=1, limit=1)
    assert explicit == [b"c"]
    filtered = disk.keys(*A_TO_Z, sort_target=MOD, limit=1, filters=Filters(1, 0, 0, 0))
    assert filtered == [b"c"]


def test_rng19_pages_at_one_revision(disk: Disk) -> None:
    """The recipe of paging clients, while writes go on."""
    put_all(disk, "abcdefg")
    seen, start, left = [], b"\x00", 7
    while True:
        page = disk.range(start, b"\x00", limit=3, revision=8)
        assert page.count == left
        seen += [kv.key for kv in page.kvs]
        if not page.more:
            break
        start, left = page.kvs[-1].key + b"\x00", left - 3
        disk.delete(b"g")
        disk.put(b"dd")
    assert b"".join(seen) == b"abcdefg"


def test_rng_t1(disk: Disk) -> None:
    put_all(disk, "bacdc")
    assert disk.keys(*A_TO_Z, sort_target=CREATE, sort_order=NONE, limit=10) == [b"b", b"a", b"c", b"d"]
    newest = disk.range(*A_TO_Z, sort_target=MOD, sort_order=DESCEND, limit=1)
    assert ([kv.key for kv in newest.kvs], newest.more, newest.count) == ([b"c"], True, 4)
    last = disk.range(*A_TO_Z, sort_target=KEY, sort_order=DESCEND, limit=1)
    assert ([kv.key for kv in last.kvs], last.more) == ([b"d"], True)
    assert disk.keys(*A_TO_Z, sort_target=VERSION, sort_order=DESCEND)[0] == b"c"


def test_rng_t2(disk: Disk) -> None:
    put_all(disk, "abcde")
    answer = disk.range(b"\x00", b"\x00", filters=Filters(3, 5, 0, 0))
    assert (len(answer.kvs), answer.count, answer.more) == (3, 5, False)


def test_rng_t3(disk: Disk) -> None:
    put_all(disk, "abcde")
    assert disk.range(*A_TO_Z, revision=1) == rpc_pb2.RangeResponse()
    at_3 = disk.range(*A_TO_Z, revision=3)
    assert ([kv.key for kv in at_3.kvs], at_3.count) == ([b"a", b"b"], 2)
    with disk.read() as txn:
        assert disk.store.range(txn, RangeQuery(*A_TO_Z, revision=3)).revision == 6


def test_rng_t4(disk: Disk) -> None:
    put_all(disk, "abc")
    page = disk.range(*A_TO_Z, limit=2)
    assert (len(page.kvs), page.more, page.count) == (2, True, 3)
    assert disk.range(*A_TO_Z, limit=3).more is False


# --- Put and DeleteRange ---


def test_put03_and_put07_keeping_value_or_lease(disk: Disk) -> None:
    with disk.batch() as writer:
        writer.begin()
        with pytest.raises(KeyNotFoundError):
            writer.put_with(b"k", None, 0)
        assert writer.end() == 1
        for value, lease in ((b"one", 7), (b"two", None), (None, None), (None, 0)):
            writer.begin()
            writer.put_with(b"k", value, lease)
            writer.end()
    history = [parse_event(event) for _, event in disk.events()]
    assert [(s.value, s.lease, s.version) for s in history] == [
        (b"one", 7, 1),
        (b"two", 7, 2),
        (b"two", 7, 3),
        (b"two", 0, 4),
    ]
    assert writer.lease_moves == [(b"k", 0, 7), (b"k", 7, 0)]


def test_put05_the_frame_before_is_returned(disk: Disk) -> None:
    with disk.batch() as writer:
        writer.begin()
        assert writer.put(b"k", b"one") is None
        writer.end()
        writer.begin()
        before = writer.put(b"k", b"two")
        writer.end()
    assert before is not None
    assert rpc_pb2.PutResponse.FromString(before).prev_kv.value == b"one"


def test_del01_del03_del04_keys_are_deleted_in_order_in_one_revision(disk: Disk) -> None:
    with disk.batch() as writer:
        for key, lease in ((b"c", 7), (b"a", 0), (b"b", 8)):
            writer.begin()
            writer.put(key, key, lease)
            writer.end()
        del writer.events[:], writer.lease_moves[:]
        writer.begin()
        frames = writer.delete_range(*A_TO_Z)
        assert writer.end() == 5
    assert [parse_event(frame).key for frame in frames] == [b"a", b"b", b"c"]
    assert [[change[0] for change in changes] for _, changes in writer.events] == [[b"a", b"b", b"c"]]
    assert writer.lease_moves == [(b"b", 8, 0), (b"c", 7, 0)]


# --- Txn ---


def test_txn41_and_txn51_a_request_reads_its_own_writes_at_its_own_revision(disk: Disk) -> None:
    disk.put(b"a", b"old")
    with disk.batch() as writer:
        writer.begin()
        before = writer.range(RangeQuery(*A_TO_Z))
        assert (before.revision, writer.revision) == (2, 2)
        writer.put(b"a", b"new")
        writer.put(b"b", b"new")
        during = writer.range(RangeQuery(*A_TO_Z))
        assert (during.revision, writer.revision) == (3, 3)
        assert [kv.value for kv in response(during).kvs] == [b"new", b"new"]
        in_the_past = writer.range(RangeQuery(*A_TO_Z, revision=2))
        assert [kv.value for kv in response(in_the_past).kvs] == [b"old"]
        assert response(writer.range(RangeQuery(*A_TO_Z, revision=2, count_only=True))).count == 1
        assert [state.key for state in writer.states(*A_TO_Z)] == [b"a", b"b"]
        assert writer.end() == 3


def test_txn44_the_revision_in_the_making_is_in_the_future(disk: Disk) -> None:
    with disk.batch() as writer:
        writer.begin()
        writer.put(b"a", b"")
        with pytest.raises(FutureRevisionError):
            writer.range(RangeQuery(b"a", revision=2))
        writer.end()


def test_txn46_a_second_delete_finds_nothing(disk: Disk) -> None:
    disk.put(b"a")
    with disk.batch() as writer:
        writer.begin()
        assert len(writer.delete_range(b"a")) == 1
        assert len(writer.delete_range(b"a")) == 0
        assert writer.get(b"a") is None
        assert writer.end() == 3


def test_txn50_and_txn54_one_request_is_one_revision_and_a_batch_may_hold_many(disk: Disk) -> None:
    with disk.batch() as writer:
        for keys in (b"ab", b"", b"c"):
            writer.begin()
            for key in keys:
                writer.put(bytes((key,)), b"")
            writer.end()
    assert [(main, len(changes)) for main, changes in writer.events] == [(2, 2), (3, 1)]


def test_a_put_after_a_delete_in_one_request_carries_the_requests_revision(disk: Disk) -> None:
    disk.put(b"a")
    with disk.batch() as writer:
        writer.begin()
        writer.delete_range(b"a")
        writer.put(b"b", b"")
        writer.end()
    assert disk.range(b"b").kvs[0].mod_revision == 3
    assert disk.problems() == []


def test_a_store_goes_on_after_its_environment_was_reopened(disk: Disk) -> None:
    """What Defragment does: new handles, same data, nothing loaded again."""
    disk.put(b"a")
    with disk.batch() as writer:
        writer.begin()
        writer.put(b"b", b"")
        writer.end()
    store = disk.store
    disk.reopen()
    disk.store = store
    store.rebind(disk.tables)
    disk.put(b"c")
    disk.compact(4)
    with disk.read() as txn:
        assert [state.key for state in store.states(txn, b"a", b"z")] == [b"a", b"b", b"c"]
    assert disk.problems() == []


@pytest.mark.parametrize("shrink", ["delete", "put"])
def test_a_large_value_that_is_gone_takes_no_pages(disk: Disk, shrink: str) -> None:
    """PY-31: also when it came and went between two commits."""
    with disk.batch() as writer:
        for number in range(20):
            writer.begin()
            writer.put(b"%d" % number, bytes(100_000))
            writer.put(b"%d" % number, bytes(99_000))
            writer.end()
        writer.begin()
        if shrink == "delete":
            writer.delete_range(b"0", b"99")
        else:
            for number in range(20):
                writer.put(b"%d" % number, b"small")
        writer.end()
    disk.compact(disk.store.current_revision)
    with disk.read() as txn:
        pages = [txn.stat(db)["overflow_pages"] for db in (disk.tables.current, disk.tables.events)]
    assert pages == [0, 0]
    assert disk.problems() == []
