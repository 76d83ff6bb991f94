"""The write-ahead log on disk. Start at `Wal`; `reader` says what a crash may leave and what is damage."""

from raftkv.wal.errors import (
    WalCorruptError,
    WalError,
    WalExistsError,
    WalFullError,
    WalIoError,
    WalMetadataError,
    WalMissingError,
)
from raftkv.wal.kernel_sync import UNSUPPORTED, KernelSync
from raftkv.wal.reader import SegmentReport, TornTail, WalContents, verify
from raftkv.wal.records import ORIGIN, LogPosition
from raftkv.wal.wal import SEGMENT_BYTES, FlushResult, Wal

__all__ = [
    "ORIGIN",
    "SEGMENT_BYTES",
    "UNSUPPORTED",
    "FlushResult",
    "KernelSync",
    "LogPosition",
    "SegmentReport",
    "TornTail",
    "Wal",
    "WalContents",
    "WalCorruptError",
    "WalError",
    "WalExistsError",
    "WalFullError",
    "WalIoError",
    "WalMetadataError",
    "WalMissingError",
    "verify",
]
