"""The self-check finds damage in every table it vouches for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mvcc_support import Disk

from raftkv.backend.handles import WriteTxn
from raftkv.backend.schema import LONGER, Meta, Tables, pack_current, pack_revision
from raftkv.mvcc.frames import delete_event, frame

LONG = b"l" * 500


@pytest.fixture
def filled(small_blocks: Disk) -> Disk:
    """Overwrites, a tombstone, a long key, some blocks, and a finished compaction."""
    for key in (b"a", b"b", b"c", b"d", b"e", b"f", LONG):
        small_blocks.put(key)
    small_blocks.compact(8)
    small_blocks.put(b"a")
    small_blocks.delete(b"b")
    assert small_blocks.problems() == []
    return small_blocks


def _lose_an_event(txn: WriteTxn, tables: Tables) -> None:
    txn.delete(pack_revision(4, 0), db=tables.events)


def _invent_an_event(txn: WriteTxn, tables: Tables) -> None:
    txn.put(pack_revision(20, 0), delete_event(b"a", 20), db=tables.events)


def _change_an_event(txn: WriteTxn, tables: Tables) -> None:
    txn.put(pack_revision(4, 0), frame(b"c", 4, 4, 1, b"other", 0), db=tables.events)


def _lose_history(txn: WriteTxn, tables: Tables) -> None:
    txn.delete(b"a", db=tables.history)


def _invent_history(txn: WriteTxn, tables: Tables) -> None:
    txn.put(b"x", pack_revision(4, 0), db=tables.history)


def _history_above_the_newest(txn: WriteTxn, tables: Tables) -> None:
    txn.put(b"a", pack_revision(30, 0), db=tables.history)


def _lose_a_record(txn: WriteTxn, tables: Tables) -> None:
    txn.delete(b"c", db=tables.current)


def _header_unlike_frame(txn: WriteTxn, tables: Tables) -> None:
    txn.put(b"c", pack_current(4, 0, 3, 2, 0, frame(b"c", 4, 4, 1, b"v", 0)), db=tables.current)


def _cut_a_record(txn: WriteTxn, tables: Tables) -> None:
    txn.put(b"c", b"short", db=tables.current)


def _lose_a_branch(txn: WriteTxn, tables: Tables) -> None:
    txn.delete(LONG[:480] + LONGER, db=tables.current)


def _forget_the_next_node(txn: WriteTxn, tables: Tables) -> None:
    txn.delete(Meta.NEXT_NODE_ID, db=tables.meta)


def _miscount_a_block(txn: WriteTxn, tables: Tables) -> None:
    start = next(iter(txn.cursor(tables.blocks)))[0]
    txn.put(start, b"\x00\x00\x00\x00\x00\x00\x00\x01", db=tables.blocks)


def _move_the_compact_revision(txn: WriteTxn, tables: Tables) -> None:
    txn.put(Meta.COMPACT_SCHEDULED, (9).to_bytes(8, "big"), db=tables.meta)


@pytest.mark.parametrize(
    "damage",
    [
        _lose_an_event,
        _invent_an_event,
        _change_an_event,
        _lose_history,
        _invent_history,
        _history_above_the_newest,
        _lose_a_record,
        _header_unlike_frame,
        _cut_a_record,
        _lose_a_branch,
        _forget_the_next_node,
        _miscount_a_block,
        _move_the_compact_revision,
    ],
)
def test_damage_is_found(filled: Disk, damage: Callable[[WriteTxn, Tables], None]) -> None:
    with filled.write() as txn:
        damage(txn, filled.tables)
    assert filled.problems() != []


def test_leftovers_of_a_finished_compaction_are_found(filled: Disk) -> None:
    filled.store.compaction.finished = filled.store.compaction.scheduled = 10
    with filled.write() as txn:
        txn.put(Meta.COMPACT_SCHEDULED, (10).to_bytes(8, "big"), db=filled.tables.meta)
    assert "compaction left superseded revisions of b'a'" in filled.problems()
