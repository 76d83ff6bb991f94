"""A Range in bounded slices, on one snapshot.

A scan runs through phases: *collect* walks the interval until it has what the query needs; if it may stop
early (limit), what is left is only *counted* (RNG-07): from the block counters, the walked edges of the
interval, and for a revision in the past the events since, each of which says how it changed the number of
live keys.

Between two steps a scan holds no cursor, only a key to go on from, so `txn` may be exchanged for another
transaction on the same snapshot: begin on the shared read transaction, and pin a snapshot only if the first
step was not enough. No clock here: a slice is bounded in keys and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from raftkv.backend.handles import ReadTxn
from raftkv.backend.schema import CURRENT_HEADER, pack_revision
from raftkv.mvcc.frames import frame as encode_frame
from raftkv.mvcc.frames import live_change, parse_event
from raftkv.mvcc.ordering import Backwards, Ordering, SortedRuns
from raftkv.mvcc.query import Fields, RangeQuery
from raftkv.mvcc.records import HEADER_BYTES, newer_than, older_frame
from raftkv.mvcc.userkeys import walk
from raftkv.pb.splice import varint

if TYPE_CHECKING:
    from raftkv.mvcc.store import Store

SLICE_KEYS: Final = 2000
"""Keys or events per step: 1 to 4 ms."""
SLICE_BYTES: Final = 1 << 20
"""Bytes of frames or events per step, besides the one that crosses the line."""
FEW_EVENTS: Final = 512
"""Revisions since the read revision that are always fewer than it takes to find out."""

_MORE: Final = b"\x18\x01"
_COUNT_TAG: Final = b"\x20"


class RangeResult(NamedTuple):
    """The answer of a Range, ready to follow the encoded header in a RangeResponse."""

    body: bytes
    """Fields 2 (kvs), 3 (more) and 4 (count) of RangeResponse, encoded."""
    total: int
    """The field count (RNG-07)."""
    returned: int
    """How many kvs are in the body."""
    more: bool
    revision: int
    """Current when the read ran: header.revision (G-13)."""


class RangeScan:
    """One run of a query. Raises CompactedError or FutureRevisionError when it is made (RNG-04)."""

    __slots__ = (
        "_by_counters",
        "_count",
        "_edges",
        "_frames",
        "_joined",
        "_joined_count",
        "_newest",
        "_order",
        "_phases",
        "_planned",
        "_resume",
        "_resume_event",
        "_revision",
        "_store",
        "held_bytes",
        "query",
        "txn",
    )

    def __init__(self, store: Store, txn: ReadTxn, query: RangeQuery, newest: int) -> None:
        """`newest` is the main revision of the newest write visible in `txn`, committed or not."""
        store.check_readable(query.revision)
        self._store = store
        self.txn = txn
        """May be exchanged between steps for another transaction on the same snapshot."""
        self.query = query
        self._newest = newest
        self._revision = query.revision or newest
        self._count = 0
        self._resume = query.key
        """Where the walk of the phase under way goes on."""
        self._resume_event = pack_revision(self._revision + 1, 0)
        self._frames: list[bytes] = []
        """Of the slice under way, if the order is that of the walk."""
        self._joined: list[bytes] = []
        """The frames of each earlier slice."""
        self._joined_count = 0
        """How many frames are in `_joined`."""
        self.held_bytes = 0
        """What is found so far takes in memory."""
        self._order: Ordering | None = None
        """What is found so far, if the order is not that of the walk."""
        self._edges: list[tuple[bytes, bytes | None]] = []
        """Intervals whose live keys are still to be counted, the next at the end."""
        self._by_counters = False
        """Whether counting starts from the block counters, hence from the newest state; else it walks what is
        left."""
        self._planned = 0
        """What the block counters say about the interval without its edges."""
        self._phases: list[Callable[[RangeScan], bool]] = []
        """What is left to do, the next at the end. A phase returns whether it is done."""
        if query.end is not None and query.end <= query.key:
            return
        if query.fetch or query.count_only:
            self._plan_count()
        if query.count_only:
            self._count = self._planned
        else:
            if not query.by_key:
                self._order = SortedRuns(query.descend, query.limit) if query.sort_key else Backwards(query.limit)
            self._phases.append(RangeScan._collect_plain if query.plain else RangeScan._collect_chosen)

    def step(self) -> bool:
        """Does one slice of work. True: the scan is done, `result` may be called."""
        phases = self._phases
        while phases:
            if not phases[-1](self):
                return False
            phases.pop()
        return True

    @property
    def is_done(self) -> bool:
        """`result` or `pieces` may be called."""
        return not self._phases

    @property
    def is_joined(self) -> bool:
        """Its pieces are there already, but for the last ones."""
        return self.query.by_key

    @property
    def expected_bytes(self) -> int:
        """What it may come to hold, judged by what it has found so far and by the number of keys ahead."""
        order = self._order
        found = self._joined_count + len(self._frames) if order is None else order.kept
        if self.is_done or not found:
            return self.held_bytes
        ahead = self._store.blocks.most(self._resume, self.query.end)
        most = self.query.fetch or (order.most if order is not None else 0)
        if most:
            ahead = min(ahead, most - found)
        return self.held_bytes + self.held_bytes * max(ahead, 0) // found

    def result(self) -> RangeResult:
        found, more = self._cut()
        frames = self._frames if self._order is None else self._order.frames()
        body = b"".join([*self._joined, *frames, *self._tail(more)])
        return RangeResult(body, self._count, found, more, self._newest)

    def pieces(self) -> Iterator[bytes]:
        """The body of `result` in pieces, for one that is too large to be copied at once. Can be had once."""
        _, more = self._cut()
        if self._order is None:
            joined = self._joined
            joined.reverse()  # what was handed over is let go, which costs nothing at the end of a list
            while joined:
                yield joined.pop()
            yield b"".join(self._frames)
        else:
            count = max(min(SLICE_KEYS, SLICE_BYTES * self._order.kept // max(self.held_bytes, 1)), 1)
            frames = self._order.frames()
            while piece := b"".join(islice(frames, count)):
                yield piece
        yield b"".join(self._tail(more))

    def _cut(self) -> tuple[int, bool]:
        """To the limit: how many are returned, and whether there are more."""
        limit = self.query.limit
        found = self._joined_count + len(self._frames) if self._order is None else self._order.found
        if not 0 < limit < found:
            return found, False
        if self._order is None:
            del self._frames[limit - self._joined_count :]
        return limit, True

    def _tail(self, more: bool) -> list[bytes]:
        return ([_MORE] if more else []) + ([_COUNT_TAG + varint(self._count)] if self._count else [])

    # --- fetching ---

    def _collect_plain(self) -> bool:
        """Takes the stored frames as they are, in key order."""
        query = self.query
        frames = self._frames
        stop = query.fetch - self._joined_count
        newer = newer_than(self._revision)
        keys_left, bytes_left = SLICE_KEYS, SLICE_BYTES
        for key, record in walk(self.txn, self._store.tables, self._resume, query.end):
            frame = self._older(key) if record >= newer else record[HEADER_BYTES:]
            if frame:
                frames.append(frame)
                bytes_left -= len(frame)
                if len(frames) == stop:
                    self.held_bytes += SLICE_BYTES - bytes_left
                    return self._stop_early(key, query.fetch)
            keys_left -= 1
            if keys_left == 0 or bytes_left <= 0:
                self._resume = key + b"\x00"
                self.held_bytes += SLICE_BYTES - bytes_left
                self._join()
                return False
        self.held_bytes += SLICE_BYTES - bytes_left
        return self._walked_all(self._joined_count + len(frames))

    def _join(self) -> None:
        """The frames of this slice are in their final order: as one they take less, and need no copying later."""
        if self._frames:
            self._joined.append(b"".join(self._frames))
            self._joined_count += len(self._frames)
            self._frames.clear()

    def _collect_chosen(self) -> bool:
        """Takes what the filters admit, in whatever order; values are blanked that only the sort needs (RNG-09)."""
        query, order = self.query, self._order
        filters, sort_key = query.filters, query.sort_key
        newer = newer_than(self._revision)
        keys_left, bytes_left = SLICE_KEYS, SLICE_BYTES
        seen, found = 0, self._joined_count if order is None else order.found
        for key, record in walk(self.txn, self._store.tables, self._resume, query.end):
            frame = self._older(key) if record >= newer else record[HEADER_BYTES:]
            keys_left -= 1
            if frame:
                seen += 1
                bytes_left -= len(frame)
                fields, lease = self._fields(key, record, frame, record >= newer)
                if filters is None or filters.admit(fields):
                    if query.keys_only:
                        frame = encode_frame(key, fields.create, fields.mod, fields.version, b"", lease)
                    if order is None:
                        self._frames.append(frame)
                    else:
                        order.add(0 if sort_key is None else sort_key(fields), frame)
                    found += 1
                    if found == query.fetch:
                        self._end_slice()
                        return self._stop_early(key, self._count + seen)
            if keys_left <= 0 or bytes_left <= 0:
                self._count += seen
                self._resume = key + b"\x00"
                self._end_slice()
                if order is None:
                    self._join()
                return False
        self._end_slice()
        return self._walked_all(self._count + seen)

    def _end_slice(self) -> None:
        if self._order is None:
            self.held_bytes += sum(map(len, self._frames))
        else:
            self._order.end_run()
            self.held_bytes = self._order.held_bytes

    def _fields(self, key: bytes, record: bytes, frame: bytes, is_older: bool) -> tuple[Fields, int]:
        if is_older or self.query.wants_value:
            state = parse_event(frame)
            return Fields(key, state.create, state.mod, state.version, state.value), state.lease
        mod, _, create, version, lease = CURRENT_HEADER.unpack_from(record)
        return Fields(key, create, mod, version, b""), lease

    def _older(self, key: bytes) -> bytes | None:
        return older_frame(self.txn, self._store.tables, key, self._revision)

    def _walked_all(self, count: int) -> bool:
        """The interval was walked to its end: nothing is left to be counted."""
        self._count = count
        del self._phases[:-1]
        return True

    def _stop_early(self, key: bytes, seen: int) -> bool:
        """There is enough after `key`, the live key number `seen`; the rest is only counted."""
        if self._by_counters:
            self._count = self._planned
        else:
            self._count = seen
            self._edges = [(key + b"\x00", self.query.end)]
        return True

    # --- counting ---

    def _plan_count(self) -> None:
        """Decides how to count what is not fetched. The counters are those of this moment, hence not left for
        later."""
        query = self.query
        whole, edges = self._store.blocks.plan(query.key, query.end)
        since = self._newest - self._revision
        self._by_counters = since <= max(FEW_EVENTS, whole)
        if self._by_counters:
            self._planned = whole
            self._edges = edges
            if since:
                self._phases.append(RangeScan._count_events)
        else:
            self._edges = [(query.key, query.end)]
        self._phases.append(RangeScan._count_edges)

    def _count_edges(self) -> bool:
        tables = self._store.tables
        newer = newer_than(self._newest if self._by_counters else self._revision)
        keys_left, bytes_left = SLICE_KEYS, SLICE_BYTES
        while self._edges:
            start, end = self._edges.pop()
            count = 0
            for key, record in walk(self.txn, tables, start, end):
                if len(record) > HEADER_BYTES if record < newer else self._older(key):
                    count += 1
                keys_left -= 1
                bytes_left -= len(record)
                if keys_left <= 0 or bytes_left <= 0:
                    self._count += count
                    self._edges.append((key + b"\x00", end))
                    return False
            self._count += count
        return True

    def _count_events(self) -> bool:
        """Takes back what the events after the read revision did to the number of live keys of the
        interval."""
        start, end = self.query.key, self.query.end
        events_left, bytes_left = SLICE_KEYS, SLICE_BYTES
        cursor = self.txn.cursor(self._store.tables.events)
        if not cursor.set_range(self._resume_event):
            return True
        for revision, event in cursor.iternext():
            key, change = live_change(event)
            if key >= start and (end is None or key < end):
                self._count -= change
            events_left -= 1
            bytes_left -= len(event)
            if events_left <= 0 or bytes_left <= 0:
                self._resume_event = revision + b"\x00"
                return False
        return True
