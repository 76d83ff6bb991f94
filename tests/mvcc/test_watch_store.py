"""The hub on the real Store: what it publishes live and what it reads from history are the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from watch_history import RecordingSink

from raftkv.backend import Backend
from raftkv.mvcc import Store
from raftkv.mvcc.watch import WatchHub

KEYS = [b"a", b"b", b"b/1", b"b/2", b"long" * 200]


class Member:
    """A Store on a Backend, and the part of apply that feeds the hub."""

    def __init__(self, directory: Path) -> None:
        self.backend = Backend.open(directory, map_size_bytes=1 << 26, reserve_step_bytes=1 << 20)
        self.store = Store(self.backend.tables)
        self.store.load(self.backend.read())
        self.hub = WatchHub(self.store, self.backend.tables)

    def apply(self, *requests: list[tuple[bytes, bytes | None]]) -> None:
        """Each request is one revision; value None = delete."""
        txn = self.backend.begin_write()
        writer = self.store.writer(txn)
        for writes in requests:
            writer.begin()
            for key, value in writes:
                if value is None:
                    writer.delete_range(key)
                else:
                    writer.put(key, value)
            writer.end()
        writer.finish()
        self.store.flush(txn)
        self.backend.commit()
        self.hub.publish(writer.events)

    def compact(self, revision: int) -> None:
        txn = self.backend.begin_write()
        self.store.schedule_compaction(txn, revision)
        self.backend.commit()
        done = False
        while not done:
            txn = self.backend.begin_write()
            done = self.store.compaction.step(txn, 3)
            self.backend.commit()

    def catch_up(self) -> None:
        while self.hub.catch_up(self.backend.read(), 7):
            pass


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    member = Member(tmp_path / "snap")
    yield member
    member.backend.close()


def fill(member: Member) -> None:
    for turn in range(4):
        member.apply(
            [(key, b"%d" % turn) for key in KEYS],
            [(KEYS[turn], None)],
            [(b"b", b"again")],
            [(KEYS[-1], None), (b"a", b"x" * 300)],
        )


@pytest.mark.parametrize("prev_kv", [False, True])
@pytest.mark.parametrize("filters", [[], [0], [1]])
def test_history_gives_the_same_events_as_live_w60(member: Member, prev_kv: bool, filters: list[int]) -> None:
    live, late = RecordingSink(), RecordingSink()
    ranges = [(b"\x00", b"\x00"), (b"b", b""), (b"b/", b"b0"), (KEYS[-1], b"")]
    watched = [member.hub.watch(live, 0, *bounds, 0, filters, prev_kv) for bounds in ranges]
    fill(member)
    again = [member.hub.watch(late, 0, *bounds, 1, filters, prev_kv) for bounds in ranges]
    member.catch_up()
    for one, other in zip(watched, again, strict=True):
        entries = [entry for batch in live.batches(one) for entry in batch.entries]
        assert [entry for batch in late.batches(other) for entry in batch.entries] == entries
    assert member.hub.synced(live) == member.hub.synced(late) == member.store.current_revision


def test_compaction_cancels_below_it_and_spares_from_it_on_w12_w40(member: Member) -> None:
    live, late = RecordingSink(), RecordingSink()
    everything = (b"\x00", b"\x00")
    watched = member.hub.watch(live, 0, *everything)
    fill(member)
    for revision in (4, 9, member.store.current_revision):
        member.compact(revision)
        below = member.hub.watch(late, 0, *everything, revision - 1)
        at = member.hub.watch(late, 1, *everything, revision)
        member.catch_up()
        assert late.lost[-1] == (below, revision)
        assert late.seen(at) == [event for event in live.seen(watched) if event[0] >= revision]


def test_restarted_member_serves_the_same_past_w60(tmp_path: Path) -> None:
    before = Member(tmp_path)
    live = RecordingSink()
    watched = before.hub.watch(live, 0, b"\x00", b"\x00")
    fill(before)
    before.backend.close()
    after = Member(tmp_path)
    sink = RecordingSink()
    watcher = after.hub.watch(sink, 0, b"\x00", b"\x00", 1)
    after.catch_up()
    after.backend.close()
    assert sink.seen(watcher) == live.seen(watched)
