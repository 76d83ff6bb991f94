"""The multi-version store: revisions, reads, and the writer of an apply batch.

Owns the numbers that say what the store is (current and compact revision, block counters) as of the newest
write. Everything else is in the tables; it gets transactions and table handles, and opens, commits or aborts
none itself. Knows nothing of leases' life, users, Raft or the network.

    current   user key → newest revision         written by Writer, read by RangeScan
    history   user key → superseded revisions    written by Writer, emptied by Compaction
    events    revision → event                   written by Writer, emptied by Compaction, read by watchers
    blocks    counters of runs of keys           Blocks
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raftkv.backend.schema import KEY_CHUNK, Meta, Tables, unpack_revision, unpack_u64
from raftkv.mvcc.blocks import TARGET_ENTRIES, Blocks
from raftkv.mvcc.compaction import Compaction
from raftkv.mvcc.errors import CompactedError, FutureRevisionError
from raftkv.mvcc.hashkv import HashScan
from raftkv.mvcc.pages import RangePages
from raftkv.mvcc.query import interval
from raftkv.mvcc.records import HEADER_BYTES, frame_at, newest_state, newest_states
from raftkv.mvcc.scan import RangeResult, RangeScan
from raftkv.mvcc.writer import Writer

if TYPE_CHECKING:
    from raftkv.backend.handles import ReadTxn, WriteTxn
    from raftkv.mvcc.frames import KeyState
    from raftkv.mvcc.query import RangeQuery

FIRST_REVISION = 1
"""The revision of an empty store (KV-01)."""
_ONE = b"\x20\x01"
"""count = 1, as a field of RangeResponse."""


class Store:
    """One store. `load` must be called before anything else, and again after an aborted write transaction."""

    __slots__ = (
        "blocks",
        "compaction",
        "current_revision",
        "deletes",
        "deletions",
        "puts",
        "ranges",
        "tables",
        "transactions",
    )

    def __init__(self, tables: Tables, *, block_entries: int = TARGET_ENTRIES) -> None:
        self.tables = tables
        self.current_revision = FIRST_REVISION
        """Main revision of the newest change. Never decreases, and survives restart and compaction
        (KV-10)."""
        self.blocks = Blocks(tables, block_entries)
        self.compaction = Compaction(self)
        # Plain counters since start, for metrics. Deletes counts keys, deletions the operations that looked for them.
        self.puts = 0
        self.deletes = 0
        self.deletions = 0
        self.ranges = 0
        self.transactions = 0
        """Of more than one operation; whoever runs them counts."""

    @property
    def compacted_revision(self) -> int:
        """The oldest revision that can be read; -1: never compacted (CMP-03)."""
        return self.compaction.scheduled

    @property
    def live_keys(self) -> int:
        """Keys that are not tombstones."""
        return self.blocks.total()

    def load(self, txn: ReadTxn) -> None:
        """Reads the numbers from disk. Raises SchemaError for what cannot be."""
        tables = self.tables
        self.compaction.load(txn)
        newest = txn.cursor(tables.events)
        # A compaction may have removed the newest event (a tombstone): its revision is a floor (KV-10).
        self.current_revision = max(
            FIRST_REVISION,
            unpack_revision(newest.key())[0] if newest.last() else 0,
            self.compaction.scheduled,
            unpack_u64(txn.get(Meta.CURRENT_REVISION, bytes(8), tables.meta)),
        )
        self.blocks.load(txn)

    def rebind(self, tables: Tables) -> None:
        """Goes on with the handles of a reopened environment that holds the same data (Defragment)."""
        self.tables = tables
        self.blocks.rebind(tables)

    def writer(self, txn: WriteTxn) -> Writer:
        """The writer of one apply batch. One at a time."""
        return Writer(self, txn)

    def most_keys(self, key: bytes, range_end: bytes) -> int:
        """An upper bound of the live keys in an interval, from the block counters alone."""
        return self.blocks.most(*interval(key, range_end))

    def flush(self, txn: WriteTxn) -> None:
        """Writes what is kept in memory between commits (block counters). Before every commit, in its transaction."""
        self.blocks.flush(txn)

    def check_readable(self, revision: int) -> None:
        """Raises CompactedError or FutureRevisionError (RNG-04); 0 and below mean current."""
        if revision > self.current_revision:
            raise FutureRevisionError(revision, self.current_revision)
        if 0 < revision < self.compaction.scheduled:
            raise CompactedError(revision, self.compaction.scheduled)

    # --- reads; `txn` is a snapshot of the newest commit, or the open transaction ---

    def range(self, txn: ReadTxn, query: RangeQuery) -> RangeResult:
        """Runs `query` in one go. For what may be long there is `scan`."""
        self.ranges += 1
        if query.point and len(query.key) <= KEY_CHUNK:
            record = txn.get(query.key, None, self.tables.current)
            if record is None or len(record) == HEADER_BYTES:
                return RangeResult(b"", 0, 0, False, self.current_revision)
            return RangeResult(record[HEADER_BYTES:] + _ONE, 1, 1, False, self.current_revision)
        scan = RangeScan(self, txn, query, self.current_revision)
        while not scan.step():
            pass
        return scan.result()

    def scan(self, txn: ReadTxn, query: RangeQuery) -> RangeScan:
        """The same in slices: `step()` until it is True, then `result()`."""
        self.ranges += 1
        return RangeScan(self, txn, query, self.current_revision)

    def pages(self, query: RangeQuery) -> RangePages:
        """The same in key order, in pieces that are handed out as they are read."""
        self.ranges += 1
        return RangePages(self, query)

    def get(self, txn: ReadTxn, key: bytes) -> KeyState | None:
        """The key as it is now, None when it is not alive."""
        return newest_state(txn, self.tables, key)

    def states(self, txn: ReadTxn, key: bytes, range_end: bytes) -> Iterator[KeyState]:
        """The live keys of an interval as they are now, in key order."""
        return newest_states(txn, self.tables, *interval(key, range_end))

    def frame_at(self, txn: ReadTxn, key: bytes, revision: int) -> bytes | None:
        """The frame (12 len KeyValue) of `key` at `revision`; None when not alive then, or compacted
        (W-53)."""
        if revision < self.compaction.scheduled:
            return None
        return frame_at(txn, self.tables, key, revision)

    def hash_scan(self, txn: ReadTxn, revision: int) -> HashScan:
        """HashKV at `revision` (0 = current) in slices. Raises CompactedError, FutureRevisionError
        (MT-20)."""
        return HashScan(self, txn, revision)

    # --- compaction ---

    def schedule_compaction(self, txn: WriteTxn, revision: int) -> None:
        """Makes what is older than `revision` unreadable at once (CMP-01, CMP-05); `compaction` removes it
        later.

        Raises CompactedError, FutureRevisionError (CMP-02).
        """
        if revision <= self.compaction.scheduled:
            raise CompactedError(revision, self.compaction.scheduled)
        if revision > self.current_revision:
            raise FutureRevisionError(revision, self.current_revision)
        self.compaction.schedule(txn, revision)
