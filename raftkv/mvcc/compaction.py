"""Removing what compaction made unreadable: in slices, resumable, at the cost of the writes since the last
one.

Everything is found by walking `events` from the old to the new compact revision. An event at revision r of a
key supersedes the key's older revisions: they go from `history` and `events`. A tombstone below the compact
revision goes too, from `current` if it is the key's newest; one exactly at it stays for watchers that start
there, until the next compaction (CMP-07).

Invariant: every event before `position` has been processed for the scheduled revision. Processing one again
changes nothing, so after a crash the work goes on from the last committed position (CMP-08).

Owns the compact revisions and the position. Reads in the past are not its concern: they are refused from the
moment of scheduling, and those already running have their own snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftkv.backend.handles import Cursor, ReadTxn, WriteTxn
from raftkv.backend.schema import (
    REVISION_BYTES,
    Meta,
    pack_revision,
    pack_u64,
    short_key,
    unpack_revision,
    unpack_u64,
)
from raftkv.mvcc.frames import DELETE_TYPE, event_key
from raftkv.mvcc.records import LAST_SUB
from raftkv.mvcc.userkeys import delete_record, get_record

if TYPE_CHECKING:
    from raftkv.mvcc.store import Store

NEVER: Final = -1
"""The compact revision of a store that was never compacted (CMP-03)."""

SLICE_EVENTS: Final = 1000
"""Events per step, like etcd's --compaction-batch-limit (CMP-05)."""
SLICE_BYTES: Final = 4 << 20
"""Bytes of events per step, besides the one that crosses the line."""


class Compaction:
    """The compaction of one store. There is at most one under way; a later one extends it."""

    __slots__ = ("_position", "_store", "finished", "removed", "scheduled")

    def __init__(self, store: Store) -> None:
        self._store = store
        self.scheduled = NEVER
        """The compact revision: what is older cannot be read. Never decreases."""
        self.finished = NEVER
        """Everything superseded up to here is physically gone. Invariant: finished <= scheduled."""
        self._position = pack_revision(0, 0)
        """Where the next slice begins, a key of `events`."""
        self.removed = 0
        """Events removed since start, for metrics."""

    @property
    def pending(self) -> bool:
        return self.finished != self.scheduled

    def load(self, txn: ReadTxn) -> None:
        meta = self._store.tables.meta
        scheduled = txn.get(Meta.COMPACT_SCHEDULED, None, meta)
        finished = txn.get(Meta.COMPACT_FINISHED, None, meta)
        position = txn.get(Meta.COMPACT_POSITION, None, meta)
        self.scheduled = NEVER if scheduled is None else unpack_u64(scheduled)
        self.finished = NEVER if finished is None else unpack_u64(finished)
        self._position = pack_revision(*unpack_revision(position)) if position else pack_revision(0, 0)

    def schedule(self, txn: WriteTxn, revision: int) -> None:
        """The logical part; the caller has checked `revision` against CMP-02."""
        # Tombstones exactly at the earlier compact revision were spared; they are below the new one.
        self._move(txn, min(self._position, pack_revision(max(self.scheduled, 0), 0)))
        txn.put(Meta.COMPACT_SCHEDULED, pack_u64(revision), True, True, False, self._store.tables.meta)
        self.scheduled = revision

    def step(self, txn: WriteTxn, max_events: int = SLICE_EVENTS) -> bool:
        """Does one slice in the open write transaction. True: nothing is left, `finished` = `scheduled`.

        No Writer may be open in `txn`.
        """
        if not self.pending:
            return True
        store = self._store
        tables = store.tables
        end = pack_revision(self.scheduled, LAST_SUB)
        tombstones_below = pack_revision(self.scheduled, 0)
        cursor, history = txn.cursor(tables.events), txn.cursor(tables.history)
        bytes_left = SLICE_BYTES
        done = True
        found = cursor.set_range(self._position)
        while found:
            revision, event = cursor.item()
            if revision > end:
                break
            if max_events <= 0 or bytes_left <= 0:
                done = False
                self._move(txn, revision)
                break
            max_events -= 1
            bytes_left -= len(event)
            self._supersede(txn, history, revision, event, gone=revision < tombstones_below)
            found = cursor.set_range(revision + b"\x00")
        if done:
            self._move(txn, end)
            txn.put(Meta.COMPACT_FINISHED, pack_u64(self.scheduled), True, True, False, tables.meta)
            self.finished = self.scheduled
        store.blocks.flush(txn)
        return done

    def _move(self, txn: WriteTxn, position: bytes) -> None:
        self._position = position
        txn.put(Meta.COMPACT_POSITION, position, True, True, False, self._store.tables.meta)

    def _supersede(self, txn: WriteTxn, history: Cursor, revision: bytes, event: bytes, *, gone: bool) -> None:
        """Removes what the event at `revision` makes superfluous: older revisions of its key, perhaps itself.

        `gone`: a tombstone is old enough to go.
        """
        tables = self._store.tables
        key = event_key(event)
        short = short_key(key)
        # Bounded: the event of this key before this one has already removed all but one of them.
        while history.set_key(short) and history.value() < revision:
            txn.delete(history.value(), b"", tables.events)
            history.delete()
            self.removed += 1
        if not (gone and event[0] == DELETE_TYPE):
            return
        record = get_record(txn, tables, key)
        if record is not None and record[:REVISION_BYTES] == revision:
            delete_record(txn, tables, key)
            self._store.blocks.change(key, 0, -1)
        else:
            txn.delete(short, revision, tables.history)
        txn.delete(revision, b"", tables.events)
        self.removed += 1
