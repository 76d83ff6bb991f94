"""The store on disk: LMDB, its one file of table layouts, and durability by checkpoints.

The only room that imports lmdb. Others get its transactions and table handles, under the names exported here.
"""

from __future__ import annotations

from raftkv.backend.backend import MAP_SIZE_BYTES, Backend
from raftkv.backend.datadir import install
from raftkv.backend.durability import Checkpoint
from raftkv.backend.errors import (
    BackendError,
    DamagedError,
    LockedError,
    NoSpaceError,
    PinsOpenError,
    SchemaError,
    TooManyPinsError,
)
from raftkv.backend.facts import StoreFacts, store_facts
from raftkv.backend.handles import Cursor, Db, ReadTxn, WriteTxn
from raftkv.backend.received import Expected, ReceivedStore, settle_received
from raftkv.backend.recovery import Recovered
from raftkv.backend.schema import Meta, Tables
from raftkv.backend.snapshots import MAX_PINS, Defragmentation, HotCopy, ReadPin

__all__ = [
    "MAP_SIZE_BYTES",
    "MAX_PINS",
    "Backend",
    "BackendError",
    "Checkpoint",
    "Cursor",
    "DamagedError",
    "Db",
    "Defragmentation",
    "Expected",
    "HotCopy",
    "LockedError",
    "Meta",
    "NoSpaceError",
    "PinsOpenError",
    "ReadPin",
    "ReadTxn",
    "ReceivedStore",
    "Recovered",
    "SchemaError",
    "StoreFacts",
    "Tables",
    "TooManyPinsError",
    "WriteTxn",
    "install",
    "settle_received",
    "store_facts",
]
