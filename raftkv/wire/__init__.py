"""raftkv.wire: the values of `raftkv.raft` as bytes, for WAL records and for streams between peers.

Owns the layouts and refuses every byte string that `encode_*` could not have written: WireError, never
another exception, never a silently shortened value. Knows neither files nor sockets: framing, checksums
and who may speak are the business of whoever carries the bytes.
"""

from .codec import (
    FORMAT_VERSION,
    MAX_ENTRY_SIZE_BYTES,
    WireError,
    decode_conf_state,
    decode_entries,
    decode_hard_state,
    decode_snapshot,
    encode_conf_state,
    encode_entries,
    encode_hard_state,
    encode_snapshot,
    entries_parts,
)
from .message import decode_message, encode_message, message_parts

__all__ = [
    "FORMAT_VERSION",
    "MAX_ENTRY_SIZE_BYTES",
    "WireError",
    "decode_conf_state",
    "decode_entries",
    "decode_hard_state",
    "decode_message",
    "decode_snapshot",
    "encode_conf_state",
    "encode_entries",
    "encode_hard_state",
    "encode_message",
    "encode_snapshot",
    "entries_parts",
    "message_parts",
]
