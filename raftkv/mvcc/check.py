"""A self-check of the store: every invariant between its tables, from the bytes up.

For tests, and for whoever suspects a damaged file: it reads everything and costs accordingly. It shares no
code with the paths it checks where that would make both blind to the same mistake: keys of `current_ext` are
put together here anew, and counters are counted one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raftkv.backend.errors import SchemaError
from raftkv.backend.handles import ReadTxn
from raftkv.backend.schema import (
    KEY_CHUNK,
    LONGER_KEY_BYTES,
    NODE_ID_BYTES,
    Meta,
    Tables,
    pack_revision,
    short_key,
    unpack_current,
    unpack_node_key,
    unpack_revision,
    unpack_u64,
)
from raftkv.mvcc.blocks import COUNTERS
from raftkv.mvcc.frames import DELETE_TYPE, KeyState, delete_event, frame, parse_event
from raftkv.mvcc.userkeys import FIRST_KEY

if TYPE_CHECKING:
    from raftkv.mvcc.store import Store


def check(txn: ReadTxn, store: Store) -> list[str]:
    """What is wrong, one sentence each; empty when all is well. `txn` sees the newest write of `store`."""
    try:
        records = dict(_user_keys(txn, store.tables))
        history = _history(txn, store.tables)
        return [
            *_check_order(records),
            *_check_long_keys(txn, store.tables),
            *_check_events(txn, store.tables, records, history),
            *_check_history(records, history),
            *_check_blocks(txn, store, records),
            *_check_numbers(txn, store, records, history),
        ]
    except SchemaError as error:
        return [str(error)]


def _user_keys(txn: ReadTxn, tables: Tables) -> Iterator[tuple[bytes, bytes]]:
    """(user key, record) in the order of the tables. Reads the trie level by level, with a stack for its
    depth."""
    for key, value in txn.cursor(tables.current):
        if len(key) != LONGER_KEY_BYTES:
            yield key, value
            continue
        below = [(key[:KEY_CHUNK], entry) for entry in reversed(_children(txn, tables, value))]
        while below:
            prefix, (entry, inner) = below.pop()
            _, chunk, longer = unpack_node_key(entry)
            if longer:
                below.extend((prefix + chunk, e) for e in reversed(_children(txn, tables, inner)))
            else:
                yield prefix + chunk, inner


def _children(txn: ReadTxn, tables: Tables, node: bytes) -> list[tuple[bytes, bytes]]:
    cursor = txn.cursor(tables.current_ext)
    found = []
    if cursor.set_range(node):
        for entry, value in cursor.iternext():
            if entry[:NODE_ID_BYTES] != node:
                break
            found.append((entry, value))
    return found


def _history(txn: ReadTxn, tables: Tables) -> dict[bytes, list[bytes]]:
    """Short form of a key -> its superseded revisions, ascending."""
    history: dict[bytes, list[bytes]] = {}
    for short, revision in txn.cursor(tables.history):
        unpack_revision(revision)
        history.setdefault(short, []).append(revision)
    return history


def _check_order(records: dict[bytes, bytes]) -> Iterator[str]:
    keys = list(records)
    if keys != sorted(keys):
        yield "current: keys of any length are not in byte order"
    for key, raw in records.items():
        record = unpack_current(raw)
        numbers = (key, record.create, record.mod_main, record.version)
        if record.frame:
            state = parse_event(record.frame)
            if record.frame != frame(*numbers, state.value, record.lease):
                yield f"current: header and frame of {key[:40]!r} differ, or the frame is not canonical"


def _check_long_keys(txn: ReadTxn, tables: Tables) -> Iterator[str]:
    """Every node of `current_ext` hangs below exactly one branch, and every branch leads to a node with
    entries."""
    nodes = {entry[:NODE_ID_BYTES] for entry, _ in txn.cursor(tables.current_ext)}
    branches = [value for key, value in txn.cursor(tables.current) if len(key) == LONGER_KEY_BYTES]
    branches += [value for entry, value in txn.cursor(tables.current_ext) if unpack_node_key(entry)[2]]
    if sorted(branches) != sorted(nodes):
        yield "current_ext: branches and nodes do not match one to one"
    raw_next = txn.get(Meta.NEXT_NODE_ID, None, tables.meta)
    if nodes and (raw_next is None or max(nodes) >= raw_next):
        yield "current_ext: a node id is not below the next one to be given out"


def _check_events(
    txn: ReadTxn, tables: Tables, records: dict[bytes, bytes], history: dict[bytes, list[bytes]]
) -> Iterator[str]:
    """Every event is its key's newest revision or a superseded one, and every one of those has its event."""
    unseen = {(short, revision) for short, revisions in history.items() for revision in revisions}
    unseen |= {(short_key(key), record[: len(pack_revision(0, 0))]) for key, record in records.items()}
    for revision, event in txn.cursor(tables.events):
        main, _ = unpack_revision(revision)
        state = parse_event(event)
        if (short_key(state.key), revision) not in unseen:
            yield f"events: revision {main} of {state.key[:40]!r} is known neither to current nor to history"
        unseen.discard((short_key(state.key), revision))
        if event != _canonical(state, event[0] == DELETE_TYPE, main):
            yield f"events: the event at revision {main} is not canonical, or carries another revision"
        record = records.get(state.key)
        if record is None:
            yield f"events: {state.key[:40]!r} is not in current"
        elif (
            record.startswith(revision) and (event if event[0] != DELETE_TYPE else b"") != unpack_current(record).frame
        ):
            yield f"events: the newest event of {state.key[:40]!r} differs from its record"
    for short, revision in sorted(unseen):
        yield f"events: revision {unpack_revision(revision)[0]} of {short[:40]!r} is missing"


def _canonical(state: KeyState, is_delete: bool, main: int) -> bytes:
    if is_delete:
        return delete_event(state.key, main)
    return frame(state.key, state.create, main, state.version, state.value, state.lease)


def _check_history(records: dict[bytes, bytes], history: dict[bytes, list[bytes]]) -> Iterator[str]:
    newest = {short_key(key): record[: len(pack_revision(0, 0))] for key, record in records.items()}
    for short, revisions in sorted(history.items()):
        if short not in newest:
            yield f"history: {short[:40]!r} is not in current"
        elif revisions[-1] >= newest[short]:
            yield f"history: {short[:40]!r} has a superseded revision above its newest"


def _check_blocks(txn: ReadTxn, store: Store, records: dict[bytes, bytes]) -> Iterator[str]:
    blocks = store.blocks
    if blocks.starts[0] != FIRST_KEY or blocks.starts != sorted(set(blocks.starts)):
        yield "blocks: the first keys are not ascending from the least key"
    live, entries = [0] * len(blocks.starts), [0] * len(blocks.starts)
    for key, record in records.items():
        at = bisect_right(blocks.starts, key) - 1
        entries[at] += 1
        live[at] += unpack_current(record).frame != b""
    if (live, entries) != (blocks.live, blocks.entries):
        yield "blocks: the counters in memory are not what current holds"
    stored = {start: COUNTERS.unpack(raw) for start, raw in txn.cursor(store.tables.blocks)}
    expected = dict(zip(blocks.starts, zip(live, entries, strict=True), strict=True))
    if stored != expected and stored | {FIRST_KEY: (0, 0)} != expected:
        yield "blocks: the table differs from the counters in memory"


def _check_numbers(
    txn: ReadTxn, store: Store, records: dict[bytes, bytes], history: dict[bytes, list[bytes]]
) -> Iterator[str]:
    compaction = store.compaction
    newest = max((unpack_revision(revision)[0] for revision, _ in txn.cursor(store.tables.events)), default=0)
    if store.current_revision < max(1, newest, compaction.scheduled):
        yield f"current revision {store.current_revision} is below what the tables hold"
    if compaction.finished > compaction.scheduled:
        yield "compaction has finished what was not scheduled"
    scheduled = txn.get(Meta.COMPACT_SCHEDULED, None, store.tables.meta)
    if scheduled is not None and unpack_u64(scheduled) != compaction.scheduled:
        yield "the compact revision in memory is not the stored one"
    if compaction.pending:
        return
    # CMP-07: of what is at or below the compact revision, only a key's newest survives, and tombstones only
    # there.
    bound = pack_revision(max(compaction.finished, 0) + 1, 0)
    tombstones_from = pack_revision(max(compaction.finished, 0), 0)
    for key, record in records.items():
        old = [revision for revision in history.get(short_key(key), []) if revision < bound]
        if len(old) + (record < bound) > 1:
            yield f"compaction left superseded revisions of {key[:40]!r}"
        if record < tombstones_from and not unpack_current(record).frame:
            yield f"compaction left the tombstone of {key[:40]!r}"
