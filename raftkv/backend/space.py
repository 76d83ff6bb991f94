"""Room on the file system: blocks reserved ahead of the last used page, and the pages that are free inside.

With a writable map, a page of a sparse file that finds no block on a full disk kills the process (SIGBUS). So
blocks are reserved first, and `Backend.reserve` tells whoever wants to write whether the growth is covered.
On copy-on-write file systems (btrfs, ZFS) a reservation is only a hope; put the data directory elsewhere.

Knows the data file by its descriptor only, and transactions by what they were announced to write.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from struct import Struct
from typing import Final

from raftkv.backend.errors import NoSpaceError
from raftkv.backend.metapage import NO_PAGE, MetaPage

_log = logging.getLogger(__name__)

RESERVE_STEP_BYTES: Final = 64 << 20

MAX_OPEN_PAGES: Final = 100_000
"""LMDB gives up (MDB_TXN_FULL) at 131,071 dirty pages in one transaction."""
MAX_OPEN_BYTES: Final = 32 << 20
SPLITS_BYTES: Final = 1 << 20
"""For new pages in a file that has few."""

FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the kernel says when a file cannot have more blocks."""


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
                if error.errno not in FULL_ERRNOS:
                    raise
                continue
            self.reserved_bytes = target
            return
        missing = needed_bytes - self.reserved_bytes
        raise NoSpaceError(f"the file system has no {missing} bytes more for the data file")


class Room:
    """What the open transaction may take beyond the last commit, against the blocks that are reserved.

    All figures are upper bounds: of the values as announced, and of the pages that may have been copied.
    """

    __slots__ = ("_open_pages", "_page_size", "_reservation", "_size_bytes", "open_bytes")

    def __init__(self, reservation: Reservation, page_size: int) -> None:
        self._reservation = reservation
        self._page_size = page_size
        self._size_bytes = 0
        """Of the last commit."""
        self._open_pages = 0
        """Pages that the open transaction may have dirtied."""
        self.open_bytes = 0
        """Values written into it, as announced."""

    def note_end(self, size_bytes: int) -> None:
        """The open transaction was committed or undone; the last commit ends at `size_bytes`."""
        self._size_bytes = size_bytes
        self.open_bytes = self._open_pages = 0

    def note(self, value_bytes: int, pages: int) -> None:
        """So much more may be written into the open transaction."""
        self.open_bytes += value_bytes
        self._open_pages += pages

    def check(self, value_bytes: int, pages: int) -> None:
        """Makes blocks for so much more exist. Raises NoSpaceError."""
        self._must_have(self._growth(value_bytes, pages))

    def reserve(self, extra_bytes: int) -> None:
        """The same for bytes of new pages."""
        self._must_have(self._growth(0, 0) + extra_bytes)

    def reserve_if_there_is(self) -> None:
        """At open: without room ahead reading works all the same, and writes are refused later."""
        try:
            self.reserve(0)
        except NoSpaceError as error:
            _log.warning("no room ahead of the data file", extra={"kv": {"error": str(error)}})

    @property
    def commit_due(self) -> bool:
        return self._growth(0, 0) >= MAX_OPEN_PAGES * self._page_size or self.open_bytes >= MAX_OPEN_BYTES

    @property
    def reserved_bytes(self) -> int:
        return self._reservation.reserved_bytes

    def _growth(self, value_bytes: int, pages: int) -> int:
        copies_bytes = (self._open_pages + pages) * self._page_size
        return self.open_bytes + value_bytes + min(copies_bytes, self._size_bytes + SPLITS_BYTES)

    def _must_have(self, growth_bytes: int) -> None:
        needed_bytes = self._size_bytes + growth_bytes
        if needed_bytes > self._reservation.reserved_bytes:
            self._reservation.extend(needed_bytes)


def close_in_thread(fd: int) -> None:
    """Closes what may be the last descriptor of a file without a name.

    Freeing its blocks takes the kernel about 0.2 s per GiB, which nobody needs to wait for.
    """
    threading.Thread(target=os.close, args=(fd,), name="free-blocks", daemon=True).start()


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
