"""Watchers, filed by what they want to see; and the delivery of events to all who want them.

Owns Watcher, Stream (all watchers of one sink) and Roster (watchers that stand at the same revision). Live
watchers are one Roster; each walk through history has its own. Knows no tables and decides no revisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from raftkv.mvcc.watch_events import WITH_PREV, EventBatch, SharedEvent, make_batch
from raftkv.mvcc.watch_index import Interval, RangeIndex


class Sink(Protocol):
    """Where the deliveries for one watch stream go. Both calls come from inside the hub: neither may call
    back into it, block, or raise."""

    def deliver(self, watcher: Watcher, batch: EventBatch) -> bool:
        """Queue one response. False: the sink's bounded queue is full and this batch was *not* taken.

        After a False nothing is delivered to this sink until `WatchHub.sink_ready`; then what was refused
        comes again, from history. An empty queue must take any batch, however large, or its watcher stands
        still for ever.
        """
        ...

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """What the watcher needs next has been compacted (W-40, W-41); it is already deregistered. Cannot be
        refused: there is at most one of these for each watcher, so the sink's queue stays bounded."""
        ...


class Stream:
    """All watchers of one sink."""

    __slots__ = ("blocked", "parked", "sink", "unsynced", "watchers")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.watchers: dict[Watcher, None] = {}
        self.blocked = False
        """The sink refused a delivery and has not been reported ready since."""
        self.parked: dict[Watcher, None] = {}
        """Watchers whose next delivery the sink must have room for first. Empty unless blocked."""
        self.unsynced = 0
        """How many of `watchers` have history to read before they are live again."""


class Watcher:
    """One watch. Made by `WatchHub.watch`; a handle for its owner, state for the hub."""

    __slots__ = (
        "interval",
        "next_revision",
        "roster",
        "start_revision",
        "stream",
        "synced",
        "variant",
        "watch_id",
    )

    def __init__(
        self,
        stream: Stream,
        watch_id: int,
        interval: Interval,
        variant: int,
        start_revision: int,
        newest: int,
    ) -> None:
        self.stream = stream
        self.watch_id = watch_id
        """The client's name for it; unique per sink, which is the sink's business (W-05, W-06)."""
        self.interval = interval
        self.variant = variant
        """NOPUT | NODELETE | WITH_PREV."""
        self.start_revision = start_revision
        """What the request said. 0: from the next one on (W-09). While it is in the future there is no
        progress to report (W-70)."""
        self.next_revision = start_revision or newest + 1
        """Nothing below this is delivered. Moved up only when the watcher falls behind: while it stands in a
        roster, what it has seen is the roster's position, and this is only a lower bound for those that
        entered early."""
        self.roster: Roster | None = None
        """The roster it stands in; None while it waits (parked, or for a walk)."""
        self.synced = False
        """Everything published so far that it wants was delivered; the next event comes live."""


class Group:
    """Watchers of one roster that want the same interval."""

    __slots__ = ("buckets", "wants_prev")

    def __init__(self) -> None:
        self.buckets: dict[int, dict[Watcher, None]] = {}
        """variant -> watchers, oldest first. No bucket is empty."""
        self.wants_prev = False


class Roster:
    """Watchers that stand at the same revision, findable by key."""

    __slots__ = ("_count", "_groups", "match")

    def __init__(self) -> None:
        self._groups: RangeIndex[Group] = RangeIndex()
        self._count = 0
        self.match = self._groups.match
        """match(key): the groups that want events of this key."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Watcher]:
        """All watchers, in an order fixed by the calls made before. Do not change the roster meanwhile."""
        for group in self._groups.items():
            for bucket in group.buckets.values():
                yield from bucket

    def add(self, watcher: Watcher) -> None:
        assert watcher.roster is None, "a watcher stands in one roster"
        group = self._groups.get(watcher.interval)
        if group is None:
            group = Group()
            self._groups.add(watcher.interval, group)
        group.buckets.setdefault(watcher.variant, {})[watcher] = None
        group.wants_prev = group.wants_prev or bool(watcher.variant & WITH_PREV)
        watcher.roster = self
        self._count += 1

    def remove(self, watcher: Watcher) -> None:
        assert watcher.roster is self, "the watcher stands elsewhere"
        watcher.roster = None
        self._count -= 1
        group = self._groups.get(watcher.interval)
        assert group is not None
        bucket = group.buckets[watcher.variant]
        del bucket[watcher]
        if bucket:
            return
        del group.buckets[watcher.variant]
        group.wants_prev = any(variant & WITH_PREV for variant in group.buckets)
        if not group.buckets:
            self._groups.remove(watcher.interval)


class Fanout:
    """The outcome of one round of deliveries."""

    __slots__ = ("events_sent", "refused")

    def __init__(self) -> None:
        self.events_sent = 0
        self.refused: list[tuple[Watcher, int]] = []
        """Watchers that were not served, with the revision each must be served from."""


def fan_out(header_revision: int, hits: Mapping[Group, list[SharedEvent]]) -> Fanout:
    """Offer each group its events (ascending by revision and sub-revision), one batch per watcher."""
    outcome = Fanout()
    refused = outcome.refused
    for group, events in hits.items():
        for variant, bucket in group.buckets.items():
            shared = make_batch(header_revision, events, variant)
            if shared is None:
                continue
            first_revision, size = shared.first_revision, len(shared.entries)
            for watcher in bucket:
                if watcher.next_revision > first_revision:
                    late = _late_batch(header_revision, events, watcher)
                    if late is not None:
                        _offer(watcher, late, outcome)
                    continue
                stream = watcher.stream
                if stream.blocked or not stream.sink.deliver(watcher, shared):
                    stream.blocked = True
                    refused.append((watcher, first_revision))
                else:
                    outcome.events_sent += size
    return outcome


def _late_batch(header_revision: int, events: list[SharedEvent], watcher: Watcher) -> EventBatch | None:
    """A batch of its own for a watcher that wants only the later of these revisions."""
    wanted = [event for event in events if event.revision >= watcher.next_revision]
    return make_batch(header_revision, wanted, watcher.variant) if wanted else None


def _offer(watcher: Watcher, batch: EventBatch, outcome: Fanout) -> None:
    stream = watcher.stream
    if stream.blocked or not stream.sink.deliver(watcher, batch):
        stream.blocked = True
        outcome.refused.append((watcher, batch.first_revision))
    else:
        outcome.events_sent += len(batch.entries)
