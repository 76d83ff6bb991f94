"""Counters of runs of keys: right, bounded, and cheap to ask."""

from __future__ import annotations

import random

import pytest
from mvcc_support import Disk

from raftkv.backend.errors import SchemaError
from raftkv.mvcc import RangeQuery, blocks
from raftkv.mvcc.scan import RangeScan


def fill(disk: Disk, numbers: list[int], batch: int = 50) -> None:
    for at in range(0, len(numbers), batch):
        with disk.batch() as writer:
            for number in numbers[at : at + batch]:
                writer.begin()
                writer.put(b"k%06d" % number, b"")
                writer.end()


def test_counts_of_all_intervals(small_blocks: Disk) -> None:
    disk = small_blocks
    numbers = list(range(60))
    random.Random(1).shuffle(numbers)
    fill(disk, numbers, batch=7)
    for number in (3, 20, 21, 22, 59):
        disk.delete(b"k%06d" % number)
    alive = sorted(set(range(60)) - {3, 20, 21, 22, 59})
    assert len(disk.store.blocks.starts) > 10
    for low in range(0, 61, 3):
        for high in range(low + 1, 62, 4):
            expected = sum(low <= number < high for number in alive)
            interval = (b"k%06d" % low, b"k%06d" % high)
            assert disk.range(*interval, count_only=True).count == expected
            assert disk.range(*interval, limit=1).count == expected
    assert disk.problems() == []


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_blocks_stay_within_their_bounds(order: str, small_blocks: Disk) -> None:
    numbers = list(range(300))
    if order == "shuffled":
        random.Random(2).shuffle(numbers)
    fill(small_blocks, numbers[::-1] if order == "descending" else numbers, batch=1)
    counters = small_blocks.store.blocks
    assert max(counters.entries) <= 2 * 2
    assert small_blocks.store.live_keys == 300
    small_blocks.load()
    assert small_blocks.store.live_keys == 300
    assert small_blocks.problems() == []


def test_what_a_count_walks_is_bounded_by_entries_not_by_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(block_entries=8)
    fill(disk, list(range(500)))
    disk.delete(b"k000100", b"k000490")
    walked: list[bytes] = []
    real_walk = blocks.walk

    def watched_walk(*arguments: object) -> object:
        for key, record in real_walk(*arguments):  # type: ignore[arg-type]
            walked.append(key)
            yield key, record

    monkeypatch.setattr("raftkv.mvcc.scan.walk", watched_walk)
    assert disk.range(b"k000050", b"k000495", count_only=True).count == 55
    assert len(walked) <= 2 * 2 * 8
    disk.close()


def test_compacted_tombstones_shrink_and_merge_blocks(small_blocks: Disk) -> None:
    disk = small_blocks
    fill(disk, list(range(200)))
    before = len(disk.store.blocks.starts)
    revision = disk.delete(b"k000010", b"k000190")
    disk.put(b"z")
    assert len(disk.store.blocks.starts) == before
    disk.compact(revision + 1)
    assert len(disk.store.blocks.starts) < before / 4
    assert disk.problems() == []
    disk.load()
    assert disk.problems() == []


def test_keys_that_share_their_first_chunk_stay_in_one_block(small_blocks: Disk) -> None:
    """A boundary has at most KEY_CHUNK bytes, so such keys cannot be parted; they are counted by walking."""
    disk = small_blocks
    prefix = b"p" * 480
    for number in range(40):
        disk.put(prefix + b"%02d" % number)
    assert len(disk.store.blocks.starts) == 1
    disk.put(b"a")
    disk.put(b"z")
    disk.put(b"zz")
    assert disk.range(prefix + b"10", prefix + b"20", count_only=True).count == 10
    assert disk.range(b"a", b"\x00", count_only=True).count == 43
    assert disk.problems() == []


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\x00\x00\x00\x02\x00\x00\x00\x01"])
def test_damaged_counters_are_refused(disk: Disk, raw: bytes) -> None:
    with disk.write() as txn:
        txn.put(b"a", raw, db=disk.tables.blocks)
    with pytest.raises(SchemaError):
        disk.load()


def test_counting_in_the_past_corrects_by_the_events_since(small_blocks: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = small_blocks
    fill(disk, list(range(100)))
    revision = disk.store.current_revision
    disk.delete(b"k000000", b"k000050")
    disk.put(b"k000001")
    disk.put(b"k000200")
    expected = disk.range(b"k", b"l", revision=revision, limit=3)
    assert expected.count == 100
    # The same by walking, for a past too far away for the events.
    monkeypatch.setattr("raftkv.mvcc.scan.FEW_EVENTS", 0)
    monkeypatch.setattr(type(disk.store.blocks), "plan", lambda *_: (0, []))
    assert disk.range(b"k", b"l", revision=revision, limit=3) == expected


def test_a_pinned_scan_counts_with_the_counters_of_its_start(small_blocks: Disk) -> None:
    disk = small_blocks
    fill(disk, list(range(50)))
    with disk.read() as txn:
        scan = RangeScan(disk.store, txn, RangeQuery(b"k", b"l", limit=2), disk.store.current_revision)
        disk.delete(b"k", b"l")
        while not scan.step():
            pass
        assert scan.result().total == 50
