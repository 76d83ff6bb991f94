"""Small stores for the backend's tests, and children that die in the middle of something."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from raftkv.backend import Backend

BOOT = "11111111-1111-1111-1111-111111111111"
NEXT_BOOT = "22222222-2222-2222-2222-222222222222"


_NAME_STEPS = ("rename", "link", "unlink", "mkdir", "rmdir", "open")
_FILE_STEPS = ("fsync", "fdatasync", "ftruncate", "posix_fallocate", "pwrite")
STEPS = (*_NAME_STEPS, *_FILE_STEPS)
"""Calls that change files or names, or read what others have changed."""
CRASHED = 42


class Stores:
    """Opens stores with a small map, and lets go of whatever a test leaves open."""

    def __init__(self) -> None:
        self.opened: list[Backend] = []

    def open(self, directory: Path, boot_id: str = BOOT, map_size_bytes: int = 16 << 20) -> Backend:
        backend = Backend.open(directory, map_size_bytes=map_size_bytes, reserve_step_bytes=64 << 10, boot_id=boot_id)
        self.opened.append(backend)
        return backend

    def drop(self, backend: Backend) -> None:
        """What a dying process does: no checkpoint, no clean mark."""
        backend._env.close()
        os.close(backend._fd)
        backend._lock.release()
        self.opened.remove(backend)

    def close(self, backend: Backend) -> None:
        self.opened.remove(backend)
        backend.close()


def fill(backend: Backend, items: dict[bytes, bytes]) -> None:
    """One commit that puts `items` into `current`."""
    txn = backend.begin_write()
    for key, value in items.items():
        txn.put(key, value, db=backend.tables.current)
    backend.commit()


def content(backend: Backend) -> dict[bytes, bytes]:
    """All of `current`, read with a new transaction."""
    with backend._env.begin() as txn:
        return dict(txn.cursor(db=backend.tables.current))


def checkpoint(backend: Backend) -> None:
    point = backend.begin_checkpoint()
    assert point is not None
    point.sync()
    backend.end_checkpoint(point)


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process that ends without cleaning up. Its exit status; 99 = it raised."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # the child must not return into pytest
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class CrashAt:
    """Ends the process at its nth step: right before a system call that changes files or names."""

    def __init__(self, step: int) -> None:
        self.left = step
        for name in STEPS:
            setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call):  # type: ignore[no-untyped-def]
        def stepped(*args, **kwargs):  # type: ignore[no-untyped-def]
            if self.left == 0:
                os._exit(CRASHED)
            self.left -= 1
            return call(*args, **kwargs)

        return stepped
