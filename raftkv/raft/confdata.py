"""The bytes of a ConfChange inside a log entry.

Lives in the core, not in `wire`, because the leader must look into proposals: they pass through it
from followers, and it lets only one change at a time into the log (thesis §4.1).

    version u8 = 1 | transition u8 | count u16 | count x (type u8, node id u64) | context: the rest

Big endian. No bytes at all stand for the change that leaves a joint configuration.
"""

from __future__ import annotations

import struct
from typing import Final

from .errors import BadConfChange
from .types import ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BBH")
_SINGLE: Final = struct.Struct(">BQ")
MAX_CHANGES: Final = 1024
"""Far above any cluster; keeps a hostile count from meaning anything."""


def encode_conf_change(change: ConfChange) -> bytes:
    """Raises BadConfChange when there are more than MAX_CHANGES changes."""
    if change == ConfChange():
        return b""
    if len(change.changes) > MAX_CHANGES:
        raise BadConfChange(f"{len(change.changes)} changes at once, at most {MAX_CHANGES}")
    parts = [_HEAD.pack(_VERSION, change.transition, len(change.changes))]
    parts.extend(_SINGLE.pack(single.type, single.node_id) for single in change.changes)
    parts.append(change.context)
    return b"".join(parts)


def decode_conf_change(data: bytes) -> ConfChange:
    """Raises BadConfChange on anything encode_conf_change does not write."""
    if not data:
        return ConfChange()
    try:
        version, transition, count = _HEAD.unpack_from(data)
        if version != _VERSION or count > MAX_CHANGES:
            raise BadConfChange(f"version {version}, {count} changes: not readable here")
        end = _HEAD.size + count * _SINGLE.size
        if end > len(data):
            raise BadConfChange(f"{count} changes do not fit into {len(data)} bytes")
        changes = tuple(
            ConfChangeSingle(ConfChangeType(kind), node_id)
            for kind, node_id in _SINGLE.iter_unpack(data[_HEAD.size : end])
        )
        return ConfChange(changes, ConfChangeTransition(transition), bytes(data[end:]))
    except (struct.error, ValueError) as e:
        raise BadConfChange(f"not a configuration change: {e}") from e
