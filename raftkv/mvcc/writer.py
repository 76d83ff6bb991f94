"""One apply batch's writes: the hot path of the store.

A Writer lives as long as one batch, in a transaction that may hold many. Per request: `begin`, any number of puts and
deletes, `end`; all its changes share one main revision and are told apart by their sub revision (KV-02, KV-03, TXN-54).
Reads through the Writer see what was written before them (TXN-41).

A change writes, in this order of tables: `current` (the new record), `history` (the superseded revision, if
there was one), `events` (appended). What the batch changed is left in `events` and `lease_moves` for the
watch hub and the lessor; `finish` ends the batch, and `Store.flush` must come before the commit.

If the transaction is aborted, the Store that handed out the Writer is ahead of the disk and must be loaded
again. Knows nothing of leases' existence (PUT-02) or permissions: apply has checked them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from raftkv.backend.handles import WriteTxn
from raftkv.backend.schema import CURRENT_HEADER, KEY_CHUNK, REVISION_BYTES, short_key
from raftkv.mvcc.errors import KeyNotFoundError
from raftkv.mvcc.frames import KeyState, delete_event, number, put_frame
from raftkv.mvcc.query import RangeQuery, interval
from raftkv.mvcc.records import HEADER_BYTES, newest_state, newest_states
from raftkv.mvcc.scan import RangeResult, RangeScan
from raftkv.mvcc.userkeys import get_record, put_record, walk

if TYPE_CHECKING:
    from raftkv.mvcc.store import Store

_pack_header = CURRENT_HEADER.pack
_unpack_header = CURRENT_HEADER.unpack_from

LARGE_BYTES: Final = 4096
"""A record longer than this has pages of its own. See `_let_go`."""


Change: TypeAlias = tuple[bytes, bytes, bytes | None, bool, bool]
"""One event, for the watch hub: (key, event, prev, is_create, is_delete).

`event` is the stored Event bytes: for a put the frame, for a delete `08 01` and a frame of key and
mod_revision. `prev` is the frame of the KeyValue before the change, None if there was none. A plain tuple:
one is made per put.
"""

LeaseMove: TypeAlias = tuple[bytes, int, int]
"""A key changed its lease: (key, old lease, new lease), 0 = none."""


class Writer:
    """The writes of one batch in `txn`. Made by `Store.writer`."""

    __slots__ = (
        "_append_event",
        "_blocks",
        "_changes",
        "_created",
        "_get",
        "_main",
        "_mod",
        "_put",
        "_put_history",
        "_store",
        "_sub",
        "_tables",
        "_txn",
        "deletes",
        "events",
        "lease_moves",
        "puts",
    )

    def __init__(self, store: Store, txn: WriteTxn) -> None:
        tables = store.tables
        self._store = store
        self._txn = txn
        self._tables = tables
        self._blocks = store.blocks
        current = txn.cursor(tables.current)
        self._get = current.get
        self._put = current.put
        self._put_history = txn.cursor(tables.history).put
        self._append_event = txn.cursor(tables.events).put
        self._main = store.current_revision + 1
        self._sub = 0
        self._created = self._mod = b""
        """Encoded KeyValue fields shared by the puts of one main revision: create, mod, version 1 for new
        keys; mod and the tag of version for others. Empty until the first put of a request."""
        self._changes: list[Change] = []
        self.events: list[tuple[int, list[Change]]] = []
        """(main revision, its changes in sub order), ascending. Bounded by the batch, which its caller
        bounds."""
        self.lease_moves: list[LeaseMove] = []
        """(key, old lease, new lease) where these differ, in order of execution. The caller empties it when
        read."""
        self.puts = 0
        self.deletes = 0

    def begin(self) -> None:
        """Starts a request: the next change gets main revision current + 1, sub revision 0."""
        self._main = self._store.current_revision + 1
        self._sub = 0
        self._mod = b""

    def end(self) -> int:
        """Ends the request. Returns the revision for its header: its own, or the current one if it changed
        nothing."""
        store = self._store
        if self._sub:
            store.current_revision = self._main
            self.events.append((self._main, self._changes))
            self._changes = []
        return store.current_revision

    @property
    def revision(self) -> int:
        """What a header says at this point of the request (TXN-51): current + 1 after the first change."""
        return self._main if self._sub else self._store.current_revision

    def put(self, key: bytes, value: bytes, lease: int = 0) -> bytes | None:
        """Stores `value`. Returns the frame of the KeyValue before, None if the key was not alive.

        Costs two LMDB puts for a new key, three for a known one.
        """
        is_short = len(key) <= KEY_CHUNK
        old = self._get(key) if is_short else get_record(self._txn, self._tables, key)
        main = self._main
        sub = self._sub
        if not self._mod:
            encoded = number(main)
            self._mod = b"\x18" + encoded + b"\x20"
            self._created = b"\x10" + encoded + self._mod + b"\x01"
        self._sub = sub + 1
        if old is not None and len(old) > HEADER_BYTES:
            mod, _, create, version, old_lease = _unpack_header(old)
            version += 1
            prev = old[HEADER_BYTES:]
            numbers = b"\x10" + number(create) + self._mod + number(version)
            frame = put_frame(key, numbers, value, lease)
        else:
            mod, create, version, old_lease, prev = 0, main, 1, 0, None
            frame = put_frame(key, self._created, value, lease)
            self._blocks.change(key, 1, old is None)
        header = _pack_header(main, sub, create, version, lease)
        if old is not None and len(old) > LARGE_BYTES and 2 * len(frame) < len(old):
            self._let_go(key)
        if is_short:
            self._put(key, header + frame)
        else:
            put_record(self._txn, self._tables, key, header + frame)
        if old is not None:
            self._put_history(key if is_short else short_key(key), old[:REVISION_BYTES])
        # The header begins with the revision, in the bytes of a key of `events`.
        is_new = self._append_event(header[:REVISION_BYTES], frame, True, True, True)
        assert is_new, "a revision is used twice: the store was not loaded after an abort"
        told = prev if prev is None or mod != main else self._prev_before(key)
        self._changes.append((key, frame, told, prev is None, False))
        if lease != old_lease:
            self.lease_moves.append((key, old_lease, lease))
        self.puts += 1
        return prev

    def put_with(self, key: bytes, value: bytes | None, lease: int | None) -> bytes | None:
        """Like `put`, but None keeps what the key has (PUT-03, PUT-07). Raises KeyNotFoundError if there is
        no key."""
        if value is None or lease is None:
            state = self.get(key)
            if state is None:
                raise KeyNotFoundError
            value = state.value if value is None else value
            lease = state.lease if lease is None else lease
        return self.put(key, value, lease)

    def delete_range(self, key: bytes, range_end: bytes = b"") -> list[bytes]:
        """Deletes the live keys of the interval in key order (DEL-01). Returns their frames; their count is
        its length.

        Nothing matched: no revision is used (DEL-02).
        """
        self._store.deletions += 1
        start, end = interval(key, range_end)
        if not range_end:
            record = self._get(key) if len(key) <= KEY_CHUNK else get_record(self._txn, self._tables, key)
            found = [(key, record)] if record is not None and len(record) > HEADER_BYTES else []
        else:
            entries = walk(self._txn, self._tables, start, end)
            found = [entry for entry in entries if len(entry[1]) > HEADER_BYTES]
        for user_key, record in found:
            self._delete(user_key, record)
        return [record[HEADER_BYTES:] for _, record in found]

    def _delete(self, key: bytes, old: bytes) -> None:
        main, sub = self._main, self._sub
        self._sub = sub + 1
        header = _pack_header(main, sub, 0, 0, 0)
        event = delete_event(key, main)
        if len(old) > LARGE_BYTES:
            self._let_go(key)
        if len(key) <= KEY_CHUNK:
            self._put(key, header)
            self._put_history(key, old[:REVISION_BYTES])
        else:
            put_record(self._txn, self._tables, key, header)
            self._put_history(short_key(key), old[:REVISION_BYTES])
        is_new = self._append_event(header[:REVISION_BYTES], event, True, True, True)
        assert is_new, "a revision is used twice: the store was not loaded after an abort"
        self._blocks.change(key, -1, 0)
        mod, _, _, _, old_lease = _unpack_header(old)
        self._changes.append((key, event, old[HEADER_BYTES:] if mod != main else self._prev_before(key), False, True))
        if old_lease:
            self.lease_moves.append((key, old_lease, 0))
        self.deletes += 1

    def _let_go(self, key: bytes) -> None:
        """Before a large record gives way to a small one: LMDB would put that into the same pages, if they are of the
        open transaction, and keep all of them. A long key is not worth the search for its node."""
        if len(key) <= KEY_CHUNK:
            self._txn.delete(key, b"", self._tables.current)

    def _prev_before(self, key: bytes) -> bytes | None:
        """The frame from before this revision, of a key that it has put: what a watcher calls previous (W-53)."""
        return next(prev for changed, _, prev, _, _ in self._changes if changed == key)

    def get(self, key: bytes) -> KeyState | None:
        """The key as it is now, with the changes of this request; None when it is not alive."""
        return newest_state(self._txn, self._tables, key)

    def states(self, key: bytes, range_end: bytes) -> Iterator[KeyState]:
        """The live keys of an interval, as they are now: what a compare with range_end looks at (TXN-33)."""
        return newest_states(self._txn, self._tables, *interval(key, range_end))

    def range(self, query: RangeQuery) -> RangeResult:
        """Reads at the request's own revision after its first change, else at current (TXN-41).

        Raises CompactedError, FutureRevisionError: an explicit revision may not name the one in the making
        (TXN-44).
        """
        self._store.ranges += 1
        scan = RangeScan(self._store, self._txn, query, self.revision)
        while not scan.step():
            pass
        return scan.result()

    def finish(self) -> None:
        """Ends the batch. What the store still holds back is written by `Store.flush`, before the commit."""
        if self._blocks.flush_due:
            self._blocks.flush(self._txn)
        store = self._store
        store.puts += self.puts
        store.deletes += self.deletes
        self.puts = self.deletes = 0
