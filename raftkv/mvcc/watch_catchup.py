"""Walks through history, for watchers that do not stand at the newest revision.

A walk is a position in the `events` table with all the watchers it serves, so that a thousand watchers that
ask for the same past cost one pass over it. Walks take turns in bounded slices: one from revision 1 does not
hold up another that is nearly done. A walk that is close behind another catches up with it, stops where it
stands, and the two become one; nobody is ever taken back.

Owns where each walk stands, and how much one slice may do. Knows nothing of live watchers or of sinks that
refuse; it reports what happened and the hub decides. Reads with the transaction it is handed, and keeps none
(PY-32).
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, Protocol

from raftkv.backend.handles import Db, ReadTxn
from raftkv.backend.schema import pack_revision
from raftkv.mvcc.watch_events import SharedEvent, is_creation, locate_key
from raftkv.mvcc.watch_roster import Group, Roster, Watcher

SLICE_REVISIONS: Final = 1000
"""Most revisions in one slice, and so in one response (W-57). Also how far ahead of a walk a watcher may be
and still enter it at once."""
SLICE_BYTES: Final = 1 << 20
"""A slice reads no further revision once it has read so many bytes. A revision is never cut (W-55), so what
one slice holds in memory is this much plus one revision."""
MAX_WALKS: Final = 16
"""Walks under way at once. Watchers that would need one more wait until one ends, then start together as one
walk from the oldest revision any of them needs: each wait is finite, and any number of far-apart watchers
costs a few walks."""


class History(Protocol):
    """What the Store tells about the past."""

    @property
    def current_revision(self) -> int: ...

    @property
    def compacted_revision(self) -> int:
        """-1 when never compacted (CMP-03)."""
        ...

    def frame_at(self, txn: ReadTxn, key: bytes, revision: int) -> bytes | None:
        """`12 len KeyValue` of the key as it was at `revision`, which is not below the compacted one; None if
        absent."""
        ...


class Walk:
    __slots__ = ("position", "roster")

    def __init__(self, position: int) -> None:
        self.position = position
        """Every revision below has been offered to all members; the walk goes on from here."""
        self.roster = Roster()


class Slice(NamedTuple):
    """What one step of a walk found."""

    hits: dict[Group, list[SharedEvent]]
    next_position: int
    scanned: int
    """Events read; what the budget counts."""


class Catchup:
    """All walks under way, and the watchers that wait for one."""

    __slots__ = ("_events", "_history", "_waiting", "_walks")

    def __init__(self, history: History, events: Db) -> None:
        self._history = history
        self._events = events
        self._walks: deque[Walk] = deque()
        """In the order of their turns. At most MAX_WALKS."""
        self._waiting: dict[Watcher, None] = {}
        """Watchers that found MAX_WALKS under way, until one of these ends. At most all watchers."""

    def __bool__(self) -> bool:
        return bool(self._walks)

    def rebind(self, events: Db) -> None:
        """The environment was reopened: from now on read this handle."""
        self._events = events

    def oldest_position(self) -> int | None:
        return min((walk.position for walk in self._walks), default=None)

    def admit(self, watcher: Watcher) -> None:
        """Have the watcher served from its `next_revision` on: by a walk a little below it, or a new one, or
        later."""
        wanted = watcher.next_revision
        for walk in self._walks:
            if walk.position <= wanted <= walk.position + SLICE_REVISIONS:
                walk.roster.add(watcher)
                return
        if len(self._walks) < MAX_WALKS:
            self._start(wanted).roster.add(watcher)
        else:
            self._waiting[watcher] = None

    def discard(self, watcher: Watcher) -> None:
        """Forget a watcher that stands in no roster, if it waits here."""
        self._waiting.pop(watcher, None)

    def next_walk(self) -> Walk | None:
        """The walk whose turn it is. It stays at the head until `put_back` or `retire`."""
        while self._walks and not self._walks[0].roster:
            self.retire()
        return self._walks[0] if self._walks else None

    def put_back(self) -> None:
        """The head has had its turn. If it now stands where another walk does, the two become one. If it is
        close behind one, it goes on at once: walks take turns at one speed, so they would never meet."""
        walk = self._walks.popleft()
        close_behind = False
        for other in self._walks:
            ahead = other.position - walk.position
            if ahead == 0:
                move_all(walk.roster, other.roster)
                return
            close_behind = close_behind or 0 < ahead <= SLICE_REVISIONS
        if close_behind:
            self._walks.appendleft(walk)
        else:
            self._walks.append(walk)

    def retire(self) -> None:
        """The head has nothing left to do."""
        self._walks.popleft()
        self._start_waiting()

    def overtaken(self, walk: Walk) -> list[Watcher]:
        """Take out of the walk who needs what has been compacted (W-40, W-41); the walk goes on behind the
        gap."""
        compacted = self._history.compacted_revision
        if walk.position >= compacted:
            return []
        lost = [watcher for watcher in walk.roster if watcher.next_revision < compacted]
        for watcher in lost:
            walk.roster.remove(watcher)
        walk.position = compacted
        return lost

    def read_slice(self, txn: ReadTxn, walk: Walk, newest: int, budget: int) -> Slice:
        """Events from the walk's position up to `newest`, as far as one slice goes, for the groups that want
        them."""
        ahead = [other.position for other in self._walks if other.position > walk.position]
        beyond = min([*ahead, newest + 1])
        hits: dict[Group, list[SharedEvent]] = {}
        match = walk.roster.match
        revisions = scanned = size_bytes = reading = 0
        with txn.cursor(self._events) as cursor:
            if not cursor.set_range(pack_revision(walk.position, 0)):
                return Slice(hits, beyond, scanned)
            for revision_key, event in cursor.iternext():
                revision = int.from_bytes(revision_key[:8], "big")
                if revision != reading:
                    if revision >= beyond:
                        break
                    if revisions == SLICE_REVISIONS or size_bytes >= SLICE_BYTES or scanned >= budget:
                        return Slice(hits, revision, scanned)
                    reading = revision
                    revisions += 1
                scanned += 1
                size_bytes += len(event)
                begin, end = locate_key(event)
                key = event[begin:end]
                groups = match(key)
                if groups:
                    shared = SharedEvent(revision, event, None)
                    if any(group.wants_prev for group in groups):
                        shared.prev_frame = self._prev_frame(txn, key, revision, is_creation(event, end))
                        size_bytes += len(shared.prev_frame or b"")
                    for group in groups:
                        hits.setdefault(group, []).append(shared)
        return Slice(hits, beyond, scanned)

    def _prev_frame(self, txn: ReadTxn, key: bytes, revision: int, created: bool) -> bytes | None:
        """The key's value one revision earlier; None for a creation, and when that revision is compacted
        (W-53)."""
        if created or revision - 1 < self._history.compacted_revision:
            return None
        return self._history.frame_at(txn, key, revision - 1)

    def _start(self, position: int) -> Walk:
        walk = Walk(position)
        self._walks.append(walk)
        return walk

    def _start_waiting(self) -> None:
        """A place is free: all who wait become one walk, from the oldest revision any of them needs."""
        if not self._waiting:
            return
        walk = self._start(min(watcher.next_revision for watcher in self._waiting))
        for watcher in self._waiting:
            walk.roster.add(watcher)
        self._waiting = {}


def move_all(source: Roster, target: Roster) -> None:
    """Move every watcher of one roster to another."""
    for watcher in list(source):
        source.remove(watcher)
        target.add(watcher)
