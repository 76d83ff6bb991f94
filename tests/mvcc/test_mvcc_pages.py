"""A range in pieces at one revision, beside the same range in one go."""

from __future__ import annotations

import random

import pytest
from mvcc_support import Disk

from raftkv.mvcc import CompactedError, FutureRevisionError, RangePages, RangeQuery
from raftkv.mvcc import pages as pages_module
from raftkv.pb import rpc_pb2

LONG = b"k" * 1200
"""Keys with this prefix are cut into nodes."""


def piece(disk: Disk, pages: RangePages) -> bytes:
    with disk.read() as txn:
        return pages.next(txn)


def rest(disk: Disk, pages: RangePages) -> int:
    with disk.read() as txn:
        return disk.store.range(txn, pages.rest()).total


def change_at_random(disk: Disk, die: random.Random) -> None:
    key = die.choice((b"k%02d" % die.randrange(40), LONG + b"%02d" % die.randrange(10)))
    if die.random() < 0.3:
        disk.delete(key)
    else:
        disk.put(key, b"%d" % die.randrange(1000), lease=die.randrange(3))


QUERIES = (
    {},
    {"limit": 1},
    {"limit": 7},
    {"limit": 45},
    {"limit": 1000},
    {"keys_only": True},
    {"keys_only": True, "limit": 20},
    {"sort_order": 1, "limit": 11},
)
INTERVALS = ((b"k", b"l"), (b"\x00", b"\x00"), (b"k05", b"k31"), (b"k07", b""), (LONG, LONG + b"\xff"), (b"l", b"k"))


@pytest.mark.parametrize("options", QUERIES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_the_range_whatever_is_written_meanwhile(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, options: dict[str, int], seed: int
) -> None:
    """RNG-05, RNG-07, RNG-12: at the revision that was current at the first piece, or the one that was asked for."""
    monkeypatch.setattr(pages_module, "SLICE_KEYS", 4)
    die = random.Random(seed)
    for _ in range(150):
        change_at_random(disk, die)
    for interval in INTERVALS:
        for past in (0, 60):
            query = RangeQuery(*interval, revision=past, **options)  # type: ignore[arg-type]
            wanted = disk.range(*interval, revision=past, **options)
            pages, body = disk.store.pages(query), b""
            while not pages.done:
                body += piece(disk, pages)
                change_at_random(disk, die)
            kvs = rpc_pb2.RangeResponse.FromString(body).kvs
            assert list(kvs) == list(wanted.kvs)
            left = rest(disk, pages) if pages.is_cut else 0
            assert (pages.returned, pages.returned + left, left > 0) == (len(kvs), wanted.count, wanted.more)


def test_a_piece_is_bounded_in_keys_and_in_bytes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        disk.put(b"k%02d" % number, bytes(100))
    disk.delete(b"k00", b"k20")

    def pieces() -> list[int]:
        pages = disk.store.pages(RangeQuery(b"k", b"l"))
        sizes = []
        while not pages.done:
            sizes.append(len(rpc_pb2.RangeResponse.FromString(piece(disk, pages)).kvs))
        return sizes

    assert pieces() == [10]
    monkeypatch.setattr(pages_module, "SLICE_BYTES", 300)
    assert pieces() == [3, 3, 3, 1]
    monkeypatch.setattr(pages_module, "SLICE_KEYS", 8)
    assert pieces() == [0, 0, 3, 3, 3, 1]


def test_a_compaction_may_overtake_the_reader(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """CMP-01; up to the revision itself it goes on."""
    monkeypatch.setattr(pages_module, "SLICE_KEYS", 2)
    for number in range(9):
        disk.put(b"k%d" % number)
    pages = disk.store.pages(RangeQuery(b"k", b"l"))
    piece(disk, pages)
    disk.delete(b"k", b"l")
    disk.compact(pages.revision)
    assert len(rpc_pb2.RangeResponse.FromString(piece(disk, pages)).kvs) == 2
    disk.compact(pages.revision + 1)
    with pytest.raises(CompactedError):
        piece(disk, pages)


def test_what_cannot_be_read_is_refused_at_once(disk: Disk) -> None:
    """RNG-04."""
    disk.put(b"k")
    disk.put(b"k")
    disk.compact(3)
    with pytest.raises(CompactedError):
        disk.store.pages(RangeQuery(b"k", revision=2))
    with pytest.raises(FutureRevisionError):
        disk.store.pages(RangeQuery(b"k", revision=4))
