"""Long reads in slices: bounded, resumable on another transaction, and undisturbed by what happens
meanwhile."""

from __future__ import annotations

import pytest
from mvcc_support import Disk, response

from raftkv.mvcc import RangeQuery
from raftkv.mvcc import scan as scan_module


def fill(disk: Disk, count: int, value: bytes = b"v") -> None:
    with disk.batch() as writer:
        for number in range(count):
            writer.begin()
            writer.put(b"k%04d" % number, value)
            writer.end()


def steps(disk: Disk, query: RangeQuery) -> int:
    with disk.read() as txn:
        scan = disk.store.scan(txn, query)
        taken = 1
        while not scan.step():
            taken += 1
        return taken


def test_a_slice_is_bounded_in_keys(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk, 100)
    monkeypatch.setattr(scan_module, "SLICE_KEYS", 10)
    for options in ({}, {"keys_only": True}, {"sort_target": 3, "sort_order": 2}, {"count_only": True}):
        assert steps(disk, RangeQuery(b"k", b"l", **options)) >= 10  # type: ignore[arg-type]


def test_a_slice_is_bounded_in_bytes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk, 20, b"v" * 1000)
    monkeypatch.setattr(scan_module, "SLICE_BYTES", 5000)
    assert 4 <= steps(disk, RangeQuery(b"k", b"l")) <= 6


def test_tombstones_and_older_revisions_count_as_work(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(disk, 100)
    revision = disk.delete(b"k", b"l")
    monkeypatch.setattr(scan_module, "SLICE_KEYS", 10)
    assert steps(disk, RangeQuery(b"k", b"l")) >= 10
    assert steps(disk, RangeQuery(b"k", b"l", revision=revision - 1)) >= 10


def test_a_scan_goes_on_in_another_transaction_of_the_same_snapshot(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk, 30)
    monkeypatch.setattr(scan_module, "SLICE_KEYS", 10)
    first = disk.read()
    scan = disk.store.scan(first, RangeQuery(b"k", b"l"))
    assert not scan.step()
    pinned = disk.env.begin()
    scan.txn = pinned
    first.abort()
    revision = disk.delete(b"k", b"l")
    while not scan.step():
        pass
    result = scan.result()
    assert len(response(result).kvs) == 30
    assert result.revision == revision - 1
    pinned.abort()


def test_rng18_an_empty_interval_is_no_error(disk: Disk) -> None:
    fill(disk, 3)
    assert steps(disk, RangeQuery(b"l", b"k")) == 1
    assert disk.range(b"x", b"y").count == 0
    assert disk.range(b"x").count == 0
