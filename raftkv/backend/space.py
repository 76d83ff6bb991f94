"""Room on the file system: blocks reserved ahead of the last used page, and the pages that are free inside.

With a writable map, a page of a sparse file that finds no block on a full disk kills the process (SIGBUS). So
blocks are reserved first, and `Backend.reserve` tells whoever wants to write whether the growth is covered.
On copy-on-write file systems (btrfs, ZFS) a reservation is only a hope; put the data directory elsewhere.

Knows the data file by its descriptor only.
"""

from __future__ import annotations

import errno
import os
from struct import Struct
from typing import Final

from raftkv.backend.errors import NoSpaceError
from raftkv.backend.metapage import NO_PAGE, MetaPage

RESERVE_STEP_BYTES: Final = 64 << 20

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Reservation:
    """Blocks of one data file that are surely there.

    `reserved_bytes`: every block below this offset exists. Never decreases.
    """

    __slots__ = ("_fd", "_limit_bytes", "_step_bytes", "reserved_bytes")

    def __init__(self, fd: int, step_bytes: int, limit_bytes: int) -> None:
        """`limit_bytes`: the map size, beyond which LMDB cannot grow anyway."""
        self._fd = fd
        self._step_bytes = step_bytes
        self._limit_bytes = limit_bytes
        self.reserved_bytes = 0

    def extend(self, needed_bytes: int) -> None:
        """Slow path: makes blocks up to `needed_bytes` + one step exist; if the disk has not that much, up to
        `needed_bytes`. Raises NoSpaceError, with everything reserved before intact."""
        if needed_bytes > self._limit_bytes:
            raise NoSpaceError(f"the map ends at {self._limit_bytes} bytes, {needed_bytes} are needed")
        for target in (min(needed_bytes + self._step_bytes, self._limit_bytes), needed_bytes):
            try:
                # From the old end, not from 0, so that the cost is that of the new blocks alone, and because where the
                # file system cannot do this, libc writes a byte per block: no open transaction reaches that far.
                os.posix_fallocate(self._fd, self.reserved_bytes, target - self.reserved_bytes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                continue
            self.reserved_bytes = target
            return
        missing = needed_bytes - self.reserved_bytes
        raise NoSpaceError(f"the file system has no {missing} bytes more for the data file")


_PAGE_HEADER: Final = Struct("<10xHH2x")
"""Flags, and the offset behind the last node pointer. Node pointers (2B each) follow the header."""
_BRANCH_NODE: Final = Struct("<HHH")
"""Child page number, in three parts; the key is of no interest."""
_LEAF_NODE: Final = Struct("<4xHHQQ")
"""Flags, key size (8), key (transaction id), then the number of pages, or the page that holds it."""
_U64: Final = Struct("<Q")
_BRANCH_PAGE: Final = 0x01
_BIG_DATA: Final = 0x01


def count_free_pages(fd: int, meta: MetaPage) -> int:
    """Pages on the free list of a snapshot: LMDB will use them before the file grows (PY-31).

    Reads the free-list tree: transaction id -> (number of pages 8B, page numbers 8B each). That is one entry
    per transaction whose pages are not reused yet, so checkpoints keep it short; an old pin makes it long. Nobody
    may commit while this runs.
    """
    if meta.free_root == NO_PAGE:
        return 0
    size, total, todo = meta.page_size, 0, [meta.free_root]
    while todo:
        page = os.pread(fd, size, todo.pop() * size)
        flags, lower = _PAGE_HEADER.unpack_from(page)
        pointers = memoryview(page)[_PAGE_HEADER.size : lower].cast("H")
        if flags & _BRANCH_PAGE:
            for node in pointers:
                low, middle, high = _BRANCH_NODE.unpack_from(page, node)
                todo.append(low | middle << 16 | high << 32)
            continue
        for node in pointers:
            node_flags, _, _, value = _LEAF_NODE.unpack_from(page, node)
            if node_flags & _BIG_DATA:
                (value,) = _U64.unpack(os.pread(fd, 8, value * size + _PAGE_HEADER.size))
            total += value
    return total
