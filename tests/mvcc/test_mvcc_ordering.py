"""Orders other than the walk's, run by run, beside one sort of everything."""

from __future__ import annotations

import sys
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvcc_support import Disk, response

from raftkv.mvcc import RangeQuery
from raftkv.mvcc import ordering as module
from raftkv.mvcc import scan as scan_module
from raftkv.mvcc.ordering import LOOSE_FRAME_BYTES, Backwards, Ordering, SortedRuns

RUNS = st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6)


def fill(order: Ordering, runs: list[list[int]]) -> list[tuple[int, bytes]]:
    """Frames that tell where in the walk they lie, with a length of their own."""
    everything = []
    for run in runs:
        for value in run:
            frame = b"%d" % len(everything) + b"x" * value
            order.add(value, frame)
            everything.append((value, frame))
        order.end_run()
    return everything


@settings(max_examples=300)
@given(RUNS, st.booleans(), st.integers(0, 9), st.sampled_from([0, 4, 10_000]))
def test_runs_come_out_as_if_sorted_at_once(runs: list[list[int]], descend: bool, limit: int, max_best: int) -> None:
    """RNG-06, RNG-11: equal values stay in the order of the keys, in both directions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_BEST", max_best)
        order = SortedRuns(descend, limit)
        everything = fill(order, runs)
    wanted = [frame for _, frame in sorted(everything, key=lambda each: each[0], reverse=descend)]
    assert order.found == len(everything)
    assert order.kept == (min(limit, order.found) if 0 < limit <= max_best else order.found)
    if order.kept == order.found:
        assert order.held_bytes == sum(LOOSE_FRAME_BYTES + len(frame) for frame in wanted)
    assert list(order.frames()) == wanted[: limit or None]


@settings(max_examples=300)
@given(RUNS, st.integers(0, 9))
def test_the_walk_from_its_end(runs: list[list[int]], limit: int) -> None:
    """RNG-06, RNG-11: no more is kept than the limit and one run."""
    order = Backwards(limit)
    everything = fill(order, runs)
    assert order.found == len(everything)
    assert order.kept <= (limit + max(map(len, runs)) if limit and runs else order.found)
    assert order.held_bytes == sum(
        LOOSE_FRAME_BYTES + len(frame) for _, frame in everything[order.found - order.kept :]
    )
    assert list(order.frames()) == [frame for _, frame in reversed(everything)][: limit or None]


def test_what_was_handed_out_is_let_go() -> None:
    """As when a large answer is put together: it is not in memory twice."""
    for order in (SortedRuns(False, 0), Backwards(0)):
        everything = fill(order, [[1, 2], [3], [0]])
        frame = everything[0][1]
        del everything[:]
        before = sys.getrefcount(frame)
        deque(order.frames(), maxlen=0)
        assert sys.getrefcount(frame) == before - 1


@pytest.mark.parametrize(
    "options", [{"sort_target": 3, "sort_order": 2}, {"sort_target": 4}, {"sort_order": 2}], ids=str
)
@pytest.mark.parametrize("limit", [0, 3, 40])
def test_pieces_of_a_sorted_range_are_bounded(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], limit: int
) -> None:
    monkeypatch.setattr(scan_module, "SLICE_KEYS", 8)
    for number in range(100):
        disk.put(b"k%02d" % (number * 37 % 100), b"%d" % (number * 53 % 100))
    query = RangeQuery(b"k", b"l", limit=limit, **options)  # type: ignore[arg-type]
    with disk.read() as txn:
        whole = response(disk.store.range(txn, query))
        scan = disk.store.scan(txn, query)
        while not scan.step():
            assert scan.held_bytes == 0 or scan.expected_bytes >= scan.held_bytes
        pieces = list(scan.pieces())
    parsed = [type(whole).FromString(piece) for piece in pieces]
    assert all(len(each.kvs) <= 8 for each in parsed)
    assert [kv for each in parsed for kv in each.kvs] == list(whole.kvs)
    assert (parsed[-1].count, parsed[-1].more) == (whole.count, whole.more) == (100, limit > 0)


def test_a_small_limit_keeps_little(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expected of it, too: such a range does not wait for room (docs/limits.md)."""
    monkeypatch.setattr(scan_module, "SLICE_KEYS", 8)
    for number in range(200):
        disk.put(b"k%03d" % number, bytes(1000))
    for options in ({"sort_target": 2, "sort_order": 1}, {"sort_order": 2}):
        query = RangeQuery(b"k", b"l", limit=1, **options)  # type: ignore[arg-type]
        with disk.read() as txn:
            scan = disk.store.scan(txn, query)
            while not scan.step():
                assert scan.held_bytes < 20_000
                assert scan.expected_bytes < 20_000
            assert scan.result().returned == 1
