"""A range in key order, read piece by piece at one revision, for a reader whose pace is not ours.

Nothing is held between two pieces but a revision and a key: a snapshot would keep freed pages from being used again for
as long as the reader likes (PY-32). Each piece is read from the newest state, as it was at that revision. So a
compaction may overtake the reader, as it may overtake one who pages with limits (RNG-19).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.backend.schema import CURRENT_HEADER
from raftkv.mvcc.frames import frame as encode_frame
from raftkv.mvcc.frames import parse_event
from raftkv.mvcc.query import RangeQuery
from raftkv.mvcc.records import HEADER_BYTES, newer_than, older_frame
from raftkv.mvcc.scan import SLICE_BYTES, SLICE_KEYS
from raftkv.mvcc.userkeys import walk

if TYPE_CHECKING:
    from raftkv.backend.handles import ReadTxn
    from raftkv.mvcc.store import Store


class RangePages:
    """One run of a query that is by ascending key and has no filters. `next` until `done`.

    Raises CompactedError or FutureRevisionError when it is made (RNG-04).
    """

    __slots__ = ("_limit", "_query", "_resume", "_store", "done", "returned", "revision")

    def __init__(self, store: Store, query: RangeQuery) -> None:
        assert query.by_key, "pieces are in key order"
        assert query.filters is None, "pieces leave nothing out"
        store.check_readable(query.revision)
        self._store = store
        self._query = query
        self._resume = query.key
        self._limit = query.limit or 1 << 63
        self.revision = query.revision or store.current_revision
        """What all pieces are read at."""
        self.returned = 0
        """Keys in the pieces so far."""
        self.done = query.end is not None and query.end <= query.key
        """Nothing is left to be returned."""

    @property
    def is_cut(self) -> bool:
        """Done because of the limit: keys may be left in the interval. `rest` asks for their number."""
        return self.returned == self._limit

    def rest(self) -> RangeQuery:
        """The count of what follows the last key returned, at the same revision (RNG-07, RNG-12)."""
        end = b"\x00" if self._query.end is None else self._query.end
        return RangeQuery(self._resume, end, revision=self.revision, count_only=True)

    def next(self, txn: ReadTxn) -> bytes:
        """The next kvs as fields of RangeResponse, encoded; may be empty. `txn`: the newest state.

        Bounded as a slice of RangeScan is. Raises CompactedError.
        """
        self._store.check_readable(self.revision)
        tables = self._store.tables
        newer = newer_than(self.revision)
        keys_left, bytes_left = SLICE_KEYS, SLICE_BYTES
        frames: list[bytes] = []
        for key, record in walk(txn, tables, self._resume, self._query.end):
            is_older = record >= newer
            frame = older_frame(txn, tables, key, self.revision) if is_older else record[HEADER_BYTES:]
            keys_left -= 1
            if frame:
                frames.append(self._blanked(key, record, frame, is_older) if self._query.keys_only else frame)
                bytes_left -= len(frame)
            if self.returned + len(frames) == self._limit or keys_left == 0 or bytes_left <= 0:
                self._resume = key + b"\x00"
                break
        else:
            self.done = True
        self.returned += len(frames)
        self.done = self.done or self.is_cut
        return b"".join(frames)

    @staticmethod
    def _blanked(key: bytes, record: bytes, frame: bytes, is_older: bool) -> bytes:
        """RNG-09."""
        if is_older:
            state = parse_event(frame)
            return encode_frame(key, state.create, state.mod, state.version, b"", state.lease)
        mod, _, create, version, lease = CURRENT_HEADER.unpack_from(record)
        return encode_frame(key, create, mod, version, b"", lease)
