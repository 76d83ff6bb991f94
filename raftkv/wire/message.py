"""A Raft message as bytes, for the streams between peers. Big endian.

    version u8 | type u8 | flags u8 | to u64 | from u64 | term u64 | index u64 | log_term u64
    | commit u64 | hint u64 | round u64 | state_index u64 | state_hash u64
    | context length u32 | snapshot length u32 | context | snapshot | entries: the rest, or nothing

flags: 1 reject, 2 transfer, 4 a snapshot is present, 8 entries are present. Others must be 0. One
fixed head for all kinds costs up to 90 bytes per message and saves a layout per kind; messages that
come often carry entries, in batches, beside which it does not show.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from raftkv.raft import Entry, Message, MessageType

from .codec import (
    FORMAT_VERSION,
    WireError,
    check_sequence,
    check_version,
    decode_entries_at,
    decode_snapshot,
    encode_snapshot,
    entries_parts,
)

_HEAD: Final = struct.Struct(">BBB10QII")
_TYPES: Final = {int(kind): kind for kind in MessageType}
_REJECT: Final = 1
_TRANSFER: Final = 2
_SNAPSHOT: Final = 4
_ENTRIES: Final = 8
_ALL_FLAGS: Final = _REJECT | _TRANSFER | _SNAPSHOT | _ENTRIES


def message_parts(message: Message) -> list[bytes]:
    """For writev or join; the data of entries is not copied."""
    snapshot = b"" if message.snapshot is None else encode_snapshot(message.snapshot)
    flags = (
        (_REJECT if message.reject else 0)
        | (_TRANSFER if message.transfer else 0)
        | (_SNAPSHOT if message.snapshot is not None else 0)
        | (_ENTRIES if message.entries else 0)
    )
    head = _HEAD.pack(
        FORMAT_VERSION,
        message.type,
        flags,
        message.to,
        message.sender,
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.hint,
        message.round,
        message.state_index,
        message.state_hash,
        len(message.context),
        len(snapshot),
    )
    parts = [head]
    if message.context:
        parts.append(message.context)
    if snapshot:
        parts.append(snapshot)
    if message.entries:
        parts += entries_parts(message.entries)
    return parts


def encode_message(message: Message) -> bytes:
    return b"".join(message_parts(message))


def decode_message(data: bytes) -> Message:
    """Raises WireError on anything encode_message does not write.

    What it accepts may still be nonsense as Raft; `RawNode.step` judges that.
    """
    if len(data) < _HEAD.size:
        raise WireError(f"message of {len(data)} bytes, the head alone has {_HEAD.size}")
    (
        version,
        kind,
        flags,
        to,
        sender,
        term,
        index,
        log_term,
        commit,
        hint,
        round_,
        state_index,
        state_hash,
        context_size,
        snapshot_size,
    ) = _HEAD.unpack_from(data)
    check_version(version, "message")
    if kind not in _TYPES or flags & ~_ALL_FLAGS:
        raise WireError(f"message of unknown type {kind} or flags {flags:#x}")
    context_end = _HEAD.size + context_size
    snapshot_end = context_end + snapshot_size
    if snapshot_end > len(data) or bool(snapshot_size) != bool(flags & _SNAPSHOT):
        raise WireError("a message's context or snapshot is cut off or unannounced")
    return Message(
        _TYPES[kind],
        to,
        sender,
        term,
        index,
        log_term,
        _entries(data, snapshot_end, bool(flags & _ENTRIES), _TYPES[kind]),
        commit,
        bool(flags & _REJECT),
        hint,
        round_,
        bool(flags & _TRANSFER),
        data[_HEAD.size : context_end],
        decode_snapshot(data[context_end:snapshot_end]) if snapshot_size else None,
        state_index,
        state_hash,
    )


def _entries(data: bytes, offset: int, present: bool, kind: MessageType) -> Sequence[Entry]:
    entries: Sequence[Entry] = ()
    if present:
        entries, offset = decode_entries_at(data, offset)
        if not entries:
            raise WireError("entries announced, none there")
        if kind is not MessageType.PROP:  # those of a proposal have no position yet
            check_sequence(entries)
    if offset != len(data):
        raise WireError(f"{len(data) - offset} bytes behind the message")
    return entries
