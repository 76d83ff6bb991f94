"""Maintenance.Hash: one number for everything in the store, for tests (MT-25).

CRC-32 Castagnoli over the tables in a fixed order, each with its name. Left out is what differs between members that
applied the same entries: how far the log got, versions, ids of this member, and what can be made again from the rest
(history, blocks, lease_keys; keys are hashed as users know them, not as they are cut into nodes).

Members with the same history and the same state of their compactions give the same number. What a compaction made
unreadable counts until it is physically gone, which is each member's own pace: compare HashKV, or wait.
Owns what is hashed. Like RangeScan it works in slices, on one snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import google_crc32c

from raftkv.backend import Meta
from raftkv.backend.schema import U64
from raftkv.mvcc.userkeys import walk

if TYPE_CHECKING:
    from raftkv.backend import ReadTxn, Tables

SLICE_RECORDS: Final = 2000
"""Per step: a few milliseconds."""
SLICE_BYTES: Final = 4 << 20
"""Per step, besides the record that crosses the line."""

_WHOLE_TABLES: Final = ("events", "leases", "auth_users", "auth_roles", "members", "members_removed", "alarms")
"""Hashed as they lie on the disk."""
_META: Final = (
    Meta.AUTH_ENABLED,
    Meta.AUTH_REVISION,
    Meta.CLUSTER_ID,
    Meta.CLUSTER_VERSION,
    Meta.COMPACT_SCHEDULED,
    Meta.CONF_STATE,
    Meta.DOWNGRADE,
    Meta.LIVE_KEYS,
)
"""Of `meta`: what entries decided."""


class StoreHash:
    """One run. `step` until it is True, then `result`."""

    __slots__ = ("_crc", "_records")

    def __init__(self, txn: ReadTxn, tables: Tables) -> None:
        self._crc = 0
        self._records = _records(txn, tables)

    def step(self) -> bool:
        """Hashes one slice. True: done."""
        crc, bytes_left = self._crc, SLICE_BYTES
        for record in islice(self._records, SLICE_RECORDS):
            crc = google_crc32c.extend(crc, record)
            bytes_left -= len(record)
            if bytes_left <= 0:
                break
        else:
            self._crc = crc
            return self._is_at_end()
        self._crc = crc
        return False

    def _is_at_end(self) -> bool:
        """After a slice that was not cut short by its bytes: whether it was cut short by the end."""
        record = next(self._records, None)
        if record is None:
            return True
        self._crc = google_crc32c.extend(self._crc, record)
        return False

    def result(self) -> int:
        return self._crc


def _records(txn: ReadTxn, tables: Tables) -> Iterator[bytes]:
    yield from _told("current", walk(txn, tables, b"\x00", None))
    for name in _WHOLE_TABLES:
        yield from _told(name, txn.cursor(getattr(tables, name)))
    meta = ((key, txn.get(key, b"", tables.meta)) for key in _META)
    yield from _told("meta", meta)


def _told(name: str, items: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Lengths stand before what they are lengths of: a run of records can be read in one way only."""
    yield name.encode()
    for key, value in items:
        yield U64.pack(len(key)) + key + U64.pack(len(value)) + value
