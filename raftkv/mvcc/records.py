"""One key at one revision: the newest from its record in `current`, an older one by way of `history` and
`events`.

Owns the rule that joins the three tables: `current` holds a key's newest revision, `history` the numbers of
the superseded ones, `events` the bytes of all. Does not know which revisions may be read; its callers check
that first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftkv.backend.errors import SchemaError
from raftkv.backend.handles import Cursor, ReadTxn
from raftkv.backend.schema import CURRENT_HEADER_BYTES, Tables, pack_revision, short_key
from raftkv.mvcc.frames import DELETE_TYPE, KeyState, parse_event
from raftkv.mvcc.userkeys import get_record, walk

LAST_SUB: Final = (1 << 32) - 1
HEADER_BYTES: Final = CURRENT_HEADER_BYTES
"""Where the frame begins in a record; a record that ends there is a tombstone."""


def is_live(record: bytes) -> bool:
    return len(record) > HEADER_BYTES


def newer_than(revision: int) -> bytes:
    """The bound with `record >= bound` for exactly the records modified after `revision` (main revision
    leads)."""
    return (revision + 1).to_bytes(8, "big")


def older_revision(history: Cursor, key: bytes, revision: int) -> bytes | None:
    """The newest superseded revision (12B) of `key` at or below the main revision `revision`; None if there
    is none.

    `history` is a cursor on that table and is left at the answer.
    """
    short = short_key(key)
    if history.set_range_dup(short, pack_revision(revision, LAST_SUB)):
        found = history.prev_dup()
    else:
        found = history.set_key(short) and history.last_dup()
    return history.value() if found else None


def older_frame(txn: ReadTxn, tables: Tables, key: bytes, revision: int) -> bytes | None:
    """The frame of `key` at `revision`, when the record in `current` is newer than that. None: not alive
    then."""
    superseded = older_revision(txn.cursor(tables.history), key, revision)
    if superseded is None:
        return None
    event = txn.get(superseded, None, tables.events)
    if event is None:
        raise SchemaError(f"history names revision {superseded.hex()}, which events does not have")
    return None if event[0] == DELETE_TYPE else event


def frame_at(txn: ReadTxn, tables: Tables, key: bytes, revision: int) -> bytes | None:
    """The frame of `key` at `revision`, None when it was not alive."""
    record = get_record(txn, tables, key)
    if record is None:
        return None
    if record >= newer_than(revision):
        return older_frame(txn, tables, key, revision)
    return record[HEADER_BYTES:] or None


def newest_state(txn: ReadTxn, tables: Tables, key: bytes) -> KeyState | None:
    """The newest revision of `key`, None when it is not alive."""
    record = get_record(txn, tables, key)
    return None if record is None or len(record) == HEADER_BYTES else parse_event(record[HEADER_BYTES:])


def newest_states(txn: ReadTxn, tables: Tables, start: bytes, end: bytes | None) -> Iterator[KeyState]:
    """The live keys in [start, end) at their newest revision, in key order, read as they are asked for."""
    entries = walk(txn, tables, start, end)
    return (parse_event(record[HEADER_BYTES:]) for _, record in entries if len(record) > HEADER_BYTES)
