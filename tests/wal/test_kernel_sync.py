"""fdatasync by the kernel, and the log's half of it: `begin_flush` and `end_flush`."""

import errno
import os
import select
from pathlib import Path

import pytest

from raftkv.raft import Entry, HardState
from raftkv.wal import KernelSync, Wal, WalIoError


@pytest.fixture
def kernel() -> KernelSync:
    kernel = KernelSync.open()
    if kernel is None:
        pytest.skip("this kernel does not sync asynchronously; the log is flushed in a thread")
    return kernel


def _wait(kernel: KernelSync) -> None:
    assert select.select([kernel.fileno()], [], [], 30)[0], "the request did not end"


def test_a_sync_ends_with_a_readable_descriptor(kernel: KernelSync, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for _ in range(3):
            os.write(file.fileno(), b"data")
            kernel.submit(file.fileno())
            _wait(kernel)
            kernel.finish()
            assert not select.select([kernel.fileno()], [], [], 0)[0]
    kernel.close()


def test_what_cannot_be_synced_is_an_os_error(kernel: KernelSync) -> None:
    reader, writer = os.pipe()

    def sync() -> None:
        kernel.submit(reader)
        _wait(kernel)
        kernel.finish()

    with pytest.raises(OSError, match="Invalid argument"):
        sync()
    os.close(reader)
    os.close(writer)
    kernel.close()


def _entries(wal: Wal, *data: bytes) -> None:
    for index, each in enumerate(data, 1):
        wal.stage(HardState(1, 1, 0), [Entry(1, index, data=each)])


def test_a_begun_flush_is_a_flush_once_its_end_is_told(tmp_path: Path) -> None:
    wal = Wal.create(tmp_path / "wal", b"")
    _entries(wal, b"one", b"two")
    descriptor = wal.begin_flush()
    assert descriptor is not None
    os.fdatasync(descriptor)
    result = wal.end_flush(0.25, None)
    assert (result.sync_s, wal.staged_bytes) == (0.25, 0)
    wal.close()
    assert [entry.data for entry in Wal.open(tmp_path / "wal")[1].entries] == [b"one", b"two"]


def test_large_flushes_and_those_that_end_a_segment_are_left_to_the_thread(tmp_path: Path) -> None:
    wal = Wal.create(tmp_path / "wal", b"", segment_bytes=1 << 16)
    _entries(wal, bytes(1 << 16))
    assert wal.begin_flush() is None
    assert wal.flush().bytes_written > 1 << 16
    wal.close()


@pytest.mark.parametrize("then", ["begin_flush", "flush", "maintain"])
def test_after_a_failed_sync_nothing_is_written(tmp_path: Path, then: str) -> None:
    """RF-73: the page cache may claim success for data that is gone."""
    wal = Wal.create(tmp_path / "wal", b"")
    _entries(wal, b"one")
    assert wal.begin_flush() is not None
    with pytest.raises(WalIoError):
        wal.end_flush(0.0, OSError(errno.EIO, "Input/output error"))
    wal.stage(None, [Entry(1, 2, data=b"two")])
    with pytest.raises(WalIoError):
        getattr(wal, then)()
