"""Writing back ahead of a sync: in steps over all that is in use, and what errors mean."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import pytest

from raftkv.backend import write_back as module
from raftkv.backend.write_back import STEP_BYTES, write_back


class Kernel:
    def __init__(self, *errors: int) -> None:
        self.calls: list[tuple[int, int, int, int]] = []
        self._errors = list(errors)

    def __call__(self, fd: int, offset: int, size_bytes: int, flags: int) -> int:
        self.calls.append((fd, offset, size_bytes, flags))
        code = self._errors.pop(0) if self._errors else 0
        ctypes.set_errno(code)
        return -1 if code else 0


@pytest.mark.parametrize("size_bytes", [0, 1, 8192, STEP_BYTES, STEP_BYTES + 4096, 3 * STEP_BYTES - 1])
def test_everything_is_written_in_steps(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    kernel = Kernel()
    monkeypatch.setattr(module, "_sync_file_range", kernel)
    write_back(5, size_bytes)
    at = 0
    for fd, offset, step_bytes, flags in kernel.calls:
        assert (fd, offset, flags) == (5, at, 7), "each is waited for before the next"
        assert 0 < step_bytes <= STEP_BYTES
        at += step_bytes
    assert at == size_bytes


def test_a_page_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells it once: the sync that follows would say that all is well."""
    kernel = Kernel(0, errno.EIO)
    monkeypatch.setattr(module, "_sync_file_range", kernel)
    with pytest.raises(OSError, match="Input/output error") as told:
        write_back(5, 5 * STEP_BYTES)
    assert told.value.errno == errno.EIO
    assert len(kernel.calls) == 2


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ESPIPE])
def test_where_it_is_not_to_be_had_the_sync_does_it_all(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    kernel = Kernel(code)
    monkeypatch.setattr(module, "_sync_file_range", kernel)
    write_back(5, 5 * STEP_BYTES)
    assert len(kernel.calls) == 1
    monkeypatch.setattr(module, "_sync_file_range", None)
    write_back(5, 5 * STEP_BYTES)


def test_the_real_one(tmp_path: Path) -> None:
    """Of what was dirtied through a map, as LMDB does it; beyond the end of the file; and no file at all."""
    if module._sync_file_range is None:
        pytest.skip("the C library here has no sync_file_range")
    path = tmp_path / "data"
    path.write_bytes(bytes(2 * STEP_BYTES))
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as pages:
        pages[STEP_BYTES : STEP_BYTES + 5] = b"dirty"
        write_back(fd, 4 * STEP_BYTES)
    os.close(fd)
    assert path.read_bytes()[STEP_BYTES:][:5] == b"dirty"
    with pytest.raises(OSError, match="Bad file descriptor"):
        write_back(fd, STEP_BYTES)
