"""The log from the outside: what goes in comes back, and what is refused is refused by name."""

import threading
from pathlib import Path

import pytest
from wal_support import (
    METADATA,
    SEGMENT_BYTES,
    abandon,
    create,
    entries,
    entry,
    flip,
    read,
    reopen,
    save,
    segments,
)

from raftkv.raft import EntryType, HardState
from raftkv.wal import (
    LogPosition,
    Wal,
    WalCorruptError,
    WalExistsError,
    WalMetadataError,
    WalMissingError,
    verify,
)
from raftkv.wal import wal as wal_module


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "member" / "wal"


def test_new_log_is_empty(directory: Path) -> None:
    create(directory).close()
    contents = read(directory)
    assert contents.metadata == METADATA
    assert contents.hard_state == HardState(0, 0, 0)
    assert (contents.first_index, contents.entries, contents.torn) == (1, [], None)


def test_everything_flushed_comes_back(directory: Path) -> None:
    """RF-40."""
    wal = create(directory)
    written = entries(1, 5)
    written[2].type = EntryType.CONF_CHANGE
    written[3].data = b""
    wal.stage(HardState(1, 2**64 - 1, 0), written[:2])
    wal.stage(None, written[2:])
    result = wal.flush()
    assert result.bytes_written > 0
    save(wal, state=HardState(1, 2**64 - 1, 5))
    abandon(wal)
    contents = read(directory)
    assert contents.entries == written
    assert contents.entries[2].type is EntryType.CONF_CHANGE
    assert contents.hard_state == HardState(1, 2**64 - 1, 5)


def test_staged_but_not_flushed_is_not_in_the_log(directory: Path) -> None:
    wal = create(directory)
    save(wal, entry(1))
    wal.stage(None, [entry(2)])
    assert wal.staged_bytes > 0
    abandon(wal)
    assert read(directory).entries == [entry(1)]


def test_close_flushes_what_is_staged_and_may_be_repeated(directory: Path) -> None:
    wal = create(directory)
    wal.stage(None, [entry(1)])
    wal.close()
    wal.close()
    assert read(directory).entries == [entry(1)]


def test_later_entry_replaces_the_conflicting_suffix(directory: Path) -> None:
    wal = create(directory)
    save(wal, *entries(1, 9))
    save(wal, *entries(4, 5, term=2))
    wal.close()
    assert read(directory).entries == entries(1, 3) + entries(4, 5, term=2)


def test_gap_is_our_own_mistake(directory: Path) -> None:
    wal = create(directory)
    with pytest.raises(AssertionError):
        wal.stage(None, [entry(2)])
    with pytest.raises(AssertionError):
        wal.stage(None, [entry(1), entry(3)])
    wal.close()


@pytest.mark.parametrize(
    ("state", "syncs"),
    [(HardState(1, 1, 1), False), (HardState(2, 1, 1), True), (HardState(1, 3, 1), True)],
    ids=["commit only", "term", "vote"],
)
def test_commit_index_alone_needs_no_sync(directory: Path, state: HardState, syncs: bool) -> None:
    """RF-41."""
    wal = create(directory)
    save(wal, entry(1), state=HardState(1, 1, 0))
    wal.stage(state, [])
    assert (wal.flush().sync_s > 0) is syncs
    wal.close()
    assert read(directory).hard_state == state


def test_log_spans_segments(directory: Path) -> None:
    """RF-47."""
    wal = create(directory)
    for first in range(1, 100, 3):
        save(wal, *entries(first, first + 2, size=100), state=HardState(1, 1, first))
    wal.close()
    assert len(segments(directory)) > 2
    assert {path.stat().st_size for path in segments(directory)} == {SEGMENT_BYTES}
    contents = read(directory)
    assert contents.entries == entries(1, 99, size=100)
    assert contents.hard_state == HardState(1, 1, 97)


def test_one_flush_may_fill_several_segments(directory: Path) -> None:
    wal = create(directory)
    for first in range(1, 100, 3):
        wal.stage(None, entries(first, first + 2, size=100))
    wal.flush()
    wal.close()
    assert len(segments(directory)) > 2
    assert read(directory).entries == entries(1, 99, size=100)


def test_unit_larger_than_a_segment_gets_one_of_its_size(directory: Path) -> None:
    wal = create(directory)
    save(wal, entry(1))
    save(wal, entry(2, data=bytes(3 * SEGMENT_BYTES)))
    save(wal, entry(3))
    wal.close()
    assert read(directory).entries == [entry(1), entry(2, data=bytes(3 * SEGMENT_BYTES)), entry(3)]
    # It is deleted when released, not recycled: the next segment has the usual size again.
    wal, _ = reopen(directory)
    save(wal, *entries(4, 40, size=100))
    wal.release_before(40)
    wal.maintain()
    wal.close()
    assert max(path.stat().st_size for path in directory.iterdir()) <= 2 * SEGMENT_BYTES


def test_huge_stage_is_split_and_commits_nothing_that_is_not_there(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_module, "MAX_UNIT_BYTES", 1000)
    wal = create(directory)
    wal.stage(HardState(3, 1, 50), entries(1, 50, term=3, size=100))
    pending = wal._pending
    assert all(unit.hard_state.commit <= unit.last.index for unit in pending)
    assert len(pending) > 4
    wal.flush()
    wal.close()
    assert read(directory).entries == entries(1, 50, term=3, size=100)


def test_released_segments_go_and_the_rest_reads_on(directory: Path) -> None:
    """RF-48."""
    wal = create(directory)
    for index in range(1, 100):
        save(wal, entry(index, term=index, data=bytes(100)), state=HardState(index, 1, index - 1))
    before = len(segments(directory))
    wal.release_before(60)
    wal.maintain()
    assert wal.segment_count == len(segments(directory)) < before
    wal.release_before(10)  # going back changes nothing
    wal.maintain()
    wal.close()
    contents = read(directory)
    assert 40 < contents.first_index <= 60
    assert contents.base == LogPosition(contents.first_index - 1, contents.first_index - 1)
    assert [e.index for e in contents.entries] == list(range(contents.first_index, 100))
    assert contents.hard_state == HardState(99, 1, 98)


def test_last_segment_is_never_released(directory: Path) -> None:
    wal = create(directory)
    save(wal, entry(1))
    wal.release_before(1000)
    wal.maintain()
    wal.close()
    assert read(directory).entries == [entry(1)]


def test_segment_cut_while_its_predecessor_is_being_replaced(directory: Path) -> None:
    """A new leader replaces entries from before the cut; then everything up to the cut is released."""
    wal = create(directory)
    save(wal, *entries(1, 30, size=100))
    while wal.segment_count == 1:
        save(wal, *entries(wal._last.index + 1, wal._last.index + 1, size=100))
    cut = wal._segments[-1].first_index
    save(wal, *entries(cut - 5, cut + 5, term=2))
    wal.release_before(cut)
    wal.maintain()
    assert wal.segment_count == 1
    wal.close()
    contents = read(directory)
    assert contents.base == LogPosition(cut - 1, 2)
    assert contents.entries == entries(cut, cut + 5, term=2)


def test_snapshot_restarts_the_log(directory: Path) -> None:
    wal = create(directory)
    save(wal, *entries(1, 5))
    wal.stage(HardState(7, 0, 100), entries(101, 102, term=7), LogPosition(100, 7))
    wal.flush()
    wal.close()
    contents = read(directory)
    assert contents.base == LogPosition(100, 7)
    assert contents.entries == entries(101, 102, term=7)


def test_log_may_begin_behind_a_restored_snapshot(directory: Path) -> None:
    wal = create(directory, base=LogPosition(41, 3))
    save(wal, entry(42, term=4))
    wal.close()
    contents = read(directory)
    assert (contents.base, contents.first_index) == (LogPosition(41, 3), 42)


def test_commit_index_beyond_the_log_is_damage(directory: Path) -> None:
    wal = create(directory)
    save(wal, entry(1), state=HardState(1, 1, 9))
    wal.close()
    with pytest.raises(WalCorruptError, match="9 had been committed"):
        read(directory)


def test_recycled_segment_never_shows_its_earlier_life(directory: Path) -> None:
    """The recycled files are full of frames that were sound once, at the very offsets of the new ones."""
    wal = create(directory)
    recycled = False
    for index in range(1, 300):
        inodes = {path.stat().st_ino for path in directory.iterdir()}
        names = set(segments(directory))
        save(wal, entry(index, data=bytes(100)))
        recycled |= any(path.stat().st_ino in inodes for path in set(segments(directory)) - names)
        wal.release_before(index - 5)
        wal.maintain()
        if index % 10 == 0:
            abandon(wal)
            wal, contents = reopen(directory)
            assert contents.torn is None
            assert contents.last.index == index
            assert [e.index for e in contents.entries] == list(range(contents.first_index, index + 1))
    wal.close()
    assert recycled


def test_stage_and_flush_from_two_threads_lose_nothing(directory: Path) -> None:
    wal = create(directory, segment_bytes=1 << 20, unsafe_no_fsync=True)
    total = 5000
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            wal.flush()
            wal.maintain()

    thread = threading.Thread(target=write)
    thread.start()
    for index in range(1, total + 1):
        wal.stage(None, [entry(index)])
    done.set()
    thread.join()
    wal.close()
    assert [e.index for e in read(directory).entries] == list(range(1, total + 1))
    assert wal.staged_bytes == 0


def test_backlog_is_reported(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "MAX_STAGED_BYTES", 100)
    wal = create(directory)
    assert not wal.backlogged
    wal.stage(None, [entry(1, data=bytes(100))])
    assert wal.backlogged
    wal.flush()
    assert not wal.backlogged
    wal.close()


def test_preparing_goes_in_steps_and_the_cut_takes_what_is_ready(directory: Path) -> None:
    wal = create(directory, segment_bytes=1 << 20)
    steps = 0
    while wal.maintain():
        steps += 1
    assert steps == 4
    prepared = (directory / "next.tmp").stat()
    assert prepared.st_blocks * 512 >= 1 << 20
    save(wal, entry(1, data=bytes(600_000)))
    save(wal, entry(2, data=bytes(600_000)))
    assert segments(directory)[1].stat().st_ino == prepared.st_ino
    wal.close()
    assert read(directory).last.index == 2


# -- what is refused -----------------------------------------------------------------------------------------


def test_no_log_is_told_from_an_empty_one(directory: Path) -> None:
    with pytest.raises(WalMissingError):
        reopen(directory)
    directory.mkdir(parents=True)
    with pytest.raises(WalMissingError):
        reopen(directory)
    (directory / "next.tmp").write_bytes(bytes(10))  # a crash inside `create`
    with pytest.raises(WalMissingError):
        reopen(directory)
    create(directory).close()
    with pytest.raises(WalExistsError):
        create(directory)


def test_log_of_another_node_is_refused(directory: Path) -> None:
    create(directory).close()
    with pytest.raises(WalMetadataError):
        Wal.open(directory, metadata=b"node 2 of cluster 2")


def _three_segments(directory: Path) -> list[Path]:
    wal = create(directory)
    index = 1
    while wal.segment_count < 3:
        save(wal, entry(index, data=bytes(100)))
        index += 1
    wal.close()
    return segments(directory)


def test_missing_segment_is_refused_by_name(directory: Path) -> None:
    files = _three_segments(directory)
    files[1].unlink()
    with pytest.raises(WalCorruptError, match="segment 0000000000000001 is missing") as caught:
        reopen(directory)
    assert caught.value.file == files[2]


def test_segment_under_a_wrong_index_is_refused(directory: Path) -> None:
    files = _three_segments(directory)
    wrong = files[2].with_name("0000000000000002-00000000000000ff.wal")
    files[2].rename(wrong)
    with pytest.raises(WalCorruptError, match="another name") as caught:
        reopen(directory)
    assert caught.value.file == wrong


def test_foreign_name_is_refused_and_other_files_are_left_alone(directory: Path) -> None:
    _three_segments(directory)
    (directory / "notes.txt").write_text("mine")
    read(directory)
    assert (directory / "notes.txt").exists()
    (directory / "backup.wal").write_bytes(b"")
    with pytest.raises(WalCorruptError, match="file name"):
        reopen(directory)


def test_segment_of_another_log_does_not_fit_in(directory: Path, tmp_path: Path) -> None:
    files = _three_segments(directory)
    other = _three_segments(tmp_path / "other")
    files[1].write_bytes(other[1].read_bytes())
    with pytest.raises(WalCorruptError, match="missing or damaged"):
        reopen(directory)


@pytest.mark.parametrize("content", [b"", bytes(SEGMENT_BYTES)], ids=["zero length", "only zeros"])
def test_last_segment_without_content_was_an_unfinished_cut(directory: Path, content: bytes) -> None:
    files = _three_segments(directory)
    expected = read(directory).entries
    blank = files[2].with_name("0000000000000003-%016x.wal" % (expected[-1].index + 1))
    blank.write_bytes(content)
    wal, contents = reopen(directory)
    assert contents.entries == expected
    assert not blank.exists()
    following = expected[-1].index + 1
    for index in range(following, following + 50):
        save(wal, entry(index, data=bytes(100)))
    wal.close()
    assert read(directory).last.index == following + 49


def test_unfinished_cut_proves_the_segment_before_to_be_durable(directory: Path) -> None:
    files = _three_segments(directory)
    end = [report.end_offset for report in verify(directory)][-1]
    files[2].with_name("0000000000000003-0000000000000fff.wal").write_bytes(b"")
    flip(files[2], end - 1)
    with pytest.raises(WalCorruptError):
        reopen(directory)


def test_leftovers_of_preparation_are_removed(directory: Path) -> None:
    create(directory).close()
    for name in ("next.tmp", "spare.tmp", "large.tmp"):
        (directory / name).write_bytes(bytes(100))
    read(directory)
    assert [path.suffix for path in directory.iterdir()] == [".wal"]


def test_verify_reports_each_segment_and_changes_nothing(directory: Path) -> None:
    files = _three_segments(directory)
    before = [path.read_bytes() for path in files]
    reports = list(verify(directory))
    assert [report.file for report in reports] == files
    assert [report.sequence for report in reports] == [0, 1, 2]
    assert reports[0].last_index + 1 == reports[1].first_index
    assert all(report.torn is None for report in reports)
    flip(files[0], reports[0].end_offset - 1)
    with pytest.raises(WalCorruptError):
        list(verify(directory))
    flip(files[0], reports[0].end_offset - 1)
    assert [path.read_bytes() for path in files] == before
