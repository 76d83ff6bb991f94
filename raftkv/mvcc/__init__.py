"""The multi-version key-value store, and the watch hub that spreads its events."""

from raftkv.mvcc.errors import CompactedError, FutureRevisionError, KeyNotFoundError, MvccError
from raftkv.mvcc.frames import KeyState
from raftkv.mvcc.hashkv import HashResult, HashScan
from raftkv.mvcc.pages import RangePages
from raftkv.mvcc.query import Filters, RangeQuery
from raftkv.mvcc.scan import RangeResult, RangeScan
from raftkv.mvcc.store import Store
from raftkv.mvcc.writer import Change, LeaseMove, Writer

__all__ = [
    "Change",
    "CompactedError",
    "Filters",
    "FutureRevisionError",
    "HashResult",
    "HashScan",
    "KeyNotFoundError",
    "KeyState",
    "LeaseMove",
    "MvccError",
    "RangePages",
    "RangeQuery",
    "RangeResult",
    "RangeScan",
    "Store",
    "Writer",
]
