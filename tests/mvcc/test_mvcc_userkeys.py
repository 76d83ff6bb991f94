"""Keys of any length: order, reach, and no litter left behind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvcc_support import Disk

from raftkv.backend.errors import SchemaError
from raftkv.backend.schema import KEY_CHUNK, LONGER
from raftkv.mvcc.userkeys import delete_record, get_record, put_record, walk

RECORD = b"r" * 36

# Pieces chosen so that keys share whole chunks, end exactly at a chunk, and differ in the byte after one.
piece = st.sampled_from([b"\x00", b"\xff", b"c" * 479, b"c" * 480, b"c" * 481, b"\x00" * 480, b"\xff" * 480])
some_key = st.lists(piece, min_size=1, max_size=4).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(some_key, max_size=12, unique=True), some_key, some_key, st.data())
def test_a_walk_is_the_sorted_interval(keys: list[bytes], start: bytes, end: bytes, data: st.DataObject) -> None:
    disk = Disk()
    try:
        with disk.write() as txn:
            for key in keys:
                put_record(txn, disk.tables, key, RECORD)
            for low, high in ((start, end), (b"", end), (start, None), (b"", None)):
                expected = sorted(key for key in keys if key >= low and (high is None or key < high))
                assert [key for key, _ in walk(txn, disk.tables, low, high)] == expected
            gone = data.draw(st.sets(st.sampled_from(keys))) if keys else set()
            for key in gone:
                delete_record(txn, disk.tables, key)
            assert [key for key, _ in walk(txn, disk.tables, b"", None)] == sorted(set(keys) - gone)
            for key in keys:
                assert get_record(txn, disk.tables, key) == (None if key in gone else RECORD)
    finally:
        disk.close()


def test_the_longest_key_a_request_can_carry(disk: Disk) -> None:
    """LIM-08: nothing but the request size bounds a key."""
    longest = b"k" * 1_500_000
    disk.put(longest, b"1")
    disk.put(longest[:-1], b"2")
    disk.put(b"l", b"3")
    assert [kv.value for kv in disk.range(b"k", b"m").kvs] == [b"2", b"1", b"3"]
    assert disk.range(longest).kvs[0].version == 1
    assert disk.range(longest[:-1], longest).count == 1
    assert disk.keys(longest + b"\x00", b"m") == [b"l"]
    assert disk.problems() == []
    disk.delete(b"k", b"l")
    disk.put(b"l", b"4")
    disk.compact(6)
    with disk.read() as txn:
        assert txn.stat(disk.tables.current_ext)["entries"] == 0
        assert txn.stat(disk.tables.current)["entries"] == 1


def test_a_branch_goes_only_with_its_last_key(disk: Disk) -> None:
    chunk = b"c" * KEY_CHUNK
    with disk.write() as txn:
        for key in (chunk, chunk + b"1", chunk + b"2", chunk * 2 + b"3"):
            put_record(txn, disk.tables, key, RECORD)
        delete_record(txn, disk.tables, chunk * 2 + b"3")
        delete_record(txn, disk.tables, chunk + b"2")
        assert txn.stat(disk.tables.current_ext)["entries"] == 1
        delete_record(txn, disk.tables, chunk + b"1")
        assert txn.stat(disk.tables.current_ext)["entries"] == 0
        assert [key for key, _ in txn.cursor(disk.tables.current)] == [chunk]


def test_deleting_what_is_not_there_changes_nothing(disk: Disk) -> None:
    disk.put(b"c" * 500)
    with disk.write() as txn:
        for key in (b"x", b"x" * 500, b"c" * 499, b"c" * 1500):
            delete_record(txn, disk.tables, key)
            assert get_record(txn, disk.tables, key) is None
    assert disk.problems() == []


def test_a_damaged_branch_is_refused(disk: Disk) -> None:
    with disk.write() as txn:
        txn.put(b"c" * KEY_CHUNK + LONGER, b"not a node id", db=disk.tables.current)
        with pytest.raises(SchemaError):
            get_record(txn, disk.tables, b"c" * 500)
