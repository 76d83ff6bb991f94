"""Power cuts, torn tails and flipped bits: what was acknowledged is there, and nothing was made up.

`PowerLoss` sits between the log and the kernel. It knows for every file what has been synced, can stop the
machine before any system call, and then lays out what a disk may hold: each sector written since the last
sync is there or not, each directory change since the last directory sync happened or not.
"""

import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from wal_support import (
    SEGMENT_BYTES,
    LogModel,
    abandon,
    copy,
    create,
    entries,
    entry,
    flip,
    read,
    reopen,
    save,
    segments,
)

from raftkv.raft import HardState
from raftkv.wal import LogPosition, Wal, WalContents, WalCorruptError, WalMissingError, verify
from raftkv.wal.reader import LogReader

SECTOR = 512


class PowerCut(BaseException):
    """The machine is off. Not an Exception, so that nothing in the log can handle it."""


class PowerLoss:
    """Watches the system calls on one directory, and knows what of it would survive now."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory = directory
        self._rng = rng
        self._calls_left = -1
        self._files: dict[int, int] = {}
        """inode -> a descriptor of our own, so that a deleted file can still be read."""
        self._durable: dict[int, bytes] = {}
        self._durable_names: dict[str, int] = {}
        self.synced_all()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name, wrapper in {
            "pwritev": self._before,
            "posix_fallocate": self._before,
            "ftruncate": self._before,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "rename": self._change_names,
            "unlink": self._change_names,
        }.items():
            patch.setattr(os, name, wrapper(getattr(os, name)))

    def cut_after(self, calls: int) -> None:
        self._calls_left = calls

    def synced_all(self) -> None:
        """Take everything as it is now for durable."""
        self._forget()
        self._adopt()
        self._durable = {inode: self._content(fd) for inode, fd in self._files.items()}
        self._durable_names = self._names()

    def restart(self) -> None:
        """Replace the directory by something the disk may hold after the cut.

        Or, sometimes, only the process was killed: nothing is lost, but nothing has become durable either.
        """
        self._calls_left = -1
        if self._rng.random() < 0.3:
            return
        self._adopt()
        names = self._rng.choice([self._names(), self._durable_names])
        survivors = {name: self._survivor(inode) for name, inode in sorted(names.items())}
        for path in list(self._directory.iterdir()):
            path.unlink()
        for name, content in survivors.items():
            (self._directory / name).write_bytes(content)
        self.synced_all()

    def close(self) -> None:
        self._forget()

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._spend()
            return call(*args, **kwargs)

        return wrapped

    def _sync(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(descriptor: int) -> None:
            self._spend()
            call(descriptor)
            self._adopt()
            inode = os.fstat(descriptor).st_ino
            if inode == self._directory.stat().st_ino:
                self._durable_names = self._names()
            elif inode in self._files:
                self._durable[inode] = self._content(self._files[inode])

        return wrapped

    def _change_names(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> None:
            self._spend()
            self._adopt()
            call(*args, **kwargs)

        return wrapped

    def _spend(self) -> None:
        if self._calls_left == 0:
            raise PowerCut
        self._calls_left -= 1

    def _names(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self._directory.iterdir()}

    def _adopt(self) -> None:
        for name, inode in self._names().items():
            if inode not in self._files:
                self._files[inode] = os.open(self._directory / name, os.O_RDONLY)

    def _forget(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    @staticmethod
    def _content(descriptor: int) -> bytes:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def _survivor(self, inode: int) -> bytes:
        old, new = self._durable.get(inode, b""), self._content(self._files[inode])
        size = self._rng.choice([len(old), len(new)])
        old, new = old.ljust(size, b"\0")[:size], new.ljust(size, b"\0")[:size]
        lost = self._rng.choice([0.0, 0.5, 1.0])
        return b"".join((old if self._rng.random() < lost else new)[at : at + SECTOR] for at in range(0, size, SECTOR))


class Life:
    """One process on the log: random work, remembering which states a crash may leave."""

    def __init__(self, wal: Wal, model: LogModel, rng: random.Random) -> None:
        self._wal = wal
        self._rng = rng
        self.states = [deepcopy(model)]
        """The model after each unit staged since the last sync, beginning with the last synced one."""

    def work(self) -> None:
        action = self._rng.choices(
            [self._append, self._flush, self._commit, self._replace, self._maintain, self._snapshot],
            [8, 8, 3, 1, 6, 0.3],
        )[0]
        action()

    def _stage(self, change: Callable[[LogModel], None]) -> None:
        model = deepcopy(self.states[-1])
        change(model)
        self.states.append(model)

    @property
    def _committed(self) -> int:
        return self.states[0].hard_state.commit

    def _append_from(self, first: int) -> None:
        term = self.states[-1].hard_state.term + 1
        last = first + self._rng.randrange(4)
        new = entries(first, last, term=term, size=self._rng.choice([0, 30, 700]))
        state = HardState(term, self._rng.randrange(5), self.states[-1].hard_state.commit)

        def change(model: LogModel) -> None:
            model.append(new)
            model.hard_state = state

        self._stage(change)
        self._wal.stage(state, new)

    def _append(self) -> None:
        self._append_from(self.states[-1].last.index + 1)

    def _replace(self) -> None:
        lowest = max(self.states[-1].hard_state.commit, self.states[-1].base.index) + 1
        self._append_from(self._rng.randint(lowest, self.states[-1].last.index + 1))

    def _commit(self) -> None:
        newest = self.states[-1]
        state = newest.hard_state._replace(commit=self._rng.randint(newest.hard_state.commit, newest.last.index))
        self._stage(lambda model: setattr(model, "hard_state", state))
        self._wal.stage(state, [])

    def _snapshot(self) -> None:
        position = LogPosition(self.states[-1].last.index + 5, self.states[-1].hard_state.term)
        state = self.states[-1].hard_state._replace(commit=position.index)

        def change(model: LogModel) -> None:
            model.restart_behind(position)
            model.hard_state = state

        self._stage(change)
        self._wal.stage(state, [], position)

    def _flush(self) -> None:
        if self._wal.flush().sync_s:
            del self.states[:-1]

    def _maintain(self) -> None:
        self._wal.release_before(self._rng.randint(0, self._committed + 1))
        self._wal.maintain()


def survivor(states: list[LogModel], contents: WalContents) -> LogModel:
    """The state that the log came back with: the last synced one or a later one, entirely."""
    for model in reversed(states):
        try:
            model.check(contents)
        except AssertionError:
            continue
        assert contents.base.index <= max(states[0].hard_state.commit, model.base.index), "released too much"
        return model
    pytest.fail(f"the log came back as none of the possible states: {contents}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "wal"


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _live_until_power_cut(life: Life, wal: Wal) -> None:
    try:
        while True:
            life.work()
    except PowerCut:
        abandon(wal)


@pytest.mark.parametrize("seed", range(40))
def test_every_acknowledged_state_survives_power_cuts(directory: Path, patch: pytest.MonkeyPatch, seed: int) -> None:
    """RF-40, RF-47. Several lives on one log, each ended by a power cut, also while opening."""
    rng = random.Random(seed)
    directory.mkdir()
    loss = PowerLoss(directory, rng)
    create(directory).close()
    loss.synced_all()
    loss.install(patch)
    states = [LogModel()]
    for _ in range(8):
        loss.cut_after(rng.choice([rng.randrange(8), rng.randrange(150)]))
        try:
            wal, contents = reopen(directory)
        except PowerCut:
            loss.restart()
            continue
        life = Life(wal, survivor(states, contents), rng)
        _live_until_power_cut(life, wal)
        loss.restart()
        states = life.states
    wal, contents = reopen(directory)
    wal.close()
    loss.close()
    survivor(states, contents)


@pytest.mark.parametrize("calls", range(12))
def test_power_cut_inside_create_leaves_a_log_or_none(directory: Path, patch: pytest.MonkeyPatch, calls: int) -> None:
    for seed in range(6):
        home = directory / str(seed)
        home.mkdir(parents=True)
        loss = PowerLoss(home, random.Random(seed))
        with pytest.MonkeyPatch.context() as inner:
            loss.install(inner)
            loss.cut_after(calls)
            try:
                abandon(create(home))
            except PowerCut:
                pass
            loss.restart()
        try:
            assert read(home).entries == []
        except WalMissingError:
            create(home).close()
            assert read(home).entries == []
        loss.close()


# -- the last write, sector by sector ------------------------------------------------------------------------


def test_any_subset_of_the_sectors_of_the_last_write(directory: Path, tmp_path: Path) -> None:
    wal = create(directory)
    save(wal, *entries(1, 3, size=150), state=HardState(1, 1, 2))
    before = segments(directory)[0].read_bytes()
    save(wal, *entries(3, 9, term=2, size=150), state=HardState(2, 1, 2))
    after = segments(directory)[0].read_bytes()
    abandon(wal)
    sectors = [at for at in range(0, SEGMENT_BYTES, SECTOR) if before[at : at + SECTOR] != after[at : at + SECTOR]]
    assert 3 <= len(sectors) <= 6
    for subset in range(1 << len(sectors)):
        disk = bytearray(before)
        for bit, at in enumerate(sectors):
            if subset >> bit & 1:
                disk[at : at + SECTOR] = after[at : at + SECTOR]
        home = copy(directory, tmp_path / "crashed")
        segments(home)[0].write_bytes(disk)
        whole = subset == (1 << len(sectors)) - 1
        expected = entries(1, 2, size=150) + entries(3, 9, term=2, size=150) if whole else entries(1, 3, size=150)
        wal, contents = reopen(home)
        assert contents.entries == expected
        # The log goes on where it now ends, and is whole again.
        following = contents.last.index + 1
        save(wal, entry(following, term=3))
        abandon(wal)
        contents = read(home)
        assert contents.torn is None
        assert contents.entries == [*expected, entry(following, term=3)]


@pytest.mark.parametrize("kept", range(0, 260, 13))
def test_file_that_ends_within_the_last_record(directory: Path, kept: int) -> None:
    wal = create(directory)
    save(wal, entry(1))
    end = wal._offset
    save(wal, entry(2, data=bytes(range(1, 256))))
    abandon(wal)
    os.truncate(segments(directory)[0], end + kept)
    contents = read(directory)
    assert contents.entries == [entry(1)]
    assert contents.torn is not None
    assert (contents.torn.file, contents.torn.offset) == (segments(directory)[0], end)
    assert contents.torn.size_bytes <= kept
    assert segments(directory)[0].stat().st_size == SEGMENT_BYTES
    assert read(directory).torn is None


@pytest.mark.parametrize("place", ["behind the last record", "behind the end of the file"])
def test_garbage_behind_the_log_is_cut_and_reported(directory: Path, place: str) -> None:
    wal = create(directory)
    save(wal, entry(1))
    end = wal._offset
    abandon(wal)
    with segments(directory)[0].open("r+b") as file:
        file.seek(end if place == "behind the last record" else SEGMENT_BYTES)
        file.write(b"garbage")
    contents = read(directory)
    assert contents.entries == [entry(1)]
    assert contents.torn is not None
    assert contents.torn.offset == end
    assert read(directory).torn is None
    assert segments(directory)[0].stat().st_size == SEGMENT_BYTES


# -- one flipped bit anywhere --------------------------------------------------------------------------------


def _flip_each(directory: Path, file: Path, stop: int) -> Iterator[tuple[int, WalContents | WalCorruptError]]:
    """What reading says with one bit flipped in each byte of [0, stop)."""
    for offset in range(stop):
        mask = 1 << offset % 8
        flip(file, offset, mask)
        reader = LogReader(directory)
        try:
            for _ in reader.run():
                pass
            yield offset, reader.contents
        except WalCorruptError as error:
            yield offset, error
        flip(file, offset, mask)


def test_flipped_bit_after_a_crash_is_refused_or_torn(directory: Path) -> None:
    """RF-47. Before the last record it is refused, with file and offset; within it the tail is cut."""
    wal = create(directory)
    save(wal, *entries(1, 2), state=HardState(1, 1, 1))
    save(wal, *entries(3, 4), state=HardState(1, 1, 3))
    last_record = wal._offset
    save(wal, *entries(5, 6), state=HardState(1, 1, 5))
    end = wal._offset
    abandon(wal)
    file = segments(directory)[0]
    for offset, outcome in _flip_each(directory, file, end):
        if offset < last_record:
            assert isinstance(outcome, WalCorruptError), offset
            assert outcome.file == file
            assert outcome.offset <= offset
        else:
            assert isinstance(outcome, WalContents), offset
            assert outcome.torn is not None
            assert outcome.torn.offset == last_record
            assert outcome.entries == entries(1, 4)
            assert outcome.hard_state == HardState(1, 1, 3)


def test_flipped_bit_after_a_clean_close_is_refused(directory: Path) -> None:
    """The SEAL proves all records to have been durable; only the SEAL itself may still be torn."""
    wal = create(directory)
    save(wal, *entries(1, 2))
    save(wal, *entries(3, 4))
    records_end = wal._offset
    wal.close()
    end = [report.end_offset for report in verify(directory)][-1]
    for offset, outcome in _flip_each(directory, segments(directory)[0], end):
        if offset < records_end:
            assert isinstance(outcome, WalCorruptError), offset
        else:
            assert isinstance(outcome, WalContents)
            assert outcome.torn is not None
            assert outcome.entries == entries(1, 4)


def test_flipped_bit_in_an_earlier_segment_is_refused(directory: Path) -> None:
    wal = create(directory)
    for index in range(1, 10):
        save(wal, entry(index, data=bytes(700)))
    abandon(wal)
    first = next(verify(directory))
    assert wal.segment_count == 2
    for offset, outcome in _flip_each(directory, first.file, first.end_offset):
        assert isinstance(outcome, WalCorruptError), offset
        assert outcome.file == first.file


def test_lost_sector_before_durable_records_is_refused(directory: Path) -> None:
    """A hole of zeros looks like the end of the log; the records behind prove that it is not."""
    wal = create(directory)
    save(wal, entry(1))
    start = wal._offset
    save(wal, entry(2, data=bytes(range(256)) * 2))
    save(wal, entry(3))
    abandon(wal)
    with segments(directory)[0].open("r+b") as file:
        file.seek(start)
        file.write(bytes(256))
    with pytest.raises(WalCorruptError) as caught:
        reopen(directory)
    assert caught.value.offset == start


def test_unsynced_record_lost_before_another_unsynced_one_is_torn(directory: Path) -> None:
    """RF-41: a commit index is written without a sync, so the next record proves nothing about it."""
    wal = create(directory)
    save(wal, entry(1), state=HardState(1, 1, 0))
    start = wal._offset
    save(wal, state=HardState(1, 1, 1))
    following = wal._offset
    save(wal, entry(2))
    abandon(wal)
    with segments(directory)[0].open("r+b") as file:
        file.seek(start)
        file.write(bytes(following - start))
    contents = read(directory)
    assert contents.entries == [entry(1)]
    assert contents.torn is not None
    assert contents.torn.offset == start
    # The record that survived in vain is gone: the end of a later one could have met it.
    assert not any(segments(directory)[0].read_bytes()[following:])


def test_value_that_looks_like_a_record_proves_nothing(directory: Path) -> None:
    """A client may store the very bytes of a log in its values."""
    wal = create(directory)
    save(wal, entry(1))
    start = wal._offset
    save(wal, entry(2, data=segments(directory)[0].read_bytes()[:512] * 3))
    abandon(wal)
    flip(segments(directory)[0], start + 5)
    contents = read(directory)
    assert contents.entries == [entry(1)]
    assert contents.torn is not None


def test_damage_leaves_the_directory_untouched(directory: Path) -> None:
    wal = create(directory)
    save(wal, entry(1))
    end = wal._offset
    save(wal, entry(2))
    abandon(wal)
    flip(segments(directory)[0], end - 8)
    (directory / "next.tmp").write_bytes(b"evidence")
    before = {path: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(WalCorruptError):
        reopen(directory)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
