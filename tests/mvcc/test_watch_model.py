"""The hub against a list of all writes, with everything that can come in between."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from watch_history import DELETE, PUT, Change, RecordingSink, WatchedHistory, parsed_events

from raftkv.mvcc import watch_catchup
from raftkv.mvcc.watch import EventBatch, Watcher, WatchHub

KEYS = [b"a", b"a\x00", b"ab", b"abc", b"b", b"b\xff", b"\xff", b"\xff\xff", b"n" * 200]
RANGES = [
    (b"a", b""),
    (b"b\xff", b""),
    (b"n" * 200, b""),
    (b"a", b"b"),
    (b"ab", b"ac"),
    (b"a", b"a\x00"),
    (b"a\x00", b"b\x00"),
    (b"ab", b"\xff"),
    (b"b", b"\x00"),
    (b"\xff", b"\x00"),
    (b"\x00", b"\x00"),
    (b"", b"\x00"),
]
WRITES = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from([b"x", b"y", None])),
    min_size=1,
    max_size=4,
    unique_by=lambda write: write[0],
)


class Expected:
    """What one watcher has to see, worked out from its request and the list of writes alone."""

    def __init__(
        self,
        watcher: Watcher,
        key: bytes,
        range_end: bytes,
        start: int,
        newest: int,
        filters: set[int],
        prev_kv: bool,
    ) -> None:
        self.watcher = watcher
        self.key = key or b"\x00"
        self.range_end = range_end
        self.start = start
        self.next_revision = start or newest + 1
        """No event below this may come any more."""
        self.filters = filters
        self.prev_kv = prev_kv
        self.gone = False

    def wants(self, change: Change) -> bool:
        if not self.range_end:
            inside = change.key == self.key
        else:
            inside = self.key <= change.key and (self.range_end == b"\x00" or change.key < self.range_end)
        return inside and change.kind not in self.filters

    def outstanding(self, changes: list[Change], last: int) -> list[Change]:
        return [change for change in changes if self.next_revision <= change.revision <= last and self.wants(change)]


class CheckedSink(RecordingSink):
    """Compares each delivery with what its watcher has to see next, at the moment it comes."""

    def __init__(self, model: HubBesideHistory) -> None:
        super().__init__(room=2)
        self.model = model

    def deliver(self, watcher: Watcher, batch: EventBatch) -> bool:
        taken = super().deliver(watcher, batch)
        if taken:
            self.model.check_delivery(watcher, batch)
        return taken

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        super().cancelled(watcher, compact_revision)
        self.model.check_cancel(watcher, compact_revision)


class HubBesideHistory(RuleBasedStateMachine):
    """Every watcher gets exactly the changes it asked for, in order, whole revisions at a time, or is told
    that a compaction came first."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.history = WatchedHistory(self.directory)
        self.hub = WatchHub(self.history, self.history.tables)
        self.sinks = [CheckedSink(self) for _ in range(3)]
        self.expected: dict[Watcher, Expected] = {}
        self.publishing = False
        """Whether what comes now is live; else it comes from history."""

    @initialize(
        revisions=st.sampled_from([1, 3, 1000]),
        size_bytes=st.sampled_from([50, 1 << 20]),
        walks=st.sampled_from([1, 2, 16]),
    )
    def bounds(self, revisions: int, size_bytes: int, walks: int) -> None:
        self.slice_revisions = revisions
        self.patch.setattr(watch_catchup, "SLICE_REVISIONS", revisions)
        self.patch.setattr(watch_catchup, "SLICE_BYTES", size_bytes)
        self.patch.setattr(watch_catchup, "MAX_WALKS", walks)

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.patch.undo()
            self.history.close()
            shutil.rmtree(self.directory)

    def alive(self) -> list[Expected]:
        return [expected for expected in self.expected.values() if not expected.gone]

    # --- what a delivery must be ----------------------------------------------------------------------------

    def check_delivery(self, watcher: Watcher, batch: EventBatch) -> None:
        expected = self.expected[watcher]
        assert not expected.gone, "an event after the end (W-30, W-41)"
        wanted = expected.outstanding(self.history.changes, batch.last_revision)
        events = parsed_events(batch)
        assert [self.change_of(event) for event in events] == [change[:4] for change in wanted], "W-54, W-55"
        assert (batch.first_revision, batch.last_revision) == (wanted[0].revision, wanted[-1].revision)
        for event, change in zip(events, wanted, strict=True):
            self.check_prev(expected, event, change)
        if self.publishing:
            assert batch.header_revision == batch.first_revision == batch.last_revision, "W-56"
        else:
            assert batch.header_revision == self.hub.revision >= batch.last_revision, "W-57"
            assert len({change.revision for change in wanted}) <= self.slice_revisions, "W-57"
        expected.next_revision = batch.last_revision + 1

    @staticmethod
    def change_of(event: Any) -> tuple[int, int, bytes, bytes]:
        if event.type == DELETE:
            assert (event.kv.create_revision, event.kv.version, event.kv.lease) == (0, 0, 0), "W-52"
        return event.kv.mod_revision, event.type, event.kv.key, event.kv.value

    def check_prev(self, expected: Expected, event: Any, change: Change) -> None:
        """W-53: the value one revision earlier, except of creations and of what is compacted."""
        readable = self.publishing or change.revision - 1 >= self.history.compacted_revision
        if expected.prev_kv and change.prev_value is not None and readable:
            assert event.prev_kv.value == change.prev_value
            assert event.prev_kv.key == change.key
        else:
            assert not event.HasField("prev_kv")

    def check_cancel(self, watcher: Watcher, compact_revision: int) -> None:
        expected = self.expected[watcher]
        assert not expected.gone, "told twice"
        assert compact_revision == self.history.compacted_revision > expected.next_revision, "W-40, W-41"
        assert watcher not in self.synced_before, "W-42"
        expected.gone = True

    # --- what can happen ------------------------------------------------------------------------------------

    @rule(revisions=st.lists(WRITES, min_size=1, max_size=3))
    def apply(self, revisions: list[list[tuple[bytes, bytes | None]]]) -> None:
        batch = self.history.commit(*revisions)
        self.publishing = True
        self.hub.publish(batch)
        self.publishing = False

    @rule(revisions=st.lists(WRITES, min_size=1, max_size=3), compact=st.booleans())
    def install_snapshot(self, revisions: list[list[tuple[bytes, bytes | None]]], compact: bool) -> None:
        self.history.commit(*revisions)
        if compact and self.history.current_revision > self.history.compacted_revision:
            self.history.compact(self.history.current_revision)
        self.hub.resync_all(self.history.tables)

    @rule(
        sink=st.integers(0, 2),
        bounds=st.sampled_from(RANGES),
        back=st.integers(-3, 30),
        filters=st.sets(st.sampled_from([PUT, DELETE, 5])),
        prev_kv=st.booleans(),
    )
    def watch(self, sink: int, bounds: tuple[bytes, bytes], back: int, filters: set[int], prev_kv: bool) -> None:
        start = max(0, self.hub.revision - back)
        watcher = self.hub.watch(self.sinks[sink], len(self.expected), *bounds, start, sorted(filters), prev_kv)
        self.expected[watcher] = Expected(watcher, *bounds, start, self.hub.revision, filters, prev_kv)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        expected = data.draw(st.sampled_from(self.alive()))
        self.hub.cancel(expected.watcher)
        expected.gone = True

    @rule(sink=st.integers(0, 2))
    def close_stream(self, sink: int) -> None:
        self.hub.sink_closed(self.sinks[sink])
        for expected in self.alive():
            if expected.watcher.stream.sink is self.sinks[sink]:
                expected.gone = True
        self.sinks[sink] = CheckedSink(self)

    @rule(sink=st.integers(0, 2), room=st.integers(1, 5))
    def client_reads(self, sink: int, room: int) -> None:
        self.sinks[sink].room = room
        self.hub.sink_ready(self.sinks[sink])

    @rule(budget=st.integers(1, 12))
    def catch_up(self, budget: int) -> None:
        self.run_catch_up(budget)

    def run_catch_up(self, budget: int) -> bool:
        self.synced_before = {watcher for watcher in self.expected if watcher.synced}
        with self.history.env.begin() as txn:
            return self.hub.catch_up(txn, budget)

    @precondition(lambda self: self.history.current_revision > self.history.compacted_revision)
    @rule(back=st.integers(0, 6))
    def compact(self, back: int) -> None:
        revision = self.history.current_revision - back
        if revision > self.history.compacted_revision:
            self.history.compact(revision)

    # --- what must hold -------------------------------------------------------------------------------------

    @invariant()
    def synced_watchers_have_seen_everything(self) -> None:
        for expected in self.alive():
            if expected.watcher.synced:
                assert not expected.outstanding(self.history.changes, self.hub.revision)

    @invariant()
    def progress_says_what_is_true(self) -> None:
        """W-70, W-72."""
        for sink in self.sinks:
            own = [expected for expected in self.alive() if expected.watcher.stream.sink is sink]
            revision = self.hub.synced(sink)
            if revision is None:
                assert not own or any(
                    not expected.watcher.synced or expected.start > self.hub.revision for expected in own
                )
            else:
                assert own
                assert revision == self.history.current_revision
                assert not any(expected.outstanding(self.history.changes, revision) for expected in own)

    @invariant()
    def counters_agree(self) -> None:
        alive = self.alive()
        statistics = self.hub.statistics()
        assert statistics.watchers == len(alive)
        assert statistics.slow == sum(not expected.watcher.synced for expected in alive)
        assert 0 <= statistics.backlog_revisions <= self.hub.revision + 1

    def drain(self) -> None:
        """Once every client reads, every watcher gets all it wanted (W-91)."""
        for sink in self.sinks:
            sink.room = None
            self.hub.sink_ready(sink)
        for _ in range(10_000):
            if not self.run_catch_up(5):
                break
        else:
            raise AssertionError("catching up does not end")
        for expected in self.alive():
            assert expected.watcher.synced
            assert not expected.outstanding(self.history.changes, self.history.current_revision)


TestHubBesideHistory = HubBesideHistory.TestCase
TestHubBesideHistory.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
