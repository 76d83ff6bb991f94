"""The watch hub: every watcher of this member, and what each still has to see.

A watcher is *synced*, and gets each revision from `publish` the moment it is applied; or it has history to
read, and a walk brings it up to date (watch_catchup); or its sink is full, and it is parked until
`sink_ready`. Publishing never waits for anybody: who cannot take a revision now is behind, and reads it from
the `events` table later (W-91). So a slow watcher costs no memory but its own record (W-92), and no event is
lost or sent twice (W-54).

Owns the moves between these three states. Does no I/O, reads no clock, and knows nothing of requests, ids and
replies: that is the sink's side (api.watch). Everything runs on the loop, each call to completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from raftkv.backend.handles import ReadTxn
from raftkv.backend.schema import Tables
from raftkv.mvcc.errors import MvccError
from raftkv.mvcc.watch_catchup import Catchup, History, Walk, move_all
from raftkv.mvcc.watch_events import (
    NODELETE,
    NOPUT,
    WITH_PREV,
    EventBatch,
    RevisionEvents,
    SharedEvent,
    StoredEvent,
)
from raftkv.mvcc.watch_index import WatchRangeEmptyError, watch_interval
from raftkv.mvcc.watch_roster import Fanout, Group, Roster, Sink, Stream, Watcher, fan_out

__all__ = [
    "EventBatch",
    "History",
    "RevisionEvents",
    "Sink",
    "StoredEvent",
    "WatchHub",
    "WatchRangeEmptyError",
    "WatchStartError",
    "WatchStatistics",
    "Watcher",
]

_FILTER_BITS: Final = {0: NOPUT, 1: NODELETE}
"""WatchCreateRequest.FilterType -> variant bit. Numbers not listed are ignored (W-14)."""


class WatchStartError(MvccError):
    """start_revision < 0 (W-22)."""


class WatchStatistics(NamedTuple):
    streams: int
    watchers: int
    slow: int
    """Watchers that are not synced, whatever keeps them (W-93)."""
    events_sent: int
    """Events taken by sinks since the hub was made, counted once per watcher."""
    backlog_revisions: int
    """How far the last of the walks is behind. Parked watchers do not count: they wait for their own
    reader."""


class WatchHub:
    """See the module. `history` is the Store; `tables.events` is read by `catch_up`."""

    def __init__(self, history: History, tables: Tables) -> None:
        self._history = history
        self._catchup = Catchup(history, tables.events)
        self._live = Roster()
        self._streams: dict[Sink, Stream] = {}
        self._watchers = 0
        self._events_sent = 0
        self._revision = history.current_revision

    @property
    def revision(self) -> int:
        """The newest revision published, or found at start. Synced watchers have been offered everything up
        to here."""
        return self._revision

    def statistics(self) -> WatchStatistics:
        oldest = self._catchup.oldest_position()
        return WatchStatistics(
            streams=len(self._streams),
            watchers=self._watchers,
            slow=self._watchers - len(self._live),
            events_sent=self._events_sent,
            backlog_revisions=0 if oldest is None else self._revision + 1 - oldest,
        )

    # --- watchers come and go -------------------------------------------------------------------------------

    def watch(
        self,
        sink: Sink,
        watch_id: int,
        key: bytes,
        range_end: bytes,
        start_revision: int = 0,
        filters: Iterable[int] = (),
        prev_kv: bool = False,
    ) -> Watcher:
        """Register a watcher; nothing is delivered before this returns (W-08).

        `start_revision` 0 means the one after `revision` (W-09). One in the past is served by `catch_up`,
        which is also where one that has been compacted is cancelled (W-40). `filters` are FilterType numbers.
        Raises WatchStartError (W-22), then WatchRangeEmptyError (W-20).
        """
        if start_revision < 0:
            raise WatchStartError(f"start revision {start_revision}")
        interval = watch_interval(key, range_end)
        variant = WITH_PREV if prev_kv else 0
        for number in filters:
            variant |= _FILTER_BITS.get(number, 0)
        stream = self._streams.get(sink)
        if stream is None:
            stream = self._streams[sink] = Stream(sink)
        watcher = Watcher(stream, watch_id, interval, variant, start_revision, self._revision)
        stream.watchers[watcher] = None
        self._watchers += 1
        stream.unsynced += 1
        if watcher.next_revision > self._revision:
            self._sync(watcher)
        else:
            self._catchup.admit(watcher)
        return watcher

    def cancel(self, watcher: Watcher) -> None:
        """Deregister; nothing is delivered to it any more (W-30). One that is already gone may be cancelled
        again: a compaction may have come first."""
        stream = watcher.stream
        if watcher in stream.watchers:
            self._deregister(watcher)
            if not stream.watchers and not stream.blocked:
                del self._streams[stream.sink]

    def sink_closed(self, sink: Sink) -> None:
        """The stream is over: all its watchers go at once (PY-04)."""
        stream = self._streams.pop(sink, None)
        if stream is not None:
            for watcher in list(stream.watchers):
                self._deregister(watcher)

    def sink_ready(self, sink: Sink) -> None:
        """The sink has room again. What it refused follows with the next `catch_up`."""
        stream = self._streams.get(sink)
        if stream is None or not stream.blocked:
            return
        stream.blocked = False
        parked, stream.parked = stream.parked, {}
        for watcher in parked:
            self._catchup.admit(watcher)
        if not stream.watchers:
            del self._streams[sink]

    # --- events ---------------------------------------------------------------------------------------------

    def publish(self, batch: Sequence[RevisionEvents]) -> None:
        """Offer what an apply batch changed to all synced watchers: one delivery per watcher and revision
        (W-55, W-56).

        Called after the batch is applied (W-61), so that who refuses finds it in the `events` table.
        """
        if not batch:
            return
        assert batch[0][0] > self._revision, "a revision is published once"
        if self._live:
            for revision, events in batch:
                self._publish_revision(revision, events)
        self._revision = batch[-1][0]

    def _publish_revision(self, revision: int, events: Sequence[StoredEvent]) -> None:
        match = self._live.match
        hits: dict[Group, list[SharedEvent]] = {}
        for stored in events:
            groups = match(stored[0])
            if groups:
                shared = SharedEvent(revision, stored[1], stored[2])
                for group in groups:
                    if group in hits:
                        hits[group].append(shared)
                    else:
                        hits[group] = [shared]
        if hits:
            self._settle(fan_out(revision, hits))

    def catch_up(self, txn: ReadTxn, budget: int) -> bool:
        """Serve watchers that have history to read, reading about `budget` events (more only to finish a
        revision).

        `txn` sees at least everything published; nothing of it is kept. True: there is more to do now. False:
        nothing, until a watcher comes, a sink becomes ready, or one falls behind.
        """
        catchup = self._catchup
        while budget > 0:
            walk = catchup.next_walk()
            if walk is None:
                return False
            for watcher in catchup.overtaken(walk):
                self._cancel_overtaken(watcher)
            if walk.roster:
                budget -= self._step(txn, walk, budget)
        return bool(catchup)

    def _step(self, txn: ReadTxn, walk: Walk, budget: int) -> int:
        """One slice of one walk; the number of events read."""
        part = self._catchup.read_slice(txn, walk, self._revision, budget)
        self._settle(fan_out(self._revision, part.hits))
        walk.position = part.next_position
        if walk.position > self._revision:
            for watcher in walk.roster:
                watcher.synced = True
                watcher.stream.unsynced -= 1
            move_all(walk.roster, self._live)
            self._catchup.retire()
        else:
            self._catchup.put_back()
        return part.scanned

    def _settle(self, outcome: Fanout) -> None:
        """Park who was not served: from the revision it refused, it reads history when its sink has room
        (W-91)."""
        self._events_sent += outcome.events_sent
        for watcher, revision in outcome.refused:
            assert watcher.roster is not None
            watcher.roster.remove(watcher)
            watcher.next_revision = revision
            if watcher.synced:
                watcher.synced = False
                watcher.stream.unsynced += 1
            watcher.stream.parked[watcher] = None

    # --- progress -------------------------------------------------------------------------------------------

    def synced(self, sink: Sink) -> int | None:
        """The revision up to which every watcher of the stream has been served, for a progress response
        (W-70); None when one has not, or there is none (W-71). Queue the response behind what was delivered
        (W-72)."""
        stream = self._streams.get(sink)
        if stream is None or not stream.watchers or stream.unsynced:
            return None
        if any(watcher.start_revision > self._revision for watcher in stream.watchers):
            return None
        return self._revision

    def watcher_synced(self, watcher: Watcher) -> int | None:
        """The same for one watcher (W-73, W-74)."""
        return self._revision if watcher.synced and watcher.start_revision <= self._revision else None

    # --- the store changes under the hub --------------------------------------------------------------------

    def rebind(self, tables: Tables) -> None:
        """The environment was reopened (Defragment): its old handles are dead."""
        self._catchup.rebind(tables.events)

    def resync_all(self, tables: Tables) -> None:
        """A snapshot was installed and the Store loaded from it: nothing was published for the revisions it
        skipped. Every watcher reads on from what it needs next (W-60); if that is compacted, it is cancelled
        (W-41)."""
        self.rebind(tables)
        published, self._revision = self._revision, self._history.current_revision
        assert self._revision >= published, "a snapshot never takes a member back"
        for watcher in list(self._live):
            wanted = max(watcher.next_revision, published + 1)
            if wanted <= self._revision:
                self._live.remove(watcher)
                watcher.next_revision = wanted
                watcher.synced = False
                watcher.stream.unsynced += 1
                self._catchup.admit(watcher)

    # --- moves ----------------------------------------------------------------------------------------------

    def _sync(self, watcher: Watcher) -> None:
        watcher.synced = True
        watcher.stream.unsynced -= 1
        self._live.add(watcher)

    def _deregister(self, watcher: Watcher) -> None:
        stream = watcher.stream
        del stream.watchers[watcher]
        self._watchers -= 1
        if not watcher.synced:
            stream.unsynced -= 1
        watcher.synced = False
        if watcher.roster is not None:
            watcher.roster.remove(watcher)
        else:
            stream.parked.pop(watcher, None)
            self._catchup.discard(watcher)

    def _cancel_overtaken(self, watcher: Watcher) -> None:
        sink = watcher.stream.sink
        self.cancel(watcher)
        sink.cancelled(watcher, self._history.compacted_revision)
