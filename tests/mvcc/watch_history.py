"""A history to watch: the list of all writes, and the `events` table that goes with it.

The smallest thing that the hub can take for a Store. It keeps everything in plain lists, so a test can ask
what a watcher ought to see without going near the code under test; events are made and read with protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from raftkv.backend.schema import Tables, pack_revision
from raftkv.mvcc.watch import EventBatch, RevisionEvents, StoredEvent, Watcher
from raftkv.pb import kv_pb2, rpc_pb2

PUT, DELETE = 0, 1


class Change(NamedTuple):
    """One event, as a client should see it."""

    revision: int
    kind: int
    key: bytes
    value: bytes
    """b"" for a delete."""
    prev_value: bytes | None
    """None: the key did not live before."""


def frame(kv: Any) -> bytes:
    """`12 len KeyValue`."""
    return rpc_pb2.RangeResponse(kvs=[kv]).SerializeToString()


class WatchedHistory:
    """Writes go in by `commit`, which returns what the hub is to publish."""

    def __init__(self, directory: Path) -> None:
        self.env = lmdb.open(str(directory), max_dbs=1, map_size=1 << 26, sync=False)
        handle = self.env.open_db(b"events")
        self.tables = Tables(*[handle] * len(Tables._fields))
        self.current_revision = 1
        self.compacted_revision = -1
        self.changes: list[Change] = []
        self._live: dict[bytes, Any] = {}
        self._versions: dict[bytes, list[tuple[int, Any]]] = {}
        """key -> (revision, KeyValue or None) in order."""

    def close(self) -> None:
        self.env.close()

    def frame_at(self, txn: lmdb.Transaction, key: bytes, revision: int) -> bytes | None:
        del txn
        assert revision >= self.compacted_revision, "asked for what is compacted"
        found = None
        for written, kv in self._versions.get(key, []):
            if written <= revision:
                found = kv
        return None if found is None else frame(found)

    def commit(self, *revisions: Sequence[tuple[bytes, bytes | None]]) -> list[RevisionEvents]:
        """Each revision is a list of (key, value), value None = delete; a delete of nothing is left out."""
        batch: list[RevisionEvents] = []
        with self.env.begin(write=True) as txn:
            for writes in revisions:
                stored: list[StoredEvent] = []
                for key, value in writes:
                    if value is not None or key in self._live:
                        stored.append(self._write(txn, self.current_revision + 1, len(stored), key, value))
                if stored:
                    self.current_revision += 1
                    batch.append((self.current_revision, stored))
        return batch

    def _write(self, txn: lmdb.Transaction, revision: int, sub: int, key: bytes, value: bytes | None) -> StoredEvent:
        old = self._live.get(key)
        if value is None:
            kv = kv_pb2.KeyValue(key=key, mod_revision=revision)
            event = kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv).SerializeToString()
            del self._live[key]
        else:
            create, version = (old.create_revision, old.version + 1) if old else (revision, 1)
            kv = kv_pb2.KeyValue(key=key, create_revision=create, mod_revision=revision, version=version, value=value)
            event = kv_pb2.Event(kv=kv).SerializeToString()
            self._live[key] = kv
        txn.put(pack_revision(revision, sub), event, db=self.tables.events)
        self._versions.setdefault(key, []).append((revision, self._live.get(key)))
        prev_value = None if old is None else old.value
        kind = DELETE if value is None else PUT
        self.changes.append(Change(revision, kind, key, value or b"", prev_value))
        return key, event, None if old is None else frame(old), old is None, value is None

    def compact(self, revision: int) -> None:
        """CMP-07: of each key, the newest change up to `revision` stays, a tombstone only at `revision`
        itself."""
        self.compacted_revision = revision
        with self.env.begin(write=True) as txn, txn.cursor(self.tables.events) as cursor:
            past = [change for change in self.changes if change.revision <= revision]
            newest = {change.key: change.revision for change in past}
            doomed = {
                (change.revision, change.key)
                for change in past
                if change.revision < newest[change.key] or (change.kind == DELETE and change.revision < revision)
            }
            for raw, event in list(cursor.iternext()):
                parsed = kv_pb2.Event.FromString(event)
                if (int.from_bytes(raw[:8], "big"), parsed.kv.key) in doomed:
                    txn.delete(raw, db=self.tables.events)


class RecordingSink:
    """A sink with room for so many responses; None = no bound."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.refusals = 0
        self.taken: list[tuple[Watcher, EventBatch]] = []
        self.lost: list[tuple[Watcher, int]] = []

    def deliver(self, watcher: Watcher, batch: EventBatch) -> bool:
        if self.room == 0:
            self.refusals += 1
            return False
        if self.room is not None:
            self.room -= 1
        self.taken.append((watcher, batch))
        return True

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        self.lost.append((watcher, compact_revision))

    def batches(self, watcher: Watcher) -> list[EventBatch]:
        return [batch for to, batch in self.taken if to is watcher]

    def seen(self, watcher: Watcher) -> list[tuple[int, int, bytes, bytes]]:
        """(revision, kind, key, value) of every event delivered to the watcher."""
        return [
            (event.kv.mod_revision, event.type, event.kv.key, event.kv.value)
            for batch in self.batches(watcher)
            for event in parsed_events(batch)
        ]


def parsed_events(batch: EventBatch) -> list[Any]:
    """The events that a client reads from a response with this body; both forms of the batch must agree."""
    assert batch.body == b"".join(batch.entries)
    return list(rpc_pb2.WatchResponse.FromString(batch.body).events)
