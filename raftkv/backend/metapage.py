"""The two meta pages of an LMDB 0.9 file: as much of its format as it takes to keep and restore a snapshot.

A commit writes one of the first two pages, in turn; the one with the higher transaction id is the newest
snapshot, and every other page is reached from it. So a copy of these pages *is* the snapshot, for as long as
nobody reuses its pages. Little endian and 64 bits: the layout of the machines raftkv runs on, checked against
the magic number.

    page header 16B: page number 8, pad 2, flags 2, lower 2, upper 2
    meta: magic 4, version 4, address 8, map size 8, free-list tree 48, main tree 48, last page 8,
        transaction id 8
    tree 48B: pad 4 (page size, in the free-list tree), flags 2, depth 2, branch 8, leaf 8, overflow 8,
        entries 8, root 8

Knows nothing of tables, checkpoints or the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from raftkv.backend.errors import REBUILD, DamagedError

MAGIC: Final = 0xBEEFC0DE
DATA_VERSION: Final = 1
NO_PAGE: Final = (1 << 64) - 1

_META: Final = Struct("<16xIIQQ" + "IHHQQQQQ" + "48x" + "QQ")
_META_FLAG: Final = 0x08
_FLAGS_AT: Final = 10
MIN_PAGE_BYTES: Final = 512
MAX_PAGE_BYTES: Final = 1 << 16


class MetaPage(NamedTuple):
    """What one meta page says."""

    page_size: int
    map_size_bytes: int
    free_root: int
    """Page number of the root of the free-list tree; NO_PAGE if nothing is free."""
    last_page: int
    """Highest page number in use. The file's content ends with it, however long the (sparse) file is."""
    txn_id: int


class MetaPages(NamedTuple):
    """Both meta pages: the bytes, and what the newer one says."""

    raw: bytes
    newest: MetaPage

    @property
    def size_bytes(self) -> int:
        """Bytes from the begin of the file to the end of the last used page."""
        return (self.newest.last_page + 1) * self.newest.page_size


def parse_meta(page: bytes) -> MetaPage | None:
    """None if these bytes are not a meta page of this format."""
    if len(page) < _META.size or not page[_FLAGS_AT] & _META_FLAG:
        return None
    magic, version, _, map_size, page_size, _, _, _, _, _, _, free_root, last_page, txn_id = _META.unpack_from(page)
    if magic != MAGIC or version != DATA_VERSION:
        return None
    if page_size & (page_size - 1) or not MIN_PAGE_BYTES <= page_size <= MAX_PAGE_BYTES or last_page < 1:
        return None
    return MetaPage(page_size, map_size, free_root, last_page, txn_id)


def parse_metas(raw: bytes) -> MetaPages | None:
    """`raw` begins with the first two pages; what follows them is cut off. None if either is not a meta
    page."""
    first = parse_meta(raw)
    if first is None or len(raw) < 2 * first.page_size:
        return None
    second = parse_meta(raw[first.page_size :])
    if second is None or second.page_size != first.page_size:
        return None
    return MetaPages(raw[: 2 * first.page_size], first if first.txn_id > second.txn_id else second)


def read_metas(fd: int, path: Path) -> MetaPages:
    """The meta pages of an open data file. Raises DamagedError if it is not one."""
    raw = os.pread(fd, 2 * MAX_PAGE_BYTES, 0)
    metas = parse_metas(raw)
    if metas is None:
        raise DamagedError(
            path,
            "this is not an LMDB 0.9 data file" if raw else "the file is empty",
            REBUILD,
        )
    return metas
