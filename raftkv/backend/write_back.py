"""Dirty pages of a file written back in small steps, ahead of the sync that makes them durable.

One fdatasync of all that five seconds have changed fills the disk's queue, and the log's own sync waits behind it
(docs/adr/0011). In steps, each waited for, the log finds its way between. Promises nothing about durability: the caller
syncs afterwards, when little is left to do. Made by sync_file_range through ctypes, because the standard library has no
name for it; where it is not to be had nothing happens, and the sync does it all.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

STEP_BYTES: Final = 2 << 20
"""A disk takes a few milliseconds for it."""

_WRITE_AND_WAIT: Final = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, WRITE and WAIT_AFTER."""
_NOT_HERE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ESPIPE, errno.EOPNOTSUPP})
"""Errors that say "not here", and nothing about the data."""


def _find() -> Any:
    """None where the C library has no such function."""
    try:
        found = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found


_sync_file_range: Final = _find()


def write_back(fd: int, size_bytes: int) -> None:
    """Of the file's first `size_bytes`. In a thread: blocks, and lets go of the interpreter.

    Raises OSError when the kernel could not write a page. It tells that once: no later sync of this descriptor will.
    """
    if _sync_file_range is None:
        return
    for offset in range(0, size_bytes, STEP_BYTES):
        if _sync_file_range(fd, offset, min(STEP_BYTES, size_bytes - offset), _WRITE_AND_WAIT):
            code = ctypes.get_errno()
            if code in _NOT_HERE:
                return
            raise OSError(code, os.strerror(code))
