"""MemoryStorage, the unstable end of the log, Progress and Inflights: bookkeeping beside small models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import (
    Compacted,
    ConfState,
    Entry,
    HardState,
    LogDamaged,
    MemoryStorage,
    Snapshot,
    SnapshotUnavailable,
    Unavailable,
)
from raftkv.raft.inflights import Inflights
from raftkv.raft.log import RaftLog
from raftkv.raft.progress import Progress, ProgressState
from raftkv.raft.unstable import Unstable


def entries(*positions: tuple[int, int]) -> list[Entry]:
    return [Entry(term, index, data=b"%d@%d" % (index, term)) for index, term in positions]


def stored(*positions: tuple[int, int]) -> MemoryStorage:
    storage = MemoryStorage(conf_state=ConfState((1,)))
    storage.append(entries(*positions))
    return storage


class TestMemoryStorage:
    def test_knows_its_bounds(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 2))
        storage.compact(1)
        assert (storage.first_index(), storage.last_index()) == (2, 3)
        assert [storage.term(i) for i in (1, 2, 3)] == [1, 1, 2]
        with pytest.raises(Compacted):
            storage.term(0)
        with pytest.raises(Unavailable):
            storage.term(4)
        with pytest.raises(Compacted):
            storage.entries(1, 3, 100)
        with pytest.raises(Unavailable):
            storage.entries(2, 5, 100)

    def test_size_limit_gives_at_least_one(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 2))
        one = storage.entries(1, 2, 0)[0].size_bytes()
        assert len(storage.entries(1, 4, 0)) == 1
        assert len(storage.entries(1, 4, 2 * one)) == 2
        assert len(storage.entries(1, 4, 3 * one)) == 3

    def test_append_overwrites_from_its_first_index(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 1))
        storage.append(entries((2, 2)))
        assert storage.entries(1, 3, 1 << 20) == entries((1, 1), (2, 2))
        assert storage.last_index() == 2

    def test_append_skips_what_was_compacted(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 1))
        storage.compact(2)
        storage.append(entries((1, 1), (2, 1), (3, 1), (4, 1)))
        assert storage.entries(3, 5, 1 << 20) == entries((3, 1), (4, 1))

    def test_snapshots_replace_the_log_and_never_go_back(self) -> None:
        storage = stored((1, 1), (2, 1))
        storage.apply_snapshot(Snapshot(7, 3, ConfState((1, 2))))
        assert (storage.first_index(), storage.last_index(), storage.term(7)) == (8, 7, 3)
        assert storage.initial_state()[1] == ConfState((1, 2))
        with pytest.raises(Compacted):
            storage.apply_snapshot(Snapshot(6, 3, ConfState((1,))))

    def test_snapshot_older_than_the_log_is_not_given(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 1))
        storage.create_snapshot(1, ConfState((1,)))
        storage.compact(2)
        with pytest.raises(SnapshotUnavailable):
            storage.snapshot()
        with pytest.raises(Unavailable):
            storage.create_snapshot(9, ConfState((1,)))


class TestUnstable:
    def test_hands_out_each_entry_once_and_drops_what_is_durable(self) -> None:
        u = Unstable(1)
        u.append(entries((1, 1), (2, 1)))
        assert u.hand_out() == (entries((1, 1), (2, 1)), None)
        u.append(entries((3, 1)))
        assert u.hand_out() == (entries((3, 1)), None)
        assert not u.has_new
        u.finish_save()
        assert u.offset == 3
        u.finish_save()
        assert u.offset == 4
        assert u.entries == []

    def test_saves_of_overwritten_entries_prove_nothing_aba(self) -> None:
        """2@1, then 2@2, then 2@1 again, all being saved: only the third save makes 2@1 durable."""
        u = Unstable(2)
        for term in (1, 2, 1):
            u.append(entries((2, term)))
            u.hand_out()
        u.finish_save()
        assert u.offset == 2
        u.finish_save()
        assert u.offset == 2
        u.finish_save()
        assert u.offset == 3

    def test_snapshot_outdates_all_saves_under_way(self) -> None:
        u = Unstable(1)
        u.append(entries((1, 1), (2, 1)))
        u.hand_out()
        snapshot = Snapshot(9, 4, ConfState((1,)))
        u.restore(snapshot)
        u.append(entries((10, 4)))
        assert u.hand_out() == (entries((10, 4)), snapshot)
        assert u.finish_save() is None
        assert u.offset == 10
        assert u.finish_save() is snapshot
        assert u.offset == 11

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(0, 3)), max_size=30))
    def test_what_counts_as_durable_is_on_the_disk_after_all_saves(self, steps: list[tuple[int, int, int]]) -> None:
        """Model: a disk that executes the saves in order. At any time, whatever the node takes for
        durable must be on the disk now and survive all the saves still under way."""
        u = Unstable(1)
        log: list[Entry] = []
        disk: list[Entry] = []
        under_way: list[list[Entry]] = []
        term = 1
        for back, count, finished in steps:
            term += back > 0
            begin = max(0, len(log) - back)
            fresh = entries(*((begin + 1 + k, term) for k in range(count)))
            log = log[:begin] + fresh
            u.append(fresh)
            under_way.append(u.hand_out()[0])
            for _ in range(min(finished, len(under_way))):
                written = under_way.pop(0)
                if written:
                    disk = disk[: written[0].index - 1] + written
                u.finish_save()
            durable = u.offset - 1
            for crash_after in range(len(under_way) + 1):
                later = disk
                for written in under_way[:crash_after]:
                    if written:
                        later = later[: written[0].index - 1] + written
                assert later[:durable] == log[:durable]


class TestRaftLog:
    def test_restart_believes_what_was_applied(self) -> None:
        """The commit index on disk may be older than the state machine (RF-41, RF-50)."""
        log = RaftLog(stored((1, 1), (2, 1), (3, 1)), committed=1, applied=2, max_applying_bytes=100)
        assert (log.committed, log.applied) == (2, 2)

    @pytest.mark.parametrize(("committed", "applied"), [(4, 0), (0, 4)])
    def test_log_that_ends_before_its_commit_is_damaged(self, committed: int, applied: int) -> None:
        with pytest.raises(LogDamaged):
            RaftLog(stored((1, 1), (2, 1), (3, 1)), committed, applied, 100)

    def test_log_that_begins_behind_what_was_applied_is_damaged(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 1))
        storage.compact(2)
        with pytest.raises(LogDamaged):
            RaftLog(storage, 3, 1, 100)

    def test_committed_entry_in_conflict_is_damage(self) -> None:
        log = RaftLog(stored((1, 1), (2, 1)), committed=2, applied=0, max_applying_bytes=100)
        with pytest.raises(LogDamaged):
            log.maybe_append(1, 1, entries((2, 2)))

    @pytest.mark.parametrize(
        ("index", "term", "found"),
        [(5, 5, (5, 5)), (5, 4, (4, 3)), (5, 2, (3, 2)), (3, 1, (1, 1)), (3, 0, (0, 0)), (9, 3, (9, 0))],
    )
    def test_back_off_skips_whole_terms(self, index: int, term: int, found: tuple[int, int]) -> None:
        log = RaftLog(stored((1, 1), (2, 2), (3, 2), (4, 3), (5, 5)), 0, 0, 100)
        assert log.find_conflict_by_term(index, term) == found

    def test_entries_across_the_border_of_storage(self) -> None:
        log = RaftLog(stored((1, 1), (2, 1)), 0, 0, 100)
        log.append(entries((3, 1), (4, 1)))
        size = log.entries(1, 0)[0].size_bytes()
        for count in range(1, 5):
            assert [e.index for e in log.entries(1, count * size)] == list(range(1, count + 1))
        assert log.entries(3, 1 << 20) == entries((3, 1), (4, 1))

    def test_applying_is_bounded_until_applied(self) -> None:
        storage = stored((1, 1), (2, 1), (3, 1))
        size = storage.entries(1, 2, 0)[0].size_bytes()
        log = RaftLog(storage, committed=3, applied=0, max_applying_bytes=2 * size)
        assert [e.index for e in log.next_committed()] == [1, 2]
        assert not log.has_committed
        log.applied_to(1)
        assert not log.has_committed
        log.applied_to(2)
        assert [e.index for e in log.next_committed()] == [3]


class TestInflights:
    def test_bounded_by_count_and_bytes(self) -> None:
        window = Inflights(2, 100)
        window.add(1, 10)
        assert not window.full
        window.add(2, 10)
        assert window.full
        window.free_to(1)
        assert not window.full
        window.add(3, 500)
        assert window.full
        assert window.size_bytes == 510
        window.free_to(3)
        assert (len(window), window.size_bytes) == (0, 0)


class TestProgress:
    def make(self, match: int = 0, next_index: int = 1) -> Progress:
        progress = Progress(next_index, Inflights(2, 1000), is_learner=False)
        progress.match = match
        return progress

    def test_probe_sends_one_and_waits(self) -> None:
        progress = self.make()
        progress.sent_entries(1, 10)
        assert progress.paused
        assert progress.maybe_update(1)
        assert not progress.paused

    def test_replicate_streams_until_the_window_is_full(self) -> None:
        progress = self.make(match=1, next_index=2)
        progress.become_replicate()
        progress.sent_entries(3, 10)
        assert (progress.next, progress.paused) == (5, False)
        progress.sent_entries(1, 10)
        assert (progress.next, progress.paused) == (6, True)

    def test_old_refusals_are_ignored(self) -> None:
        progress = self.make(match=5, next_index=9)
        assert not progress.maybe_decrease(rejected=6, hint=5)  # probing: not the one that was sent
        assert progress.maybe_decrease(rejected=8, hint=2)
        assert progress.next == 6
        progress.become_replicate()
        assert not progress.maybe_decrease(rejected=5, hint=0)

    def test_snapshot_ends_behind_it(self) -> None:
        progress = self.make(match=2, next_index=3)
        progress.become_snapshot(7)
        assert progress.paused
        progress.become_probe()
        assert (progress.state, progress.next, progress.pending_snapshot) == (ProgressState.PROBE, 8, 0)


def test_hard_state_default_is_a_newborn() -> None:
    assert MemoryStorage().initial_state() == (HardState(0, 0, 0), ConfState())
