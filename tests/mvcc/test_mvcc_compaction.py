"""Compaction: what survives, what it costs, and how it comes through crashes."""

from __future__ import annotations

import pytest
from mvcc_support import Disk

from raftkv.mvcc import CompactedError, FutureRevisionError
from raftkv.mvcc.frames import event_key


def kept(disk: Disk) -> list[tuple[int, bytes]]:
    return [(int.from_bytes(revision[:8], "big"), event_key(event)) for revision, event in disk.events()]


def test_cmp02_and_cmp03_what_may_be_compacted(disk: Disk) -> None:
    disk.put(b"k")
    with disk.write() as txn:
        with pytest.raises(CompactedError):
            disk.store.schedule_compaction(txn, -1)
        with pytest.raises(FutureRevisionError):
            disk.store.schedule_compaction(txn, 3)
    disk.compact(0)
    for revision in (0, -1):
        with disk.write() as txn, pytest.raises(CompactedError):
            disk.store.schedule_compaction(txn, revision)
    disk.compact(2)
    assert disk.store.compacted_revision == 2


def test_cmp05_the_effect_is_logical_at_once(disk: Disk) -> None:
    disk.put(b"k", b"1")
    disk.put(b"k", b"2")
    disk.compact(3, finish=False)
    with pytest.raises(CompactedError):
        disk.range(b"k", revision=2)
    assert len(kept(disk)) == 2
    with disk.read() as txn:
        assert disk.store.frame_at(txn, b"k", 2) is None


def test_cmp07_what_survives(disk: Disk) -> None:
    for key in (b"a", b"b", b"a", b"c"):  # 2 .. 5
        disk.put(key)
    disk.delete(b"b")  # 6
    disk.delete(b"c")  # 7
    disk.put(b"b")  # 8
    disk.compact(7)
    # The newest put of a, the tombstone exactly there, and what came later; b's tombstone below it is gone.
    assert kept(disk) == [(4, b"a"), (7, b"c"), (8, b"b")]
    assert disk.keys(b"a", b"z", revision=7) == [b"a"]
    disk.compact(8)
    assert kept(disk) == [(4, b"a"), (8, b"b")]
    assert disk.problems() == []


def test_cmp08_it_resumes_after_a_crash(disk: Disk) -> None:
    for _ in range(10):
        disk.put(b"a")
        disk.put(b"b")
    disk.compact(21, finish=False)
    assert not disk.compact_step(5)
    left = len(kept(disk))
    torn = disk.write()
    disk.store.compaction.step(torn, 5)
    torn.abort()
    disk.load()
    assert len(kept(disk)) == left
    assert disk.store.compaction.pending
    while not disk.compact_step(5):
        assert disk.problems() == []
    assert kept(disk) == [(20, b"a"), (21, b"b")]
    assert not disk.load().compaction.pending


def test_a_later_compaction_extends_one_under_way(disk: Disk) -> None:
    disk.put(b"a")
    disk.delete(b"a")  # 3: spared by the first, not by the second
    for _ in range(10):
        disk.put(b"b")
    disk.compact(3, finish=False)
    disk.compact_step(2)
    disk.compact(13)
    assert kept(disk) == [(13, b"b")]
    assert disk.store.compaction.finished == 13
    assert disk.problems() == []


def test_it_costs_the_writes_since_the_last_one(disk: Disk) -> None:
    with disk.batch() as writer:
        for number in range(2000):
            writer.begin()
            writer.put(b"k%04d" % number, b"")
            writer.end()
    disk.compact(2001)
    disk.put(b"k0000")
    disk.put(b"k0001")
    disk.compact(2003, finish=False)
    # One spared revision and two new events, not 2000 keys.
    assert disk.compact_step(3)
    assert disk.store.compaction.removed == 2


def test_a_step_with_nothing_to_do_is_done(disk: Disk) -> None:
    assert disk.compact_step()
    assert disk.store.compacted_revision == -1
