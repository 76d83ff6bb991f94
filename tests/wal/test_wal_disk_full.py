"""No room and broken disks: told early where possible, told by type always, and never tried twice."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from wal_support import SEGMENT_BYTES, create, entry, read, reopen, save, segments

from raftkv.raft import HardState
from raftkv.wal import WalFullError, WalIoError
from raftkv.wal import wal as wal_module


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond `size_bytes`: the kernel's own refusal, without a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(number: int) -> "object":
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "wal"


def test_want_of_room_is_told_while_the_segment_in_use_still_has_some(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_module, "RESERVE_BYTES", 1000)
    wal = create(directory)
    with file_size_limit(SEGMENT_BYTES - 1):
        assert not wal.maintain()
        assert wal.preallocate_failed
        assert not (directory / "next.tmp").exists()  # gives back what it had got
        index = 0
        while wal.room_bytes > 200:
            index += 1
            save(wal, entry(index, data=bytes(100)))
        assert index > 5
        # The reserve: a term and a vote, and the entry that raises the alarm, still go through.
        save(wal, entry(index + 1, data=bytes(200)), state=HardState(1, 1, 0))
        # Not tried again until somebody says that there may be room.
        assert not wal.maintain()
    assert not wal.maintain()
    assert wal.preallocate_failed
    assert wal.disk_has_room(), "a limit of its own is nothing that the file system knows"
    wal.retry_preallocation()
    wal.maintain()
    assert not wal.preallocate_failed
    assert wal.room_bytes > SEGMENT_BYTES - 1000
    wal.close()
    assert read(directory).last.index == index + 1


@pytest.mark.parametrize(("free_blocks", "has_room"), [(1, True), (0, False)])
def test_the_file_system_counts_the_blocks_for_a_whole_segment(
    directory: Path, monkeypatch: pytest.MonkeyPatch, free_blocks: int, has_room: bool
) -> None:
    wal = create(directory)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free_blocks, f_frsize=SEGMENT_BYTES))
    assert wal.disk_has_room() is has_room
    wal.close()


def test_released_segment_ends_the_want_of_room(directory: Path) -> None:
    wal = create(directory)
    index = 0
    while wal.segment_count < 2:
        index += 1
        save(wal, entry(index, data=bytes(100)))
    with file_size_limit(SEGMENT_BYTES - 1):
        wal.maintain()
        assert wal.preallocate_failed
        wal.release_before(index)
        wal.maintain()
        assert not wal.preallocate_failed
        while wal.segment_count < 2:
            index += 1
            save(wal, entry(index, data=bytes(100)))
    wal.close()
    assert read(directory).last.index == index


def test_full_disk_at_the_cut_stops_the_log(directory: Path) -> None:
    """RF-73."""
    wal = create(directory)
    index = 0
    with file_size_limit(SEGMENT_BYTES - 1):
        while wal.room_bytes + wal_module.RESERVE_BYTES > 200:
            index += 1
            save(wal, entry(index, data=bytes(100)))
        wal.stage(None, [entry(index + 1, data=bytes(300))])
        with pytest.raises(WalFullError):
            wal.flush()
    wal.stage(None, [entry(index + 2)])
    with pytest.raises(WalIoError, match="earlier failure"):
        wal.flush()
    with pytest.raises(WalIoError, match="earlier failure"):
        wal.maintain()
    wal.close()
    contents = read(directory)
    assert contents.last.index == index
    assert contents.torn is None
    assert len(segments(directory)) == 1


def test_full_disk_at_creation(directory: Path) -> None:
    with file_size_limit(SEGMENT_BYTES - 1), pytest.raises(WalFullError):
        create(directory)
    assert list(directory.iterdir()) == []
    create(directory).close()


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
def test_failed_flush_is_never_tried_again(directory: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """RF-73. After a failed fdatasync the page cache may claim success for data that is gone."""
    wal = create(directory)
    save(wal, entry(1))
    wal.stage(None, [entry(2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EIO))
        with pytest.raises(WalIoError) as caught:
            wal.flush()
    assert not isinstance(caught.value, WalFullError)
    assert wal.staged_bytes > 0
    wal.stage(None, [entry(3)])
    with pytest.raises(WalIoError, match="earlier failure"):
        wal.flush()
    wal.close()
    contents = read(directory)
    assert contents.entries[0] == entry(1)
    assert entry(3) not in contents.entries


def test_short_write_goes_on_where_it_stopped(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = create(directory)
    whole = os.pwritev

    def short(descriptor: int, parts: list[bytes], offset: int) -> int:
        return whole(descriptor, [b"".join(parts)[:33]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", short)
        save(wal, entry(1), entry(2))
    wal.close()
    assert read(directory).entries == [entry(1), entry(2)]


def test_failed_preparation_for_another_reason_stops_the_log(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = create(directory)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", failing(errno.EIO))
        with pytest.raises(WalIoError):
            wal.maintain()
    with pytest.raises(WalIoError):
        wal.maintain()
    wal.close()


def test_unreadable_segment_is_an_io_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(directory).close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing(errno.EIO))
        with pytest.raises(WalIoError, match="reading"):
            reopen(directory)


def test_failed_seal_still_closes_the_files(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = create(directory)
    save(wal, entry(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(WalIoError, match="closing"):
            wal.close()
    wal.close()
    assert read(directory).entries == [entry(1)]


def test_without_fsync_only_the_cut_syncs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = create(directory, unsafe_no_fsync=True)
    synced: list[int] = []
    real = os.fdatasync

    def count(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", count)
    wal.stage(None, [entry(1)])
    assert wal.flush().sync_s == 0.0
    assert synced == []
    index = 1
    while wal.segment_count < 2:
        index += 1
        save(wal, entry(index, data=bytes(100)))
    assert len(synced) == 1
    wal.close()
    assert read(directory).last.index == index
