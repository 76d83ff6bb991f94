"""User keys of any length in byte order, on top of tables whose keys end at 511 bytes.

A key of up to KEY_CHUNK bytes is its own key in `current`. A longer one hangs below `chunk + LONGER` in
`current_ext`, chunk by chunk (the layout is drawn in backend.schema); such an entry holds an 8-byte node id
where others hold a record. Short keys pay one length comparison for that.

Owns where the record of a key lies, and the one walk over user keys that everybody uses. Records are opaque
here.
"""

from __future__ import annotations

from collections.abc import Iterator

from raftkv.backend.errors import SchemaError
from raftkv.backend.handles import Db, ReadTxn, WriteTxn
from raftkv.backend.schema import (
    KEY_CHUNK,
    LONGER,
    NODE_ID_BYTES,
    Meta,
    Tables,
    pack_u64,
    unpack_u64,
)

FIRST_KEY = b"\x00"
"""The least user key: empty keys do not exist (KV-20)."""


def get_record(txn: ReadTxn, tables: Tables, key: bytes) -> bytes | None:
    """The record of `key` in `current`, live or tombstone."""
    if len(key) <= KEY_CHUNK:
        return txn.get(key, None, tables.current)
    path = _descend(txn, tables, key)
    if path is None:
        return None
    return txn.get(path[-1][1], None, tables.current_ext)


def put_record(txn: WriteTxn, tables: Tables, key: bytes, record: bytes) -> None:
    if len(key) <= KEY_CHUNK:
        txn.put(key, record, True, True, False, tables.current)
        return
    db, entry, at = tables.current, key[:KEY_CHUNK] + LONGER, KEY_CHUNK
    while True:
        node = txn.get(entry, None, db)
        if node is None:
            node = _new_node_id(txn, tables)
            txn.put(entry, node, True, True, False, db)
        db = tables.current_ext
        if len(key) - at <= KEY_CHUNK:
            txn.put(node + key[at:], record, True, True, False, db)
            return
        entry = node + key[at : at + KEY_CHUNK] + LONGER
        at += KEY_CHUNK


def delete_record(txn: WriteTxn, tables: Tables, key: bytes) -> None:
    """Removes the entry of `key`, and with a long key the branches that lead nowhere afterwards."""
    if len(key) <= KEY_CHUNK:
        txn.delete(key, b"", tables.current)
        return
    path = _descend(txn, tables, key)
    if path is None:
        return
    cursor = txn.cursor(tables.current_ext)
    for db, entry in reversed(path):
        txn.delete(entry, b"", db)
        node = entry[:NODE_ID_BYTES]
        if db is tables.current or (cursor.set_range(node) and cursor.key()[:NODE_ID_BYTES] == node):
            return


def walk(txn: ReadTxn, tables: Tables, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """(user key, record) for the keys in [start, end) in byte order; `end` None is no upper bound.

    Nothing in the interval may be removed or inserted while the walk is under way; overwriting is fine.
    """
    cursor = txn.cursor(tables.current)
    if len(start) > KEY_CHUNK:
        branch = start[:KEY_CHUNK] + LONGER
        node = cursor.get(branch)
        if node is not None:
            yield from _walk_below(txn, tables, branch, node, start, end)
        start = branch + LONGER
    if not cursor.set_range(start or FIRST_KEY):
        return
    for key, record in cursor.iternext():
        if end is not None and key >= end:
            return
        if len(record) == NODE_ID_BYTES:
            yield from _walk_below(txn, tables, key, record, b"", end)
        else:
            yield key, record


def _walk_below(
    txn: ReadTxn, tables: Tables, branch: bytes, node: bytes, start: bytes, end: bytes | None
) -> Iterator[tuple[bytes, bytes]]:
    """The keys below `branch` (a key of `current`), from `start` on if that has this prefix (b"" = all of
    them).

    One cursor and a stack of nodes: a key of 1.5 MiB lies 3,200 nodes deep, too deep for recursion.
    """
    cursor = txn.cursor(tables.current_ext)
    nodes, chunks = [node], [branch[:KEY_CHUNK]]
    at = KEY_CHUNK
    while len(start) - at > KEY_CHUNK:
        chunk = start[at : at + KEY_CHUNK]
        child = cursor.get(nodes[-1] + chunk + LONGER)
        if child is None:
            break
        nodes.append(child)
        chunks.append(chunk)
        at += KEY_CHUNK
    # A remainder that still goes on has no branch of its own; its successors begin where that branch would
    # be.
    found = cursor.set_range(nodes[-1] + start[at : at + KEY_CHUNK] + LONGER * (len(start) - at > KEY_CHUNK))
    while True:
        entry, record = cursor.item() if found else (b"", b"")
        if entry[:NODE_ID_BYTES] != nodes[-1]:
            nodes.pop()
            left = chunks.pop()
            if not nodes:
                return
            found = cursor.set_range(nodes[-1] + left + LONGER + LONGER)
        elif len(record) == NODE_ID_BYTES:
            nodes.append(record)
            chunks.append(entry[NODE_ID_BYTES : NODE_ID_BYTES + KEY_CHUNK])
            found = cursor.set_range(record)
        else:
            key = b"".join(chunks) + entry[NODE_ID_BYTES:]
            if end is not None and key >= end:
                return
            yield key, record
            found = cursor.next()


def _descend(txn: ReadTxn, tables: Tables, key: bytes) -> list[tuple[Db, bytes]] | None:
    """(table, entry) from `current` down to where the record of a long key is or would be; None if a branch
    lacks."""
    path: list[tuple[Db, bytes]] = [(tables.current, key[:KEY_CHUNK] + LONGER)]
    at = KEY_CHUNK
    while True:
        node = txn.get(path[-1][1], None, path[-1][0])
        if node is None:
            return None
        if len(node) != NODE_ID_BYTES:
            raise SchemaError(f"current: a branch holds {len(node)} bytes, not a node id")
        if len(key) - at <= KEY_CHUNK:
            path.append((tables.current_ext, node + key[at:]))
            return path
        path.append((tables.current_ext, node + key[at : at + KEY_CHUNK] + LONGER))
        at += KEY_CHUNK


def _new_node_id(txn: WriteTxn, tables: Tables) -> bytes:
    raw = txn.get(Meta.NEXT_NODE_ID, None, tables.meta)
    node_id = 1 if raw is None else unpack_u64(raw)
    txn.put(Meta.NEXT_NODE_ID, pack_u64(node_id + 1), True, True, False, tables.meta)
    return pack_u64(node_id)
