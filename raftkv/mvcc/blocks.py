"""How many keys live where: counters of runs of neighbouring keys, so that counting a range need not walk it.

A block holds the keys from its first key up to the next block's. Per block two numbers: the entries that
`current` has there, and how many of them are live (the others are tombstones waiting for compaction). Entries
decide when a block is split or merged, and so bound what counting a part of a block costs, whatever is
deleted in it.

The counters are in memory (about 100 bytes per TARGET_ENTRIES keys) and change with every creation and
delete; the table `blocks` follows before each commit, in the same transaction as the keys. Overwrites never
come here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from struct import Struct
from typing import Final

from raftkv.backend.errors import SchemaError
from raftkv.backend.handles import ReadTxn, WriteTxn
from raftkv.backend.schema import KEY_CHUNK, Tables
from raftkv.mvcc.records import is_live
from raftkv.mvcc.userkeys import FIRST_KEY, walk

TARGET_ENTRIES: Final = 256
"""What a split leaves per block. A block is split above twice this, and counting an edge walks at most that
much."""
FLUSH_CHANGES: Final = 2048
"""Creations and deletions after which the table is brought up to date before the commit: a few milliseconds of work."""

COUNTERS: Final = Struct(">II")
"""live, entries: value in `blocks`."""


class Blocks:
    """The counters as of the newest write, committed or not."""

    __slots__ = ("_changes", "_dirty", "_split_above", "_tables", "_target", "entries", "live", "starts")

    def __init__(self, tables: Tables, target_entries: int = TARGET_ENTRIES) -> None:
        self._tables = tables
        self._target = target_entries
        self.starts: list[bytes] = [FIRST_KEY]
        """First key of each block, ascending; never longer than KEY_CHUNK. The first block begins at
        FIRST_KEY."""
        self.live: list[int] = [0]
        self.entries: list[int] = [0]
        """Invariant, block by block: 0 <= live <= entries."""
        self._split_above: list[int] = [2 * target_entries]
        """Entries above which a split is tried; raised where keys share their first KEY_CHUNK bytes and
        cannot part."""
        self._changes = 0
        """Since the last flush."""
        self._dirty: set[bytes] = set()
        """Starts of the blocks that differ from the table."""

    def load(self, txn: ReadTxn) -> None:
        self.starts, self.live, self.entries = [FIRST_KEY], [0], [0]
        for start, raw in txn.cursor(self._tables.blocks):
            if len(raw) != COUNTERS.size:
                raise SchemaError(f"blocks: expected {COUNTERS.size} bytes, got {len(raw)}")
            live, entries = COUNTERS.unpack(raw)
            if live > entries:
                raise SchemaError(f"blocks: {live} live keys of {entries}")
            if start == FIRST_KEY:
                self.live[0], self.entries[0] = live, entries
            else:
                self.starts.append(start)
                self.live.append(live)
                self.entries.append(entries)
        self._split_above = [2 * self._target] * len(self.starts)
        self._dirty.clear()
        self._changes = 0

    def rebind(self, tables: Tables) -> None:
        """Goes on with the handles of a reopened environment that holds the same data."""
        self._tables = tables

    def change(self, key: bytes, live: int, entries: int) -> None:
        """Adds to the counters of the block of `key`. Hot for creations."""
        starts = self.starts
        at = bisect_right(starts, key) - 1
        self.live[at] += live
        self.entries[at] += entries
        self._dirty.add(starts[at])
        self._changes += 1

    @property
    def flush_due(self) -> bool:
        """So much has changed that a block may have to be split; splitting one later would take longer."""
        return self._changes >= FLUSH_CHANGES

    def total(self) -> int:
        return sum(self.live)

    def most(self, start: bytes, end: bytes | None) -> int:
        """Live keys in all blocks that [start, end) touches."""
        first = bisect_right(self.starts, start or FIRST_KEY) - 1
        last = len(self.starts) if end is None else bisect_left(self.starts, end)
        return sum(self.live[first:last])

    def plan(self, start: bytes, end: bytes | None) -> tuple[int, list[tuple[bytes, bytes | None]]]:
        """(live keys in the blocks wholly inside [start, end), the edges left to be walked)."""
        starts = self.starts
        first = bisect_right(starts, start or FIRST_KEY) - 1
        last = len(starts) if end is None else bisect_left(starts, end)
        # Blocks first .. last - 1 have keys in the interval, the outer two perhaps only in part.
        edges: list[tuple[bytes, bytes | None]] = []
        if last - first == 1 and (start > starts[first] or not self._ends_at(last, end)):
            return 0, [(start, end)]
        whole_from, whole_to = first, last
        if start > starts[first]:
            edges.append((start, starts[first + 1] if first + 1 < len(starts) else None))
            whole_from += 1
        if not self._ends_at(last, end):
            whole_to -= 1
            edges.append((starts[whole_to], end))
        return sum(self.live[whole_from:whole_to]), edges

    def _ends_at(self, last: int, end: bytes | None) -> bool:
        return end is None or (last < len(self.starts) and self.starts[last] == end)

    def flush(self, txn: WriteTxn) -> None:
        """Brings the table up to date, splitting and merging what grew or shrank. Before every commit."""
        for start in sorted(self._dirty):
            at = bisect_left(self.starts, start)
            if at == len(self.starts) or self.starts[at] != start:
                continue  # merged into its neighbour a moment ago
            if self.entries[at] > self._split_above[at]:
                self._split(txn, at)
            elif at and self._fits_left(at):
                self._merge_left(txn, at)
            else:
                self._store(txn, at)
        self._dirty.clear()
        self._changes = 0

    def _fits_left(self, at: int) -> bool:
        entries = self.entries[at]
        return entries == 0 or (entries <= self._target // 4 and entries + self.entries[at - 1] <= self._target)

    def _merge_left(self, txn: WriteTxn, at: int) -> None:
        txn.delete(self.starts[at], b"", self._tables.blocks)
        self.live[at - 1] += self.live[at]
        self.entries[at - 1] += self.entries[at]
        for column in (self.starts, self.live, self.entries, self._split_above):
            del column[at]
        self._store(txn, at - 1)

    def _split(self, txn: WriteTxn, at: int) -> None:
        """Cuts a block in pieces of TARGET_ENTRIES.

        A boundary is a key cut to KEY_CHUNK bytes, and only between keys that differ there: then every key
        left of the cut is below the boundary even where the key to its right was cut.
        """
        end = self.starts[at + 1] if at + 1 < len(self.starts) else None
        starts, live, entries = [self.starts[at]], [0], [0]
        boundary = b""
        for key, record in walk(txn, self._tables, self.starts[at], end):
            before, boundary = boundary, key[:KEY_CHUNK]
            if entries[-1] >= self._target and boundary != before:
                starts.append(boundary)
                live.append(0)
                entries.append(0)
            entries[-1] += 1
            live[-1] += is_live(record)
        if len(starts) > 1 and entries[-1] < self._target // 4:
            starts.pop()
            live[-2:] = [sum(live[-2:])]
            entries[-2:] = [sum(entries[-2:])]
        assert sum(live) == self.live[at]
        assert sum(entries) == self.entries[at]
        self.starts[at : at + 1] = starts
        self.live[at : at + 1] = live
        self.entries[at : at + 1] = entries
        self._split_above[at : at + 1] = [2 * (n if n > 2 * self._target else self._target) for n in entries]
        for piece in range(at, at + len(starts)):
            self._store(txn, piece)

    def _store(self, txn: WriteTxn, at: int) -> None:
        counters = COUNTERS.pack(self.live[at], self.entries[at])
        txn.put(self.starts[at], counters, True, True, False, self._tables.blocks)
