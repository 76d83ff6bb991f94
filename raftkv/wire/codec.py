"""Entries, hard state, configuration and snapshot descriptor as bytes. Big endian throughout.

    hard state   version u8 | term u64 | vote u64 | commit u64
    entries      version u8 | count u32 | count x entry
      entry      term u64 | index u64 | type u8 | length u32 | data
    conf state   version u8 | auto_leave u8 | 4 x count u16 | the ids, u64 each:
                 voters, learners, voters_outgoing, learners_next
    snapshot     version u8 | index u64 | term u64 | conf length u32 | conf state | data: the rest

Each value carries its version, since each may be read back on its own, years later, from a WAL. A
configuration change is not here: it is the data of an entry (`raftkv.raft.confdata`).

Encoding returns parts wherever entries are involved, so that their data goes to writev or join
without having been copied before. Decoding slices; give it bytes, since entries outlive the buffer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from raftkv.raft import ENTRY_HEADER_SIZE_BYTES, ConfState, Entry, EntryType, HardState, Snapshot

FORMAT_VERSION: Final = 1
MAX_ENTRY_SIZE_BYTES: Final = 1 << 30
"""More than any batch of requests; a length beyond is damage, not data."""

_HARD_STATE: Final = struct.Struct(">BQQQ")
_ENTRIES: Final = struct.Struct(">BI")
_ENTRY: Final = struct.Struct(">QQBI")
_CONF: Final = struct.Struct(">BBHHHH")
_SNAPSHOT: Final = struct.Struct(">BQQI")
_TYPES: Final = {int(kind): kind for kind in EntryType}

assert _ENTRY.size == ENTRY_HEADER_SIZE_BYTES, "the core's size limits count what is written here"


class WireError(ValueError):
    """These bytes are not what an encoder of this version writes."""


def check_version(found: int, what: str) -> None:
    if found != FORMAT_VERSION:
        raise WireError(f"{what} of format {found}, readable here: {FORMAT_VERSION}")


# -- hard state ------------------------------------------------------------------------------------


def encode_hard_state(hard_state: HardState) -> bytes:
    """25 bytes."""
    return _HARD_STATE.pack(FORMAT_VERSION, hard_state.term, hard_state.vote, hard_state.commit)


def decode_hard_state(data: bytes) -> HardState:
    """Raises WireError."""
    if len(data) != _HARD_STATE.size:
        raise WireError(f"hard state of {len(data)} bytes instead of {_HARD_STATE.size}")
    version, term, vote, commit = _HARD_STATE.unpack(data)
    check_version(version, "hard state")
    return HardState(term, vote, commit)


# -- entries -----------------------------------------------------------------------------------------


def entries_parts(entries: Sequence[Entry]) -> list[bytes]:
    """For writev or join: the data of each entry is the entry's own bytes object."""
    pack = _ENTRY.pack
    parts = [_ENTRIES.pack(FORMAT_VERSION, len(entries))]
    for entry in entries:
        data = entry.data
        parts.append(pack(entry.term, entry.index, entry.type, len(data)))
        if data:
            parts.append(data)
    return parts


def encode_entries(entries: Sequence[Entry]) -> bytes:
    return b"".join(entries_parts(entries))


def decode_entries(data: bytes) -> list[Entry]:
    """All of data must be entries, in consecutive order and with terms that never decrease.

    Raises WireError.
    """
    entries, end = decode_entries_at(data, 0)
    if end != len(data):
        raise WireError(f"{len(data) - end} bytes behind the last entry")
    check_sequence(entries)
    return entries


def decode_entries_at(data: bytes, offset: int) -> tuple[list[Entry], int]:
    """The entries that begin at offset, and where they end. Raises WireError."""
    size = len(data)
    if offset + _ENTRIES.size > size:
        raise WireError("no room for the number of entries")
    version, count = _ENTRIES.unpack_from(data, offset)
    check_version(version, "entries")
    offset += _ENTRIES.size
    if count * ENTRY_HEADER_SIZE_BYTES > size - offset:
        raise WireError(f"{count} entries in {size - offset} bytes")
    entries: list[Entry] = []
    unpack, types = _ENTRY.unpack_from, _TYPES
    for _ in range(count):
        begin = offset + ENTRY_HEADER_SIZE_BYTES
        if begin > size:
            raise WireError("an entry's header is cut off")
        term, index, kind, length = unpack(data, offset)
        offset = begin + length
        if length > MAX_ENTRY_SIZE_BYTES or offset > size:
            raise WireError(f"entry {index} has {length} bytes, {size - begin} are there")
        if kind not in types:
            raise WireError(f"entry {index} is of unknown type {kind}")
        entries.append(Entry(term, index, types[kind], data[begin:offset]))
    return entries, offset


def check_sequence(entries: Sequence[Entry]) -> None:
    """Positions of one log: no gap, no term smaller than the one before. Raises WireError."""
    if not entries:
        return
    index, term = entries[0].index - 1, 1
    for entry in entries:
        index += 1
        if entry.index != index or entry.term < term:
            raise WireError(f"entry {entry.index}@{entry.term} where {index} of term {term} or later belongs")
        term = entry.term


# -- configuration -------------------------------------------------------------------------------------


def encode_conf_state(conf: ConfState) -> bytes:
    """12 bytes and 8 per id. At most 65535 ids of each kind."""
    groups = conf[:4]
    ids = [node_id for group in groups for node_id in group]
    head = _CONF.pack(FORMAT_VERSION, conf.auto_leave, *map(len, groups))
    return head + struct.pack(f">{len(ids)}Q", *ids)


def decode_conf_state(data: bytes) -> ConfState:
    """Raises WireError. Whether the sets make sense together is for `raftkv.raft` to judge."""
    if len(data) < _CONF.size:
        raise WireError(f"configuration of {len(data)} bytes")
    version, auto_leave, *counts = _CONF.unpack_from(data)
    check_version(version, "configuration")
    total = sum(counts)
    if auto_leave > 1 or len(data) != _CONF.size + 8 * total:
        raise WireError(f"configuration of {total} ids in {len(data)} bytes, flag {auto_leave}")
    ids = struct.unpack_from(f">{total}Q", data, _CONF.size)
    groups = []
    begin = 0
    for count in counts:
        group = ids[begin : begin + count]
        if any(a >= b for a, b in pairwise(group)) or 0 in group:
            raise WireError("ids of a configuration are not a sorted set")
        groups.append(group)
        begin += count
    voters, learners, outgoing, learners_next = groups
    return ConfState(voters, learners, outgoing, learners_next, bool(auto_leave))


# -- snapshot --------------------------------------------------------------------------------------------


def encode_snapshot(snapshot: Snapshot) -> bytes:
    conf = encode_conf_state(snapshot.conf_state)
    head = _SNAPSHOT.pack(FORMAT_VERSION, snapshot.index, snapshot.term, len(conf))
    return b"".join((head, conf, snapshot.data))


def decode_snapshot(data: bytes) -> Snapshot:
    """Raises WireError."""
    if len(data) < _SNAPSHOT.size:
        raise WireError(f"snapshot of {len(data)} bytes")
    version, index, term, conf_size = _SNAPSHOT.unpack_from(data)
    check_version(version, "snapshot")
    end = _SNAPSHOT.size + conf_size
    if end > len(data):
        raise WireError("a snapshot's configuration is cut off")
    conf = decode_conf_state(data[_SNAPSHOT.size : end])
    return Snapshot(index, term, conf, data[end:])
