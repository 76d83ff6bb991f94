"""Judging a trace: every reply that anybody got is compared with the history that one uninterrupted watch told.

Owns the record of what was acknowledged and seen, and the replay. A history that passes is one in which each write took
effect at exactly the revision it was acknowledged with, and each read saw exactly the state of its revision.
"""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kube_cache import PUT, Objects, Snapshot

from raftkv.pb import kv_pb2


class Write(NamedTuple):
    """A change that was asked for."""

    key: bytes
    value: bytes | None
    """None: a deletion."""
    lease: int
    expected: int
    """The mod_revision that the key had to have; 0: none."""


class Seen(NamedTuple):
    """What a reply said of an interval at a revision."""

    who: str
    revision: int
    start: bytes
    end: bytes
    """b"": the one key `start`."""
    kvs: Sequence[kv_pb2.KeyValue] | None
    """The first keys of the interval; None: the reply only counted."""
    total: int


class Record:
    """What all clients of one trace were told. Filled from many threads."""

    def __init__(self) -> None:
        self.writes: dict[int, Write] = {}
        """Revision -> the write that was acknowledged with it."""
        self.unknown: list[Write] = []
        """Writes whose answer never came."""
        self.seen: list[Seen] = []
        self.leases: set[int] = set()
        """Leases that may run out."""
        self.compacting = 0
        """The highest revision that a compaction was asked for."""
        self._changed = threading.Condition()

    def acknowledge(self, revision: int, write: Write) -> None:
        with self._changed:
            other = self.writes.setdefault(revision, write)
            assert other is write, f"{other.key!r} and {write.key!r} were both acknowledged with {revision}"
            self._changed.notify_all()

    def wait_writes(self, count: int, timeout_s: float) -> None:
        """Until so many writes are acknowledged in all."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.writes) >= count, timeout_s)
        assert came, f"only {len(self.writes)} of {count} writes were acknowledged within {timeout_s:g} s"

    def is_gone(self, revision: int) -> bool:
        """Whether a compaction may have taken this revision by now."""
        return revision < self.compacting


class Replay:
    """The history under a prefix, from the first list on."""

    def __init__(self, start: Snapshot, events: Iterable[kv_pb2.Event]) -> None:
        self._start = start
        self._events = list(events)

    def check(self, record: Record, final: Snapshot) -> None:
        """Raises AssertionError for the first reply that is not true, and if the end is not what the list says."""
        self._check_writes(record)
        self._check_seen(record.seen)
        state = _State(self._start.objects)
        for event in self._events:
            if event.kv.mod_revision <= final.revision:
                state.apply(event)
        assert state.objects == final.objects, "the watch and the final list differ"

    def _check_writes(self, record: Record) -> None:
        told: dict[int, list[kv_pb2.Event]] = defaultdict(list)
        for event in self._events:
            told[event.kv.mod_revision].append(event)
        for revision, write in record.writes.items():
            events = told.pop(revision, [])
            assert len(events) == 1, f"{len(events)} events tell of {write.key!r}, acknowledged with {revision}"
            assert _is_of(events[0], write), f"revision {revision} is {events[0]}, acknowledged was {write}"
        for revision, events in told.items():
            if len(events) == 1 and any(_is_of(events[0], write) for write in record.unknown):
                continue
            self._check_expiry(revision, events, record)

    def _check_expiry(self, revision: int, events: list[kv_pb2.Event], record: Record) -> None:
        """L-11, W-55: what nobody wrote is a lease that ran out, all its keys in one revision, sorted."""
        keys = [event.kv.key for event in events]
        leases = {event.prev_kv.lease for event in events}
        assert all(event.type != PUT for event in events), f"nobody wrote what revision {revision} tells: {keys}"
        assert len(leases) == 1, f"revision {revision} deletes keys of several leases"
        assert leases <= record.leases, f"nobody deleted what revision {revision} tells of: {keys}"
        assert keys == sorted(keys)
        before = _State(self._start.objects)
        for event in self._events:
            if event.kv.mod_revision < revision:
                before.apply(event)
        (lease,) = leases
        held = sorted(key for key, kv in before.objects.items() if kv.lease == lease)
        assert keys == held, f"lease {lease:x} had {held} and took {keys} with it"

    def _check_seen(self, seen: Iterable[Seen]) -> None:
        state, place = _State(self._start.objects), 0
        for each in sorted(seen, key=lambda each: each.revision):
            assert each.revision >= self._start.revision, "the history began before the load"
            while place < len(self._events) and self._events[place].kv.mod_revision <= each.revision:
                state.apply(self._events[place])
                place += 1
            state.check(each)


class _State:
    """The objects at one revision, with their keys in order."""

    def __init__(self, objects: Objects) -> None:
        self.objects = dict(objects)
        self._keys = sorted(objects)

    def apply(self, event: kv_pb2.Event) -> None:
        key = event.kv.key
        place = bisect.bisect_left(self._keys, key)
        there = place < len(self._keys) and self._keys[place] == key
        if event.type == PUT:
            self.objects[key] = event.kv
            if not there:
                self._keys.insert(place, key)
        else:
            assert there, f"{key!r} is deleted at {event.kv.mod_revision}, and is not there"
            del self.objects[key]
            del self._keys[place]

    def check(self, seen: Seen) -> None:
        first = bisect.bisect_left(self._keys, seen.start)
        last = bisect.bisect_left(self._keys, seen.end or seen.start + b"\0")
        where = f"{seen.who}: {seen.start!r} to {seen.end!r} at revision {seen.revision}"
        assert seen.total == last - first, f"{where}: {seen.total} keys were counted, there are {last - first}"
        if seen.kvs is not None:
            keys = self._keys[first : first + len(seen.kvs)]
            assert list(seen.kvs) == [self.objects[key] for key in keys], f"{where}: not what was there"


def _is_of(event: kv_pb2.Event, write: Write) -> bool:
    """Whether the event is what this write would do: also the comparison must have held."""
    before = event.prev_kv.mod_revision if event.HasField("prev_kv") else 0
    if event.kv.key != write.key or before != write.expected:
        return False
    if write.value is None:
        return event.type != PUT
    return event.type == PUT and (event.kv.value, event.kv.lease) == (write.value, write.lease)
