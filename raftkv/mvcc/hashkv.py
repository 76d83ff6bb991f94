"""HashKV: one number for all revisions a store still has, equal on all members and equal to etcd's own.

CRC-32 Castagnoli over "key" and then, in revision order, revision key and serialized KeyValue of

every revision r with compact revision < r <= the hashed revision, tombstones included, and of the revisions
up to the compact revision those that are still the state of their key at the hashed revision

(MT-22, MT-23; etcd hashes what `Keep` of the hashed revision names). What compaction has yet to remove is
thereby left out, and so the hash does not depend on how far it got (MT-21). One corner: when no key is alive
at the hashed revision, etcd's filter is off and it hashes everything up to the compact revision that a
finished compaction leaves, except tombstones exactly there. Both sums are carried along and the choice is
made at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c

from raftkv.backend.handles import ReadTxn
from raftkv.backend.schema import REVISION_BYTES, pack_revision
from raftkv.mvcc.frames import DELETE_TYPE, event_key, stored_key_value
from raftkv.mvcc.records import LAST_SUB, newer_than, older_revision
from raftkv.mvcc.userkeys import get_record
from raftkv.pb.splice import varint

if TYPE_CHECKING:
    from raftkv.mvcc.store import Store

SLICE_EVENTS: Final = 2000
"""Events per step: about 3 ms."""
SLICE_BYTES: Final = 4 << 20
"""Bytes of events per step, besides the one that crosses the line."""

_BUCKET: Final = b"key"
"""etcd hashes the name of its bucket first."""


class HashResult(NamedTuple):
    """The fields of HashKVResponse (MT-24)."""

    hash: int
    compact_revision: int
    """-1: never compacted."""
    hash_revision: int
    revision: int
    """Current when the hash was asked for: header.revision."""


def etcd_revision(revision: bytes) -> bytes:
    """etcd's revision key without the tombstone mark: 8 bytes main, `_`, 8 bytes sub (MT-23)."""
    return revision[:8] + b"_\x00\x00\x00\x00" + revision[8:]


class HashScan:
    """One HashKV in slices, on one snapshot that `txn` may be exchanged for, as with RangeScan.

    Raises CompactedError, FutureRevisionError when it is made (MT-20).
    """

    __slots__ = (
        "_any_alive",
        "_compact",
        "_compact_end",
        "_crc",
        "_crc_if_dead",
        "_current",
        "_position",
        "_revision",
        "_store",
        "txn",
    )

    def __init__(self, store: Store, txn: ReadTxn, revision: int) -> None:
        store.check_readable(revision)
        self._store = store
        self.txn = txn
        self._current = store.current_revision
        self._revision = revision or self._current
        self._compact = store.compacted_revision
        self._compact_end = pack_revision(max(self._compact, 0), LAST_SUB)
        self._crc = self._crc_if_dead = google_crc32c.extend(0, _BUCKET)
        """`_crc_if_dead` is the sum that counts if no key is alive at the hashed revision; kept up until one
        is seen."""
        self._any_alive = self._revision == self._current and store.live_keys > 0
        self._position = pack_revision(0, 0)

    def step(self) -> bool:
        """Hashes one slice. True: done, `result` may be called."""
        if self._revision < 0:  # nothing is as old as that: etcd answers with the hash of nothing
            return True
        end = pack_revision(self._revision, LAST_SUB)
        events_left, bytes_left = SLICE_EVENTS, SLICE_BYTES
        cursor = self.txn.cursor(self._store.tables.events)
        if not cursor.set_range(self._position):
            return True
        for revision, event in cursor.iternext():
            if revision > end:
                return True
            if events_left <= 0 or bytes_left <= 0:
                self._position = revision
                return False
            events_left -= 1
            bytes_left -= len(event)
            if revision > self._compact_end:
                self._add_readable(revision, event)
            elif event[0] != DELETE_TYPE:
                self._add_compacted(revision, event)
        return True

    def result(self) -> HashResult:
        crc = self._crc if self._any_alive else self._crc_if_dead
        return HashResult(crc, self._compact, self._revision, self._current)

    def _add_readable(self, revision: bytes, event: bytes) -> None:
        if event[0] == DELETE_TYPE:
            key = event_key(event)
            hashed = etcd_revision(revision) + b"t\x0a" + varint(len(key)) + key
        else:
            hashed = etcd_revision(revision) + stored_key_value(event)
        self._crc = google_crc32c.extend(self._crc, hashed)
        if not self._any_alive:
            self._crc_if_dead = google_crc32c.extend(self._crc_if_dead, hashed)
            self._any_alive = event[0] != DELETE_TYPE and self._is_newest(event_key(event), revision, self._revision)

    def _add_compacted(self, revision: bytes, event: bytes) -> None:
        """A put at or below the compact revision."""
        key = event_key(event)
        hashed = etcd_revision(revision) + stored_key_value(event)
        if self._is_newest(key, revision, self._revision):
            self._crc = google_crc32c.extend(self._crc, hashed)
            self._any_alive = True
        elif not self._any_alive and self._is_newest(key, revision, self._compact):
            self._crc_if_dead = google_crc32c.extend(self._crc_if_dead, hashed)

    def _is_newest(self, key: bytes, revision: bytes, bound: int) -> bool:
        """Whether `revision` is the newest one of `key` up to the main revision `bound`."""
        tables = self._store.tables
        record = get_record(self.txn, tables, key)
        if record is None:
            return False
        if record < newer_than(bound):
            return record[:REVISION_BYTES] == revision
        return older_revision(self.txn.cursor(tables.history), key, bound) == revision
